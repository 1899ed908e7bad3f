"""A study as a folder to read: README.md, its figures, and every table as a CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ablations.config import level_text
from ablations.config.safe_text import code, code_block, markdown
from ablations.errors import UsageError
from ablations.reporting import tables
from ablations.reporting.facts import facts, facts_frame, failed
from ablations.reporting.figures.figure import Picture
from ablations.reporting.figures.gallery import pictures
from ablations.reporting.findings import ContrastFinding, claims, findings_table
from ablations.reporting.formatting import listed, p_phrase
from ablations.reporting.html import page
from ablations.reporting.method import images, method
from ablations.reporting.publish import published
from ablations.reporting.sequential_text import lead, procedure
from ablations.reporting.tables import Table
from ablations.statistics import Analysis, Contrast, Outcomes, analyse, arm_means, varying_axes
from ablations.storage import version_conflicts

if TYPE_CHECKING:
    from ablations.storage import Results

OWNED = ("README.md", "report.html", "figures", "tables")
FORMATS = ("markdown", "html")
DIGESTS = {
    "data_sha256": "fingerprint of the data (SHA-256)",
    "vit_sha256": "code of the model (SHA-256)",
    "training_sha256": "code of the training (SHA-256)",
    "code model": "code of the model (SHA-256)",
    "code training": "code of the training (SHA-256)",
}
"""What the checksums in the environment of a run are of."""


@dataclass(frozen=True)
class Report:
    """What a report consists of, before it is files: README.md, the files of tables/ by name, figures."""

    text: str
    tables: dict[str, str]
    pictures: list[Picture]


def compose(results: Results) -> Report:
    """The report that follows from these runs; the same runs give the same bytes. UsageError without a finished run."""
    if results.runs.empty:
        raise UsageError(f"study {results.plan.study!r} has no finished run to report; run it first")
    analysis = analyse(results)
    drawn = pictures(results, analysis)
    study = facts(results, analysis) | {name: value for picture in drawn for name, value in picture.facts.items()}
    made = {f"{name}.csv": csv_text(frame, exact=name == "runs") for name, frame in frames(results, analysis).items()}
    made["study.csv"] = csv_text(facts_frame(study))
    shown = shown_tables(results, analysis)
    made |= {
        f"{name}.tex": "\n".join(table.latex() for table in found.values()) for name, found in shown.items() if found
    }
    return Report(render(results, analysis, drawn, shown, study), made, drawn)


def shown_tables(results: Results, analysis: Analysis) -> dict[str, dict[str, Table]]:
    """The tables that README.md shows, by the name of their CSV and the axis they are about."""
    outcomes = analysis.outcomes
    pairs = {"": tables.contrasts_table(analysis.pairs)} if len(outcomes.arms) > 2 else {}
    return {
        "accuracy": {"": tables.accuracy_table(analysis)},
        "arms": {"": tables.arms_table(outcomes)} if _several(outcomes) else {},
        "contrasts": {"": tables.contrasts_table(analysis.contrasts)} if analysis.contrasts else {},
        "pairs": pairs,
        "interactions": {axis: tables.interactions_table(found) for axis, found in analysis.interactions.items()},
        "main_effects": {axis: tables.contrasts_table(found) for axis, found in analysis.main_effects.items()},
        "ranks": {"": tables.ranks_table(analysis.ranks)} if analysis.ranks else {},
        "rounds": {"": tables.rounds_table(analysis.rounds)} if analysis.rounds else {},
        "cost": {"": tables.cost_table(results, outcomes)},
    }


def write_report(results: Results, out: Path, format: str = "markdown") -> Path:
    """Write the report of a study to out/<study>/ and return that folder; "html" adds report.html, all in one file.

    Replaces an earlier report in one go and leaves other files there alone. Raises UsageError when `out` cannot be
    written, before any work, or when no run has finished.
    """
    study = results.plan.study
    if results.runs.empty:
        raise UsageError(f"study {study!r} has no finished run to report; run it first")
    folder = Path(out) / study
    with published(folder, OWNED) as new:
        report = compose(results)
        (new / "figures").mkdir()
        for picture in report.pictures:
            picture.save(new / "figures")
        (new / "tables").mkdir()
        for name, content in report.tables.items():
            (new / "tables" / name).write_text(content, encoding="utf-8", newline="")
        (new / "README.md").write_text(report.text, encoding="utf-8", newline="\n")
        if format == "html":
            tables = {f"tables/{name}": content.encode() for name, content in report.tables.items()}
            (new / "report.html").write_text(page(report.text, pngs(new) | tables), encoding="utf-8", newline="\n")
    return folder


def pngs(folder: Path) -> dict[str, bytes]:
    """The pictures of a report by the path that README.md links them with."""
    return {f"figures/{path.name}": path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))}


def csv_text(frame: pd.DataFrame, *, exact: bool = False) -> str:
    """A table as the CSV file of a report: LF, six digits, or as many as give the same number when read again.

    Carriage returns, which the CSV writer does not quote, and bytes that are no text are written as escapes.
    """
    text = frame.to_csv(index=False, float_format=None if exact else "%.6g", lineterminator="\n")
    return str(text).replace("\r", "\\r").encode(errors="backslashreplace").decode()


def frames(results: Results, analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Every table of the report by file name; tables that would be empty are left out."""
    tested = [interaction for found in analysis.interactions.values() for interaction in found]
    made = {
        "claims": findings_table(claims(analysis)),
        "accuracy": analysis.cell_means,
        "arms": arm_means(analysis.outcomes) if _several(analysis.outcomes) else pd.DataFrame(),
        "contrasts": tables.contrasts_frame(analysis.contrasts),
        "pairs": tables.contrasts_frame(analysis.pairs),
        "interactions": tables.interactions_frame(tested),
        "main_effects": tables.main_effects_frame(analysis.main_effects),
        "ranks": tables.ranks_frame(analysis.ranks),
        "rounds": tables.rounds_frame(analysis.rounds),
        "cost": tables.cost_frame(results, analysis.outcomes),
        "runs": tables.runs_frame(results),
        "missing": tables.missing_frame(results),
        "environments": tables.environments_frame(results),
    }
    return {name: frame for name, frame in made.items() if len(frame)}


