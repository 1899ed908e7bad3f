"""The section on evaluations of a report: its texts, tables, facts and CSV files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablations.config import count
from ablations.config.safe_text import bold, code, markdown
from ablations.evaluation.protocols.resolution import WAYS, Resolution
from ablations.reporting.claims_table import contrast_row, findings_table
from ablations.reporting.evaluation_analysis import EvaluationAnalysis, ProtocolAnalysis, evaluations_frame
from ablations.reporting.formatting import (
    capital,
    in_unit,
    interval_cell,
    listed,
    mean_interval,
    number,
    p_text,
    points_text,
    signed_text,
)
from ablations.reporting.tables import Code, Strong, Table, word
from ablations.reporting.wording import disagreement, sentence
from ablations.statistics import ALPHA, Mean, Measure, Outcomes, verdict

if TYPE_CHECKING:
    from ablations.evaluation import Evaluations
    from ablations.storage import Results

MOST_WITH_INTERVALS = 6
"""Most metrics of a table whose means have intervals."""
MOST_CONFUSIONS = 10
"""Most pairs of classes in a table."""


@dataclass(frozen=True)
class Section:
    """The part of the report on one protocol."""

    title: str
    name: str
    about: str
    finding: str
    metrics: Sequence[str]
    """What the metrics in the tables are, in a line each."""
    intervals: bool
    """Whether the means have intervals."""
    means: Table | None
    others: Table | None
    """Means of the metrics that are not tested."""
    settings: str
    """The metrics that were measured in some of the settings only."""
    contrasts: Table | None
    family: str
    """How many questions the contrasts are corrected for."""
    reasons: Sequence[str]
    confusions: str
    confused: Table | None


def sections(found: EvaluationAnalysis, finished: int) -> list[Section]:
    """Return the part on each protocol, in the order of the evaluations."""
    return [_section(each, finished) for each in found.protocols]


def _section(each: ProtocolAnalysis, finished: int) -> Section:
    source = f" ({markdown(each.protocol.source)})" if each.protocol.source else ""
    when = f"chosen {'before' if each.beforehand else 'after'} the training"
    runs = f"{each.runs} of {count(finished, 'finished run')}" if each.runs < finished else count(finished, "run")
    return Section(
        title=markdown(each.label),
        name=each.name,
        about=f"{capital(markdown(each.protocol.description))}{source}. Measured on {runs}; {when}.",
        finding=_finding(each),
        metrics=_metric_lines(each),
        intervals=_with_intervals(each),
        means=means_table(each) if each.tested else None,
        others=others_table(each),
        settings=settings_note(each),
        contrasts=contrasts_table(each) if each.questions else None,
        family=count(each.questions, "question"),
        reasons=[f"{capital(markdown(reason))} ({count(runs, 'run')})." for reason, runs in each.reasons],
        confusions=_confusions(each),
        confused=confusions_table(each) if each.confusions else None,
    )


def _finding(each: ProtocolAnalysis) -> str:
    if (finding := each.finding) is not None:
        return sentence(finding) + disagreement(finding.contrast)
    return "Nothing was measured." if not each.analyses else "Nothing is compared: no pair of runs was measured."


def _metric_lines(each: ProtocolAnalysis) -> list[str]:
    """Return the metrics with noun, unit and direction; what all have in common stands in the first line."""
    measures = {name: analysis.outcomes.measure for name, analysis in each.tested.items()}
    kinds = {name: _kind(measure) for name, measure in measures.items()}
    shared = len(set(kinds.values())) == 1 < len(kinds)
    lines = [f"All metrics: {next(iter(kinds.values()))}."] if shared else []
    for name, measure in measures.items():
        lines.append(f"{code(name)}: {markdown(measure.noun)}{'' if shared else f' ({kinds[name]})'}")
    if others := {name: each.analyses[name].outcomes.measure for name in each.analyses if name not in each.tested}:
        if isinstance(each.protocol, Resolution):
            ways = listed([code(f"-{way}") for way in WAYS if any(name.endswith(f"-{way}") for name in others)])
            lines.append(
                f"Names that end in {ways}: by this way to serve another number of patches, for the arms that have it. "
                "The other names are by the default way of an arm; only these are tested."
            )
        else:
            lines += [f"{code(name)}: {markdown(m.noun)} ({_kind(m)}; not tested)" for name, m in others.items()]
    return lines


def _kind(measure: Measure) -> str:
    unit = {"%": "in percent", "": "a pure number"}.get(measure.unit, f"in {markdown(measure.unit)}")
    ways = {True: "higher is better", False: "lower is better", None: "neither direction is better"}
    return f"{unit}, {ways[measure.higher_is_better]}"


def means_table(each: ProtocolAnalysis) -> Table:
    """Return the mean of every arm and tested metric; the best mean of a metric is bold.

    A few metrics are columns, with intervals; more are rows, without intervals.
    """
    return _columns(each) if _with_intervals(each) else _rows(each, [*each.tested])


def others_table(each: ProtocolAnalysis) -> Table | None:
    """Return the means of the metrics that are not tested; None if there are none."""
    others = [name for name in each.analyses if name not in each.tested]
    return _rows(each, others) if others else None


def _with_intervals(each: ProtocolAnalysis) -> bool:
    return len(each.tested) <= MOST_WITH_INTERVALS


def _columns(each: ProtocolAnalysis) -> Table:
    first = each.first.outcomes
    labels = [in_unit(name, each.analyses[name].outcomes.measure.unit) for name in each.tested]
    levels = [name.removeprefix(f"{word(first.axis)} ") for name in map(first.arm_name, range(len(first.arms)))]
    columns = [_column(each.means[name], each.analyses[name].outcomes, True) for name in each.tested]
    return Table([word(first.axis), *labels], list(zip(levels, *columns, strict=True)))


def _rows(each: ProtocolAnalysis, metrics: Sequence[str]) -> Table:
    first = each.first.outcomes
    rows = []
    for name in metrics:
        outcomes = each.analyses[name].outcomes
        rows.append((in_unit(name, outcomes.measure.unit), *_column(each.means[name], outcomes, False)))
    return Table(["metric", *map(first.arm_name, range(len(first.arms)))], rows)


def _column(means: Sequence[Mean], outcomes: Outcomes, intervals: bool) -> list[object]:
    m = outcomes.measure
    known = [m.sign * mean.mean for mean in means if np.isfinite(mean.mean)]
    cells: list[object] = []
    for mean in means:
        if not np.isfinite(mean.mean):
            cells.append("–")
            continue
        text = number(mean.mean, m.decimals)
        best = m.higher_is_better is not None and len(known) > 1 and m.sign * mean.mean == max(known)
        interval = mean_interval(mean.low, mean.high, m.decimals) if intervals else ""
        cells.append((Strong(text) if best else text, f" ({interval})" * bool(interval)))
    return cells


def settings_note(each: ProtocolAnalysis) -> str:
    """Return the tested metrics that were measured in some of the settings only, as a sentence; empty if none."""
    parts = []
    for name in each.tested:
        cells, planned = max(mean.cells for mean in each.means[name]), len(each.first.outcomes.cells)
        if cells < planned:
            parts.append(f"{code(name)} in {cells} of {planned}")
    return f"Settings in which every arm was measured: {listed(parts)}." if parts else ""


def contrasts_table(each: ProtocolAnalysis) -> Table:
    """Return the contrasts of the tested metrics with the baseline, adjusted over all of them."""
    sequential = any(c.sequential for c in each.contrasts)
    header = ["metric", "arm", "verdict", "difference", "95 % interval", "sequential p" if sequential else "p"]
    rows = [
        (
            Code(c.measure.name.rpartition(":")[2]),
            c.subject,
            str(verdict(c)),
            c.measure.amount((points_text if c.measure.is_share else signed_text)(c.mean, c.measure.decimals)),
            interval_cell(c.low, c.high, c.measure.decimals),
            p_text(c.p),
            p_text(c.p_adjusted),
            c.n,
        )
        for c in each.contrasts
        if c.n
    ]
    return Table([*header, "adjusted p", "pairs"], rows, left=3)


def _confusions(each: ProtocolAnalysis) -> str:
    """Return how many pairs of classes an arm confuses less or more often than the baseline, as sentences."""
    found = each.confusions
    if not found:
        return ""
    base = bold(found[0].baseline)
    parts = []
    for arm in dict.fromkeys(c.arm for c in found):
        own = [c for c in found if c.arm == arm and c.p <= ALPHA]
        fewer, more = sum(c.difference < 0 for c in own), sum(c.difference > 0 for c in own)
        if fewer or more:
            kinds = [f"{count(fewer, 'pair')} less often"] * bool(fewer) + [f"{count(more, 'pair')} more often"] * bool(
                more
            )
            parts.append(f"{bold(arm)} confuses {listed(kinds)}")
    pairs = len({(c.first, c.second) for c in found})
    start = f"Of {count(pairs, 'pair')} of classes that any run confuses, compared with {base}: "
    text = start + (f"{'; '.join(parts)}." if parts else "no difference is shown.")
    if any(c.sequential for c in each.contrasts):
        text += " This p does not account for the interim analyses of the study."
    return text


def confusions_table(each: ProtocolAnalysis) -> Table:
    """Return the pairs of classes with the smallest p."""
    found = each.confusions
    return Table(
        ["classes", "arm", "images per run", f"with {found[0].baseline}", "difference", "adjusted p"],
        [
            (
                f"{each.class_name(c.first)} and {each.class_name(c.second)}",
                c.arm,
                number(c.images),
                number(c.images_baseline),
                points_text(c.difference),
                p_text(c.p),
            )
            for c in found[:MOST_CONFUSIONS]
        ],
        left=2,
    )


def introduction(found: EvaluationAnalysis, baseline: str) -> str:
    """Return how many questions are asked, which of them were chosen beforehand, and what the correction covers."""
    protocols = found.protocols
    several = len(protocols) > 1
    text = (
        f"{count(len(protocols), 'evaluation protocol')} measured the trained models by "
        f"{count(found.metrics, 'metric')} besides the test accuracy. "
    )
    if found.questions:
        text += (
            f"{count(found.questions, 'question')} {'is' if found.questions == 1 else 'are'} asked: does an arm differ "
            f"from {bold(baseline)} in a metric? The questions of a protocol are one family: their adjusted p limits "
            f"the probability of a false finding to {100 * ALPHA:g} % within "
            f"{'each protocol, not over all of them' if several else 'it, in addition to the families of the accuracy'}"
            ". "
        )
        text += (
            "Metrics of the same runs are correlated. The adjustment takes this into account within a protocol; "
            "similar findings of several protocols are not independent evidence."
            if several
            else "The adjustment takes into account that metrics of the same runs are correlated."
        )
    if found.diverged:
        number = sum(found.diverged.values())
        arms = listed([f"{n} of {bold(arm)}" for arm, n in found.diverged.items()])
        are = "run is" if number == 1 else "runs are"
        text += (
            f" {number} diverged {are} not measured ({arms}): these comparisons are among the runs that trained to the "
            "end, unlike those of the accuracy."
        )
    return text


def choices(found: EvaluationAnalysis) -> list[str]:
    """Return which protocols were chosen before the training, and which after it."""
    before = [code(each.name) for each in found.protocols if each.beforehand]
    after = [code(each.name) for each in found.protocols if not each.beforehand]
    lines = []
    if before:
        lines.append(f"**Chosen before the training**, in the grid: {listed(before)}.")
    if after:
        lines.append(
            f"**Chosen after the training**: {listed(after)}. Their findings are exploratory, because the choice may "
            "have been made with the results in view; confirm them with new seeds."
        )
    return lines


def outdated_note(outdated: int, study: str, protocols: Sequence[str], options: str = "") -> str:
    """Return how many measurements are left out, and the command that renews them; empty if none are.

    `options` are added to the command.
    """
    if not outdated:
        return ""
    verb, them = ("was", "it") if outdated == 1 else ("were", "them")
    text = f"{count(outdated, 'measurement')} by other versions of the code or of the run {verb} left out"
    if not protocols:
        return f"{text}; the protocol no longer exists"
    command = f"vitab evaluate {study} --protocol {shlex.quote(','.join(protocols))}{options}"
    return f"{text}; to measure {them} again, run: {command}"


def evaluation_facts(found: EvaluationAnalysis) -> dict[str, Any]:
    """Return the numbers of the section's prose, by name."""
    facts: dict[str, Any] = {
        "evaluation_protocols": len(found.protocols),
        "evaluation_metrics": found.metrics,
        "evaluation_questions": found.questions,
        "evaluation_outdated": found.outdated,
    }
    for each in found.protocols:
        facts[f"evaluation_{each.name}"] = f"chosen {'before' if each.beforehand else 'after'} the training"
        facts[f"evaluation_{each.name}_runs"] = each.runs
        facts[f"evaluation_{each.name}_questions"] = each.questions
        facts |= {f"evaluation_{each.name}_missing_{i}": f"{line} ({n})" for i, (line, n) in enumerate(each.reasons, 1)}
    return facts


