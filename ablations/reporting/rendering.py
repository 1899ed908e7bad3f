"""The text of README.md of a report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ablations.config import count, level_text
from ablations.config.run_config import OWN_DATA
from ablations.config.safe_text import code, code_block, markdown
from ablations.config.tuning import shown_value
from ablations.reporting import run_tables, tables
from ablations.reporting.balance import majority_warning, sizes_sentence
from ablations.reporting.compute import compute_note
from ablations.reporting.dataset_text import images
from ablations.reporting.evaluation_sections import Section, choices, introduction, outdated_note, sections
from ablations.reporting.facts import diverged, failed
from ablations.reporting.figures.figure import ReportFigure
from ablations.reporting.findings import claims
from ablations.reporting.first_screen import verdict_caption, verdict_legend, verdict_table
from ablations.reporting.formatting import capital, in_unit, listed, number, p_phrase, time_text
from ablations.reporting.method import described_positions, method
from ablations.reporting.sequential_text import decision_state, procedure, runs_saved
from ablations.reporting.tables import Table
from ablations.reporting.threats import faults_of_data
from ablations.reporting.tuning.sections import headline, totals, tuning_section
from ablations.reporting.tuning.text import pairs_differ
from ablations.reporting.wording import sentence
from ablations.statistics import ALPHA, Analysis, Contrast, Outcomes, varying_axes
from ablations.storage import version_conflicts

if TYPE_CHECKING:
    from ablations.reporting.evaluation_analysis import EvaluationAnalysis
    from ablations.reporting.measured import Measured
    from ablations.reporting.tuning.analysis import TuningAnalysis
    from ablations.storage import Results

DIGESTS = {
    "data_sha256": "fingerprint of the data (SHA-256)",
    "vit_sha256": "code of the model (SHA-256)",
    "training_sha256": "code of the training (SHA-256)",
    "code model": "code of the model (SHA-256)",
    "code training": "code of the training (SHA-256)",
}
"""Labels of the checksums in the environment of a run."""


@dataclass(frozen=True)
class Evaluated:
    """What the section on evaluations shows."""

    introduction: str
    choices: Sequence[str]
    outdated: str
    protocols: Sequence[str]
    sections: Sequence[Section]
    figures: Mapping[str, Sequence[ReportFigure]]
    confused: bool


def evaluated(
    found: EvaluationAnalysis, results: Results, baseline: str, figures: Mapping[str, Sequence[ReportFigure]]
) -> Evaluated:
    """Return the texts of the section, with its `figures` by the name of the protocol."""
    names = [each.name for each in found.protocols]
    return Evaluated(
        introduction(found, baseline) if found.protocols else "No measurement by the present code exists.",
        choices(found),
        outdated_note(found.outdated, results.plan.study, found.outdated_protocols),
        names,
        sections(found, len(results.runs)),
        {name: figures.get(name, ()) for name in names},
        any(each.confusions for each in found.protocols),
    )


def render(
    results: Results,
    analysis: Analysis,
    drawn: Sequence[ReportFigure],
    tabulated: Mapping[str, Mapping[str, Table]],
    study: Mapping[str, Any],
    about: Measured | None = None,
    found: EvaluationAnalysis | None = None,
    evaluation_figures: Mapping[str, Sequence[ReportFigure]] | None = None,
    tuned: TuningAnalysis | None = None,
    sensitivity: Sequence[ReportFigure] = (),
) -> str:
    """Return the text of README.md from the figures, the `shown_tables` and the facts of the study.

    It is about the test accuracy or `about` a metric. `found` are the evaluations, with figures by protocol, `tuned`
    the trials, with figures of their accuracy.
    """
    plan, outcomes, m = results.plan, analysis.outcomes, analysis.outcomes.measure
    file = "accuracy" if m.is_accuracy else "values"
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
        caption=verdict_caption(analysis) if analysis.contrasts else "",
        verdicts=verdict_table(outcomes.axis, analysis.contrasts) if analysis.contrasts else "",
        legend=verdict_legend(analysis.contrasts) if analysis.contrasts else "",
        adjustment=_adjustment(analysis.contrasts),
        single=len(outcomes.seeds) == 1,
        arm_axis=tables.word(outcomes.axis),
        cell_axes=cell_axes,
        same=listed([*cell_axes, "seed"]),
        baseline=markdown(study["baseline"]),
        smallest=_smallest(analysis.contrasts),
        about=_about(results, about) if about else "",
        noun=markdown(m.noun),
        heading="Accuracy" if m.is_accuracy else markdown(capital(m.noun)),
        heading_unit=markdown(capital(in_unit(m.noun, "percent" if m.is_share else m.unit))),
        differences_in=markdown(m.differences_in),
        best="" if m.higher_is_better is None else m.best,
        share=m.is_share,
        file=file,
        accuracy=tabulated[file][""],
        arms=tabulated["arms"].get("", ""),
        balanced=tabulated["balanced"].get("", ""),
        class_sizes=sizes_sentence(analysis.balanced_scores) if analysis.balanced_scores else "",
        majority=markdown(majority_warning(analysis.balanced_scores)),
        contrasts=tabulated["contrasts"].get("", ""),
        pairs=tabulated["pairs"].get("", ""),
        pairs_undecidable=not analysis.growth and _undecidable(analysis.pairs),
        interactions=[(tables.word(axis), table) for axis, table in tabulated["interactions"].items()],
        main_effects=list(tabulated["main_effects"].values()),
        ranks=analysis.ranks,
        ranks_p=p_phrase(analysis.ranks.p) if analysis.ranks else "",
        ranks_table=tabulated["ranks"].get("", ""),
        accuracy_figure=[shown[name] for name in (file,) if name in shown],
        contrast_figure=[shown[name] for name in ("contrasts",) if name in shown],
        rank_figure=[shown[name] for name in ("ranks",) if name in shown],
        mistakes_figure=[shown[name] for name in ("mistakes",) if name in shown],
        others=[figure for figure in drawn if figure.name not in (file, "contrasts", "ranks", "mistakes")],
        growth=analysis.growth,
        evaluated=evaluated(found, results, study["baseline"], evaluation_figures or {}) if found else None,
        tuned=tuning_section(results, tuned, sensitivity) if tuned else None,
        pairs_differ=pairs_differ(plan.tuning),
        tuned_headline=headline(plan, tuned) if tuned else "",
        tuned_totals=totals(tuned) if tuned else "",
        saved=runs_saved(plan, analysis) if analysis.growth else "",
        decision=decision_state(analysis) if analysis.growth else "",
        procedure=procedure(plan, analysis) if analysis.growth else "",
        rounds=tabulated["rounds"].get("", ""),
        incomplete=list(map(markdown, _incomplete(results, outcomes))),
        images=images(results),
        method=method(results),
        faults=faults_of_data(results),
        positions=described_positions(results),
        compute_note=compute_note(plan),
        compute=tabulated["compute"].get("", ""),
        measured=plan.match is not None and plan.match.measure == "seconds",
        cost=tabulated["cost"][""],
        totals=_totals(study),
        failed=markdown(_counted(failed(results, outcomes.axis), len(results.plan.keys), "failed")),
        diverged=markdown(_counted(diverged(results, outcomes.axis), len(results.runs), "diverged")),
        divergence=tabulated["divergence"].get("", ""),
        other_images=tabulated["other_images"].get("", ""),
        images_error_unknown=not all(each.error for each in analysis.other_images),
        images_tested=f"{analysis.other_images[0].images:,}" if analysis.other_images else "",
        contrasts_without_diverged=tabulated["contrasts_without_diverged"].get("", ""),
        missing=_missing(results),
        environments=_environments(results),
        runs=_runs(results, about),
        mixed=list(map(markdown, version_conflicts(results))),
        command="\n".join(_commands(results, about, found)),
        own_images=bool(data & {*OWN_DATA}),
        downloadable=bool(data - {"digits", *OWN_DATA}),
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
    time = time_text(study["run_seconds"])
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


def _runs(results: Results, about: Measured | None) -> Table:
    tuned = results.plan.tuning.space if results.plan.tuning else ()
    axes = list(dict.fromkeys([*varying_axes(results), "seed", *tuned]))
    rows = []
    for row in results.runs.to_dict("records"):
        if about is None:
            value = f"{100 * row['test_accuracy']:.2f}"
        else:
            known = about.values.get(row["key"])
            digits = 2 if about.measure.is_share else 4
            value = "–" if known is None else number(about.measure.scale * known, digits)
        rows.append((tables.Code(row["key"][:16]), *(_level(row[axis], axis in tuned) for axis in axes), value))
    noun = in_unit(about.measure.noun, about.measure.unit) if about else "test accuracy in %"
    return tables.Table(["run", *map(tables.word, axes), noun], rows, left=1 + len(axes))


def _level(value: Any, tuned: bool) -> str:
    return shown_value(value) if tuned else level_text(value)


def _about(results: Results, about: Measured) -> str:
    """Return what a report on a metric is about, and where the report on the test accuracy is."""
    m = about.measure
    unit = {"%": " in percent", "": ""}.get(m.unit, f" in {markdown(m.unit)}")
    ways = {True: "higher is better", False: "lower is better", None: "neither direction is better"}
    missing = about.missing(len(results.runs))
    when = (
        "which was chosen before the training"
        if about.beforehand
        else "which was chosen after the training, so the findings are exploratory"
    )
    return (
        f"This report is about **{markdown(m.noun)}**{unit} ({ways[m.higher_is_better]}), measured by the protocol "
        f"{code(about.protocol)}, {when}. Its tests do not account for those of other metrics or of the test "
        f"accuracy.{f' {missing}.' if missing else ''}"
    )


def _commands(results: Results, about: Measured | None, found: EvaluationAnalysis | None) -> list[str]:
    """Return the commands that train the runs, measure them and write this report."""
    study = results.plan.study
    protocols = [about.protocol] if about else [each.name for each in found.protocols] if found else []
    evaluate = [f"vitab evaluate {study} --protocol {shlex.quote(','.join(protocols))}"] if protocols else []
    metric = f" --metric {shlex.quote(about.measure.name)}" if about else ""
    return [results.plan.command, *evaluate, f"vitab report {study}{metric}"]