def render(
    results: Results,
    analysis: Analysis,
    drawn: Sequence[Picture],
    tabulated: Mapping[str, Mapping[str, Table]],
    study: Mapping[str, Any],
) -> str:
    """README.md as text, from the figures, the `shown_tables` and the facts of the study it is to show."""
    plan, outcomes, found = results.plan, analysis.outcomes, claims(analysis)
    shown = {picture.name: picture for picture in drawn}
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
        findings=[claim.sentence for claim in found],
        single=len(outcomes.seeds) == 1,
        tested=any(isinstance(claim, ContrastFinding) for claim in found),
        arm_axis=tables.word(outcomes.axis),
        cell_axes=[tables.word(axis) for axis in outcomes.cell_axes],
        baseline=markdown(study["baseline"]),
        smallest=_smallest(analysis.contrasts),
        accuracy=tabulated["accuracy"][""],
        arms=tabulated["arms"].get("", ""),
        contrasts=tabulated["contrasts"].get("", ""),
        pairs=tabulated["pairs"].get("", ""),
        interactions=[(tables.word(axis), table) for axis, table in tabulated["interactions"].items()],
        main_effects=list(tabulated["main_effects"].values()),
        ranks=analysis.ranks,
        ranks_p=p_phrase(analysis.ranks.p) if analysis.ranks else "",
        ranks_table=tabulated["ranks"].get("", ""),
        first=[shown[name] for name in ("accuracy",) if name in shown],
        second=[shown[name] for name in ("contrasts",) if name in shown],
        third=[shown[name] for name in ("ranks",) if name in shown],
        others=[picture for picture in drawn if picture.name not in ("accuracy", "contrasts", "ranks")],
        growth=analysis.growth,
        grew=lead(plan, analysis) if analysis.growth else "",
        procedure=procedure(plan, analysis) if analysis.growth else "",
        rounds=tabulated["rounds"].get("", ""),
        incomplete=list(map(markdown, _incomplete(results, outcomes))),
        images=images(results),
        method=method(results),
        cost=tabulated["cost"][""],
        totals=_totals(study),
        failed=markdown(_failed(results, outcomes.axis)),
        missing=_missing(results),
        environments=_environments(results),
        runs=_runs(results),
        mixed=list(map(markdown, version_conflicts(results))),
        command=plan.command,
        fetched=set(results.runs["data"]) != {"digits"},
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def _smallest(contrasts: Sequence[Contrast]) -> str:
    """The least p that the contrasts can reach with the pairs they have, as a sentence; none without pairs."""
    least = sorted({(c.n, c.p_smallest) for c in contrasts if c.n})
    parts = [f"{p:.2g} with {n:,} pair{'s' * (n != 1)}" for n, p in least]
    return f" The smallest possible p is {listed(parts)}." if parts else ""


def _several(outcomes: Outcomes) -> bool:
    """Whether there are arms to compare over several settings."""
    return len(outcomes.arms) > 1 and len(outcomes.cells) > 1


def _incomplete(results: Results, outcomes: Outcomes) -> list[str]:
    """Sentences on the blocks that lack a run of the plan."""
    absent = {(level_text(getattr(config, outcomes.axis)), config.seed) for config in results.missing}
    lines = []
    for cell, seed, lacking in outcomes.incomplete_blocks():
        arms = [arm for arm in lacking if (level_text(outcomes.arms[arm]), outcomes.seeds[seed]) in absent]
        if not arms:
            continue
        place = ", ".join(filter(None, (outcomes.cell_name(cell), f"seed {outcomes.seeds[seed]}")))
        lines.append(f"{place}: no {', '.join(outcomes.arm_name(arm) for arm in arms)}")
    return lines


def _totals(study: Mapping[str, Any]) -> str:
    seconds = study["run_seconds"]
    if seconds >= 7200:
        time = f"{study['run_hours']:,.1f} hours"
    else:
        time = f"{study['run_minutes']:,.1f} minutes" if seconds >= 120 else f"{seconds:,.0f} seconds"
    return f"{study['training_teraflops']:,.2f} TFLOPs of training and {time} of run time"


def _failed(results: Results, axis: str) -> str:
    """How many runs failed, by arm; empty when none has."""
    counts = failed(results, axis)
    total = sum(counts.values())
    by_arm = ", ".join(f"{arm} {n}" for arm, n in counts.items())
    return f"{total} of {len(results.plan.keys)} runs failed ({by_arm})." if total else ""


def _missing(results: Results) -> Table | None:
    frame = tables.missing_frame(results)
    return (
        tables.Table([tables.word(str(column)) for column in frame], frame.values.tolist(), left=frame.shape[1])
        if len(frame)
        else None
    )


def _environments(results: Results) -> Table | None:
    frame = tables.environments_frame(results)
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
