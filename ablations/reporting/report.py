"""The report of a study: a folder with README.md, figures, and every table as CSV and LaTeX."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ablations.errors import UsageError
from ablations.reporting import balance, run_tables, tables
from ablations.reporting.claims_table import findings_table
from ablations.reporting.compute import compute_frame, compute_table
from ablations.reporting.evaluation_analysis import EvaluationAnalysis, analyse_evaluations
from ablations.reporting.evaluation_sections import evaluation_facts, evaluation_frames
from ablations.reporting.facts import facts, facts_frame
from ablations.reporting.figures.evaluations import evaluation_figures
from ablations.reporting.figures.figure import ReportFigure
from ablations.reporting.figures.gallery import report_figures
from ablations.reporting.figures.mistakes import arms_figure
from ablations.reporting.figures.sensitivity import sensitivity_figures
from ablations.reporting.findings import claims
from ablations.reporting.html import page
from ablations.reporting.mistakes import find_mistakes
from ablations.reporting.paper import FILES as PAPER
from ablations.reporting.paper import paper
from ablations.reporting.publish import published
from ablations.reporting.rendering import render
from ablations.reporting.tables import Table
from ablations.reporting.tuning.analysis import TuningAnalysis, TuningSources, analyse_tuning
from ablations.reporting.tuning.sections import choices_table, tuning_facts, tuning_frames
from ablations.reporting.tuning.untuned_text import untuned_table
from ablations.statistics import Analysis, Outcomes, analyse, arm_means

if TYPE_CHECKING:
    from ablations.evaluation import Evaluations
    from ablations.reporting.measured import Measured
    from ablations.storage import Results

OWNED = ("README.md", "report.html", "figures", "tables", *PAPER)
FORMATS = ("markdown", "html")
FURTHER = {"report.html": "--format html"} | dict.fromkeys(PAPER, "--paper")
"""Files that are written if asked for, with the option of `vitab report` that does."""


@dataclass(frozen=True)
class Report:
    """The contents of a report: the text of README.md, the files of tables/ by name, the figures."""

    text: str
    tables: dict[str, str]
    figures: list[ReportFigure]
    analysis: Analysis
    evaluated: EvaluationAnalysis | None = None
    tuned: TuningAnalysis | None = None


def compose(
    results: Results,
    evaluations: Evaluations | None = None,
    about: Measured | None = None,
    tuning: TuningSources | None = None,
) -> Report:
    """Return the report of a study; the same runs give the same bytes.

    It is about the test accuracy, with a section on the `evaluations`, or `about` a metric of these. That on a tuned
    study has a section on its trials, with what `tuning_sources` found. Raises UsageError if no run has finished, or
    none has the metric.
    """
    if results.runs.empty:
        raise UsageError(f"study {results.plan.study!r} has no finished run to report; run it first")
    analysis = analyse(results, about.measure, about.values) if about else analyse(results)
    if not np.isfinite(analysis.outcomes.values).any():
        raise UsageError(
            f"no finished run of study {results.plan.study!r} has a value of {analysis.outcomes.measure.name}"
        )
    found = None if about else analyse_evaluations(results, evaluations)
    tuned = None if about else analyse_tuning(results, analysis, tuning)
    mistakes = None if about else find_mistakes(results, analysis.outcomes)
    drawn = [*report_figures(results, analysis), *([arms_figure(mistakes)] if mistakes else [])]
    of_protocols = evaluation_figures(results, found) if found else {}
    of_trials = sensitivity_figures(tuned) if tuned else []
    study = facts(results, analysis)
    study |= {name: value for figure in (*drawn, *of_trials) for name, value in figure.facts.items()}
    exact = ("runs", "evaluations", "trials")
    framed = frames(results, analysis, about)
    if tuned:
        study |= tuning_facts(results.plan, tuned)
        framed |= tuning_frames(results, tuned)
    if found and evaluations:
        study |= evaluation_facts(found)
        framed |= {name: each for name, each in evaluation_frames(results, evaluations, found).items() if len(each)}
    if mistakes:
        framed["mistakes"] = mistakes.frame()
    made = {f"{name}.csv": csv_text(frame, exact=name in exact) for name, frame in framed.items()}
    made["study.csv"] = csv_text(facts_frame(study))
    shown = shown_tables(results, analysis, tuned)
    made |= {
        f"{name}.tex": "\n".join(table.latex() for table in found.values()) for name, found in shown.items() if found
    }
    text = render(results, analysis, drawn, shown, study, about, found, of_protocols, tuned, of_trials)
    everything = [*drawn, *of_trials, *(figure for figures in of_protocols.values() for figure in figures)]
    return Report(text, made, everything, analysis, found, tuned)


def shown_tables(
    results: Results, analysis: Analysis, tuned: TuningAnalysis | None = None
) -> dict[str, dict[str, Table]]:
    """Return the tables of README.md, by the name of their CSV and the axis they are about."""
    outcomes = analysis.outcomes
    pairs = {"": tables.contrasts_table(analysis.pairs)} if len(outcomes.arms) > 2 else {}
    scores = analysis.balanced_scores
    return {
        "accuracy" if outcomes.measure.is_accuracy else "values": {"": tables.accuracy_table(analysis)},
        "arms": {"": tables.arms_table(outcomes)} if _several(outcomes) else {},
        "balanced": {"": balance.balanced_table(outcomes, scores)} if scores else {},
        "contrasts": {"": tables.contrasts_table(analysis.contrasts)} if analysis.contrasts else {},
        "pairs": pairs,
        "other_images": {"": tables.other_images_table(analysis.other_images)} if analysis.other_images else {},
        "divergence": {"": tables.divergence_table(outcomes.axis, analysis.divergences)}
        if analysis.divergences
        else {},
        "contrasts_without_diverged": _without_diverged(analysis),
        "interactions": {axis: tables.interactions_table(found) for axis, found in analysis.interactions.items()},
        "main_effects": {axis: tables.contrasts_table(found) for axis, found in analysis.main_effects.items()},
        "ranks": {"": tables.ranks_table(analysis.ranks)} if analysis.ranks else {},
        "rounds": {"": tables.rounds_table(analysis.rounds)}
        if analysis.rounds and outcomes.measure.is_accuracy
        else {},
        "compute": {"": compute_table(results.plan)} if results.plan.match else {},
        "cost": {"": run_tables.cost_table(results, outcomes)},
        "choices": {"": choices_table(tuned)} if tuned else {},
        "untuned": {"": untuned_table(tuned)} if tuned and tuned.compares_leads else {},
    }


def report_folder(results: Results, out: Path, about: Measured | None = None) -> Path:
    """Return out/<study>/, or out/<study>/metrics/<protocol>-<metric>/ for a report about a metric."""
    folder = Path(out) / results.plan.study
    return folder / "metrics" / about.folder if about else folder


def write_report(
    results: Results,
    out: Path,
    format: str = "markdown",
    *,
    for_paper: bool = False,
    evaluations: Evaluations | None = None,
    about: Measured | None = None,
    tuning: TuningSources | None = None,
) -> Path:
    """Write the report of a study to its `report_folder` and return that; "html" adds report.html, a single file.

    `for_paper` adds paper.md and paper.tex. `evaluations`, `about` and `tuning` as in `compose`.

    An earlier report is replaced atomically; other files in the folder are kept. Raises UsageError if `out` cannot be
    written (before any work), or if no run has finished.
    """
    study = results.plan.study
    if results.runs.empty:
        raise UsageError(f"study {study!r} has no finished run to report; run it first")
    folder = report_folder(results, out, about)
    with published(folder, OWNED) as new:
        report = compose(results, evaluations, about, tuning)
        (new / "figures").mkdir()
        for figure in report.figures:
            figure.save(new / "figures")
        (new / "tables").mkdir()
        for name, content in report.tables.items():
            (new / "tables" / name).write_text(content, encoding="utf-8", newline="")
        (new / "README.md").write_text(report.text, encoding="utf-8", newline="\n")
        if format == "html":
            tables = {f"tables/{name}": content.encode() for name, content in report.tables.items()}
            (new / "report.html").write_text(page(report.text, pngs(new) | tables), encoding="utf-8", newline="\n")
        if for_paper:
            for name, text in paper(results, report.analysis, report.evaluated, report.tuned).files().items():
                (new / name).write_text(text, encoding="utf-8", newline="\n")
    return folder


def pngs(folder: Path) -> dict[str, bytes]:
    """Return the PNG figures of a report by their path in README.md."""
    return {f"figures/{path.name}": path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))}


def csv_text(frame: pd.DataFrame, *, exact: bool = False) -> str:
    """Return a table as the CSV file of a report: LF, six digits, or as many as give the same number when read again.

    Carriage returns, which the CSV writer does not quote, and bytes that are no text are written as escapes.
    """
    text = frame.to_csv(index=False, float_format=None if exact else "%.6g", lineterminator="\n")
    return str(text).replace("\r", "\\r").encode(errors="backslashreplace").decode()


def frames(results: Results, analysis: Analysis, about: Measured | None = None) -> dict[str, pd.DataFrame]:
    """Return every table of the report that has rows, by file name without suffix."""
    tested = [interaction for found in analysis.interactions.values() for interaction in found]
    made = {
        "claims": findings_table(claims(analysis)),
        "accuracy" if analysis.outcomes.measure.is_accuracy else "values": analysis.cell_means,
        "arms": arm_means(analysis.outcomes) if _several(analysis.outcomes) else pd.DataFrame(),
        "balanced": balance.balanced_frame(analysis.outcomes, analysis.balanced_scores),
        "contrasts": tables.contrasts_frame(analysis.contrasts),
        "pairs": tables.contrasts_frame(analysis.pairs),
        "other_images": pd.DataFrame(map(asdict, analysis.other_images)),
        "divergence": tables.divergence_frame(analysis.divergences),
        "contrasts_without_diverged": tables.contrasts_frame(analysis.contrasts_without_diverged),
        "interactions": tables.interactions_frame(tested),
        "main_effects": tables.main_effects_frame(analysis.main_effects),
        "ranks": tables.ranks_frame(analysis.ranks),
        "rounds": tables.rounds_frame(analysis.rounds) if about is None else pd.DataFrame(),
        "compute": compute_frame(results.plan),
        "cost": run_tables.cost_frame(results, analysis.outcomes),
        "runs": run_tables.runs_frame(results, about),
        "missing": run_tables.missing_frame(results),
        "environments": run_tables.environments_frame(results),
    }
    return {name: frame for name, frame in made.items() if len(frame)}


def _without_diverged(analysis: Analysis) -> dict[str, Table]:
    found = analysis.contrasts_without_diverged
    return {"": tables.contrasts_table(found)} if found else {}


def _several(outcomes: Outcomes) -> bool:
    """Return whether there are several arms and several settings."""
    return len(outcomes.arms) > 1 and len(outcomes.cells) > 1
