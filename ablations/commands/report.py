"""`vitab report`: write or check the report of a study."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ablations.commands.base import FAILED, echo, runs_option, stop
from ablations.commands.options import Mixed, Runs
from ablations.errors import UsageError

Metric = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="accuracy, or a metric of an evaluation protocol, such as calibration:nll (see `vitab protocols`).",
    ),
]


def report(
    study: Annotated[str | None, typer.Argument(help="Name of the study. Default: the last one planned.")] = None,
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the reports.")] = Path("reports"),
    format: Annotated[
        str, typer.Option(metavar="markdown|html", help="html also writes report.html, a single self-contained file.")
    ] = "markdown",
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Also write paper.md and paper.tex: methods, results, a table, threats to validity, checklist.",
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; check that the report matches the runs.")
    ] = False,
    metric: Metric = "accuracy",
    mixed: Mixed = False,
) -> None:
    """Write the report of a study.

    The report is DIR/STUDY/README.md, with figures/ and tables/ (CSV and LaTeX). It is about the test accuracy, with
    sections on the trials of a tuned study and on what evaluation protocols measured. With --metric, a report about
    that metric, by the same statistics, is written to DIR/STUDY/metrics/PROTOCOL-METRIC/. With --check, compare the
    report with the one generated from the runs, print every difference, and exit with code 1 if there is any.
    """
    from ablations.evaluation import load_evaluations
    from ablations.evaluation.registry import protocol_as_given
    from ablations.reporting.evaluation_sections import outdated_note
    from ablations.reporting.measured import find_measured
    from ablations.reporting.tuning.analysis import tuning_sources
    from ablations.storage import Store, load_results, require_one_version

    store = Store(runs)
    name = last_study(store) if study is None else study
    results = load_results(store, name)
    if not mixed:
        require_one_version(results)
    evaluations = load_evaluations(store, results.plan)
    about = find_measured(evaluations, name, metric, runs_option(runs))
    tuning = tuning_sources(store, results)
    renewed = list(map(protocol_as_given, evaluations.outdated_protocols))
    if note := outdated_note(evaluations.outdated, name, renewed, runs_option(runs)):
        echo(f"note: {note}", err=True)
    from ablations.reporting.report import FORMATS, FURTHER, report_folder, write_report

    if check:
        from ablations.reporting.check import differences

        options = runs_option(runs) + ("" if out == Path("reports") else f" --out {shlex.quote(str(out))}")
        found = differences(results, out, evaluations, about, tuning, options=options)
        folder = report_folder(results, out, about)
        for line in found:
            echo(line)
        if found:
            again = f"vitab report {name}" + (f" --metric {shlex.quote(about.measure.name)}" if about else "")
            again += options
            stop(f"{folder} does not match the runs in {runs}; to rewrite it, run: {again}", FAILED)
        echo(f"{folder} matches its {len(results.runs)} runs")
        return

    if format not in FORMATS:
        raise UsageError(f"--format must be {' or '.join(FORMATS)}, got {format!r}")
    folder = report_folder(results, out, about)
    before = [name for name in FURTHER if (folder / name).exists()]
    written = write_report(results, out, format, for_paper=paper, evaluations=evaluations, about=about, tuning=tuning)
    if results.missing:
        echo(f"note: {len(results.missing)} of {len(results.plan.keys)} runs are not finished", err=True)
    echo(f"wrote {written / ('report.html' if format == 'html' else 'README.md') if written.is_dir() else written}")
    for option in dict.fromkeys(FURTHER.values()):
        if gone := [name for name in before if FURTHER[name] == option and not (folder / name).exists()]:
            again = f"to write {'it' if len(gone) == 1 else 'them'} again, add {option}"
            echo(f"note: removed {' and '.join(gone)}, which showed an earlier report; {again}", err=True)


def last_study(store: Any) -> str:
    for name in store.studies():
        if any(map(store.done, store.read_study(name).keys)):
            return str(name)
    raise UsageError(f"no study has a finished run; {store.describe_studies()}")
