"""The report of a study: a folder with README.md, figures, and every table as CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ablations.config import count, level_text
from ablations.config.safe_text import code, code_block, markdown
from ablations.errors import UsageError
from ablations.reporting import run_tables, tables
from ablations.reporting.claims_table import findings_table
from ablations.reporting.dataset_text import images
from ablations.reporting.facts import diverged, facts, facts_frame, failed
from ablations.reporting.figures.figure import ReportFigure
from ablations.reporting.figures.gallery import report_figures
from ablations.reporting.findings import claims
from ablations.reporting.first_screen import verdict_legend, verdict_table
from ablations.reporting.formatting import listed, p_phrase
from ablations.reporting.html import page
from ablations.reporting.method import described_positions, method
from ablations.reporting.paper import FILES as PAPER
from ablations.reporting.paper import paper
from ablations.reporting.publish import published
from ablations.reporting.sequential_text import decision_state, procedure, runs_saved
from ablations.reporting.tables import Table
from ablations.reporting.wording import axes_text, sentence
from ablations.statistics import ALPHA, Analysis, Contrast, Outcomes, analyse, arm_means, varying_axes
from ablations.storage import version_conflicts

if TYPE_CHECKING:
    from ablations.storage import Results

OWNED = ("README.md", "report.html", "figures", "tables", *PAPER)
FORMATS = ("markdown", "html")
DIGESTS = {
    "data_sha256": "fingerprint of the data (SHA-256)",
    "vit_sha256": "code of the model (SHA-256)",
    "training_sha256": "code of the training (SHA-256)",
    "code model": "code of the model (SHA-256)",
    "code training": "code of the training (SHA-256)",
}
"""Labels of the checksums in the environment of a run."""


@dataclass(frozen=True)
class Report:
    """The contents of a report: the text of README.md, the files of tables/ by name, the figures."""

    text: str
    tables: dict[str, str]
    figures: list[ReportFigure]
    analysis: Analysis


def compose(results: Results) -> Report:
    """Return the report of a study; the same runs give the same bytes.

    Raises UsageError if no run has finished.
    """
    if results.runs.empty:
        raise UsageError(f"study {results.plan.study!r} has no finished run to report; run it first")
    analysis = analyse(results)
    drawn = report_figures(results, analysis)
    study = facts(results, analysis) | {name: value for figure in drawn for name, value in figure.facts.items()}
    made = {f"{name}.csv": csv_text(frame, exact=name == "runs") for name, frame in frames(results, analysis).items()}
    made["study.csv"] = csv_text(facts_frame(study))
    shown = shown_tables(results, analysis)
    made |= {
        f"{name}.tex": "\n".join(table.latex() for table in found.values()) for name, found in shown.items() if found
    }
    return Report(render(results, analysis, drawn, shown, study), made, drawn, analysis)


def shown_tables(results: Results, analysis: Analysis) -> dict[str, dict[str, Table]]:
    """Return the tables of README.md, by the name of their CSV and the axis they are about."""
    outcomes = analysis.outcomes
    pairs = {"": tables.contrasts_table(analysis.pairs)} if len(outcomes.arms) > 2 else {}
    return {
        "accuracy": {"": tables.accuracy_table(analysis)},
        "arms": {"": tables.arms_table(outcomes)} if _several(outcomes) else {},
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
        "rounds": {"": tables.rounds_table(analysis.rounds)} if analysis.rounds else {},
        "cost": {"": run_tables.cost_table(results, outcomes)},
    }


def write_report(results: Results, out: Path, format: str = "markdown", *, for_paper: bool = False) -> Path:
    """Write the report of a study to out/<study>/ and return that folder; "html" adds report.html, a single file.

    `for_paper` adds paper.md and paper.tex.

    An earlier report is replaced atomically; other files in the folder are kept. Raises UsageError if `out` cannot be
    written (before any work), or if no run has finished.
    """
    study = results.plan.study
    if results.runs.empty:
        raise UsageError(f"study {study!r} has no finished run to report; run it first")
    folder = Path(out) / study
    with published(folder, OWNED) as new:
        report = compose(results)
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
            for name, text in paper(results, report.analysis).files().items():
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


def frames(results: Results, analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return every table of the report that has rows, by file name without suffix."""
    tested = [interaction for found in analysis.interactions.values() for interaction in found]
    made = {
        "claims": findings_table(claims(analysis)),
        "accuracy": analysis.cell_means,
        "arms": arm_means(analysis.outcomes) if _several(analysis.outcomes) else pd.DataFrame(),
        "contrasts": tables.contrasts_frame(analysis.contrasts),
        "pairs": tables.contrasts_frame(analysis.pairs),
        "other_images": pd.DataFrame(map(asdict, analysis.other_images)),
        "divergence": tables.divergence_frame(analysis.divergences),
        "contrasts_without_diverged": tables.contrasts_frame(analysis.contrasts_without_diverged),
        "interactions": tables.interactions_frame(tested),
        "main_effects": tables.main_effects_frame(analysis.main_effects),
        "ranks": tables.ranks_frame(analysis.ranks),
        "rounds": tables.rounds_frame(analysis.rounds),
        "cost": run_tables.cost_frame(results, analysis.outcomes),
        "runs": run_tables.runs_frame(results),
        "missing": run_tables.missing_frame(results),
        "environments": run_tables.environments_frame(results),
    }
    return {name: frame for name, frame in made.items() if len(frame)}


