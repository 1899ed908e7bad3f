"""Commands on what was found: the report of a study, and comparisons of two arms or two studies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ablations.commands.base import FAILED, Mixed, Runs, stop
from ablations.errors import UsageError


def report(
    study: Annotated[str | None, typer.Argument(help="Name of the study; default: the last one run.")] = None,
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of reports.")] = Path("reports"),
    format: Annotated[
        str, typer.Option(metavar="markdown|html", help="html: also report.html, one file with everything inside.")
    ] = "markdown",
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say what in the report no longer follows from the runs.")
    ] = False,
    mixed: Mixed = False,
) -> None:
    """Write a study's report: DIR/<study>/README.md with figures/ and tables/ (CSV, LaTeX).

    With --check the exit code is 1 when the report there is not the one that follows from the runs, with a line for
    every difference.
    """
    from ablations.reporting.mixture import refuse_mixed
    from ablations.store import Store, load_results

    store = Store(runs)
    name = _last_study(store) if study is None else study
    results = load_results(store, name)
    if not mixed:
        refuse_mixed(results)
    if check:
        from ablations.reporting.check import differences

        found = differences(results, out)
        for line in found:
            typer.echo(line)
        if found:
            stop(f"{out / name} does not follow from {runs}; vitab report {name} writes it anew", FAILED)
        typer.echo(f"{out / name} follows from its {len(results.runs)} runs")
        return
    from ablations.report import FORMATS, write_report

    if format not in FORMATS:
        raise UsageError(f"--format must be {' or '.join(FORMATS)}, got {format!r}")
    written = write_report(results, out, format)
    if results.missing:
        typer.echo(f"note: {len(results.missing)} of {len(results.plan.keys)} runs are not finished", err=True)
    typer.echo(
        f"wrote {written / ('report.html' if format == 'html' else 'README.md') if written.is_dir() else written}"
    )


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="An arm (rope, depth=4) or a study.")],
    second: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Study of the arms; default: the last.")] = None,
    runs: Runs = Path("runs"),
    mixed: Mixed = False,
) -> None:
    """Compare two arms of a study, or two studies, over pairs of runs and model by model."""
    from ablations.reporting.compare import compare as compared
    from ablations.store import Store

    store = Store(runs)
    typer.echo(compared(store, first, second, study=study, last=lambda: _last_study(store), mixed=mixed), nl=False)


def _last_study(store: Any) -> str:
    for name in store.studies():
        if any(map(store.done, store.read_study(name).keys)):
            return str(name)
    raise UsageError(f"no study has a finished run; {store.describe_studies()}")
