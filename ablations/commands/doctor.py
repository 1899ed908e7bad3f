"""`vitab doctor`: check this machine and its installation."""

import typer

from ablations.commands.base import FAILED, stop


def doctor() -> None:
    """Check the installation and the hardware.

    Prints the versions of Python and packages, the processor, memory and GPUs, and how to install what is missing.
    """
    from ablations.machine.doctor import diagnose

    report = diagnose()
    for line in report.lines:
        typer.echo(line)
    if report.missing:
        stop(f"missing: {', '.join(report.missing)}; install with: {report.remedy}", FAILED)