def evaluation_frames(results: Results, evaluations: Evaluations, found: EvaluationAnalysis) -> dict[str, pd.DataFrame]:
    """Return the tables of the section by the names of their CSV files."""
    means = [
        {"protocol": each.name, "metric": name, "arm": mean.arm, "mean": mean.mean, "low": mean.low, "high": mean.high}
        | {"settings": mean.cells, "runs": mean.n}
        for each in found.protocols
        for name, row in each.means.items()
        for mean in row
    ]
    contrasts = [
        {"protocol": each.name, "metric": c.measure.name.removeprefix(f"{each.name}:")}
        | _without_seeds(contrast_row(c))
        for each in found.protocols
        for c in each.contrasts
    ]
    told = [(each.name, finding) for each in found.protocols if (finding := each.finding)]
    findings = findings_table([finding for _, finding in told])
    findings.insert(0, "protocol", [name for name, _ in told])
    confusions = [
        {**vars(c), "first": each.class_name(c.first), "second": each.class_name(c.second), "difference": c.difference}
        for each in found.protocols
        for c in each.confusions
    ]
    return {
        "evaluations": evaluations_frame(results, evaluations),
        "evaluation_means": pd.DataFrame(means),
        "evaluation_contrasts": pd.DataFrame(contrasts),
        "evaluation_findings": findings,
        "confused_classes": pd.DataFrame(confusions),
    }


def _without_seeds(row: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in ("more_seeds", "seeds_needed")}
