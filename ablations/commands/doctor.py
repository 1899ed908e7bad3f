"""`vitab doctor`: check this machine and its installation."""

import typer

from ablations.commands.base import FAILED, stop


def doctor() -> None:
    """Check Python, packages, processor, memory and GPUs, and print how to install what is missing."""
    from ablations.machine.doctor import diagnose

    report = diagnose()
    for line in report.lines:
        typer.echo(line)
    if report.missing:
        stop(f"missing: {', '.join(report.missing)}; install with: {report.remedy}", FAILED)