def render(
    results: Results,
    analysis: Analysis,
    drawn: Sequence[ReportFigure],
    tabulated: Mapping[str, Mapping[str, Table]],
    study: Mapping[str, Any],
) -> str:
    """Return the text of README.md from the figures, the `shown_tables` and the facts of the study."""
    plan, outcomes = results.plan, analysis.outcomes
    answer, *details = map(sentence, claims(analysis))
    shown = {figure.name: figure for figure in drawn}
    cell_axes = [tables.word(axis) for axis in outcomes.cell_axes]
    data = set(results.runs["data"])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"text": markdown, "code": code, "code_block": code_block}
    axes = varying_axes(results)
    text = environment.get_template("report.md.j2").render(
        plan=plan,
        question=markdown(plan.question),
        study=study,
        axes={tables.word(axis): markdown(", ".join(map(level_text, levels))) for axis, levels in axes.items()},
        answer=answer,
        details=details if analysis.contrasts else [],
        verdicts=verdict_table(outcomes.axis, analysis.contrasts) if analysis.contrasts else "",
        legend=verdict_legend(analysis.contrasts) if analysis.contrasts else "",
        adjustment=_adjustment(analysis.contrasts),
        averaged=axes_text(outcomes.cell_axes) if any(contrast.cells > 1 for contrast in analysis.contrasts) else "",
        single=len(outcomes.seeds) == 1,
        arm_axis=tables.word(outcomes.axis),
        cell_axes=cell_axes,
        same=listed([*cell_axes, "seed"]),
        baseline=markdown(study["baseline"]),
        smallest=_smallest(analysis.contrasts),
        accuracy=tabulated["accuracy"][""],
        arms=tabulated["arms"].get("", ""),
        contrasts=tabulated["contrasts"].get("", ""),
        pairs=tabulated["pairs"].get("", ""),
        pairs_undecidable=not analysis.growth and _undecidable(analysis.pairs),
        interactions=[(tables.word(axis), table) for axis, table in tabulated["interactions"].items()],
        main_effects=list(tabulated["main_effects"].values()),
        ranks=analysis.ranks,
        ranks_p=p_phrase(analysis.ranks.p) if analysis.ranks else "",
        ranks_table=tabulated["ranks"].get("", ""),
        accuracy_figure=[shown[name] for name in ("accuracy",) if name in shown],
        contrast_figure=[shown[name] for name in ("contrasts",) if name in shown],
        rank_figure=[shown[name] for name in ("ranks",) if name in shown],
        others=[figure for figure in drawn if figure.name not in ("accuracy", "contrasts", "ranks")],
        growth=analysis.growth,
        saved=runs_saved(plan, analysis) if analysis.growth else "",
        decision=decision_state(analysis) if analysis.growth else "",
        procedure=procedure(plan, analysis) if analysis.growth else "",
        rounds=tabulated["rounds"].get("", ""),
        incomplete=list(map(markdown, _incomplete(results, outcomes))),
        images=images(results),
        method=method(results),
        positions=described_positions(results),
        cost=tabulated["cost"][""],
        totals=_totals(study),
        failed=markdown(_counted(failed(results, outcomes.axis), len(results.plan.keys), "failed")),
        diverged=markdown(_counted(diverged(results, outcomes.axis), len(results.runs), "diverged")),
        divergence=tabulated["divergence"].get("", ""),
        other_images=tabulated["other_images"].get("", ""),
        images_tested=f"{analysis.other_images[0].images:,}" if analysis.other_images else "",
        contrasts_without_diverged=tabulated["contrasts_without_diverged"].get("", ""),
        missing=_missing(results),
        environments=_environments(results),
        runs=_runs(results),
        mixed=list(map(markdown, version_conflicts(results))),
        command=plan.command,
        own_images="folder" in data,
        downloadable=bool(data - {"digits", "folder"}),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def _adjustment(contrasts: Sequence[Contrast]) -> str:
    if len(contrasts) > 1:
        return "p is adjusted for several comparisons by Holm's correction"
    return "With a single comparison, adjusted p equals p"


def _smallest(contrasts: Sequence[Contrast]) -> str:
    """Return the smallest p that the contrasts can reach with their pairs as a sentence, empty without pairs."""
    least = sorted({(c.n, c.p_smallest) for c in contrasts if c.n})
    parts = [f"{p:.2g} with {count(n, 'pair')}" for n, p in least]
    return f" The smallest possible p is {listed(parts)}." if parts else ""


def _undecidable(family: Sequence[Contrast]) -> bool:
    """Return whether no difference of a family can be significant after Holm's correction."""
    return all(contrast.p_smallest * len(family) > ALPHA for contrast in family if contrast.n)


def _without_diverged(analysis: Analysis) -> dict[str, Table]:
    found = analysis.contrasts_without_diverged
    return {"": tables.contrasts_table(found)} if found else {}


def _several(outcomes: Outcomes) -> bool:
    """Return whether there are several arms and several settings."""
    return len(outcomes.arms) > 1 and len(outcomes.cells) > 1


def _incomplete(results: Results, outcomes: Outcomes) -> list[str]:
    """Return the blocks that lack a run of the plan, and its arm."""
    absent = {(level_text(getattr(config, outcomes.axis)), config.seed) for config in results.missing}
    lines = []
    for cell, seed, lacking in outcomes.incomplete_blocks():
        arms = [arm for arm in lacking if (level_text(outcomes.arms[arm]), outcomes.seeds[seed]) in absent]
        if not arms:
            continue
        place = ", ".join(filter(None, (outcomes.cell_name(cell), f"seed {outcomes.seeds[seed]}")))
        lines.append(f"{place}: {', '.join(outcomes.arm_name(arm) for arm in arms)} missing")
    return lines


def _totals(study: Mapping[str, Any]) -> str:
    seconds = study["run_seconds"]
    if seconds >= 7200:
        time = f"{study['run_hours']:,.1f} hours"
    else:
        time = f"{study['run_minutes']:,.1f} minutes" if seconds >= 120 else f"{seconds:,.0f} seconds"
    return f"{study['training_teraflops']:,.2f} TFLOPs of training and {time} of run time"


def _counted(counts: Mapping[str, int], runs: int, what: str) -> str:
    """Return how many runs failed or diverged, by arm, as a clause; empty if none did."""
    total = sum(counts.values())
    by_arm = ", ".join(f"{arm} {n}" for arm, n in counts.items())
    return f"{total} of {count(runs, 'run')} {what} ({by_arm})" if total else ""


def _missing(results: Results) -> Table | None:
    frame = run_tables.missing_frame(results)
    return (
        tables.Table([tables.word(str(column)) for column in frame], frame.values.tolist(), left=frame.shape[1])
        if len(frame)
        else None
    )


def _environments(results: Results) -> Table | None:
    frame = run_tables.environments_frame(results)
    rows = [(_fact_name(row["what"]), row["value"], row["runs"]) for row in frame.to_dict("records")]
    return tables.Table(["what", "value", "runs"], rows, left=2) if rows else None


def _fact_name(what: str) -> str:
    if what.startswith(("code backend ", "code position ")):
        return f"code of the {what.removeprefix('code ')} (SHA-256)"
    return DIGESTS.get(what, tables.word(what))


def _runs(results: Results) -> Table:
    axes = list(dict.fromkeys([*varying_axes(results), "seed"]))
    rows = [
        (tables.Code(row["key"][:16]), *(level_text(row[axis]) for axis in axes), f"{100 * row['test_accuracy']:.2f}")
        for row in results.runs.to_dict("records")
    ]
    return tables.Table(["run", *map(tables.word, axes), "test accuracy in %"], rows, left=1 + len(axes))
