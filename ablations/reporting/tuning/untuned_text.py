"""The part of the section on tuning that compares a tuned study with the same one at shared values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ablations.config import compared_axis, count
from ablations.config.safe_text import bold, code, markdown
from ablations.reporting.formatting import interval_cell, interval_text, p_phrase, p_text, points_text
from ablations.reporting.tables import Strong, Table
from ablations.reporting.tuning.analysis import TuningAnalysis
from ablations.reporting.tuning.text import pairs_differ, values_text
from ablations.reporting.tuning.untuned import ArmChange, UntunedComparison
from ablations.statistics import ALPHA

if TYPE_CHECKING:
    from ablations.storage import StudyPlan


def untuned_introduction(found: TuningAnalysis, plan: StudyPlan) -> str:
    untuned = found.untuned
    if untuned is None:
        return (
            "No study in this folder of runs makes the same comparison at shared values, so it is unknown how much of "
            "each difference is tuning. To train one, run the first command of [Reproduce this "
            "study](#reproduce-this-study) with `--no-tune` instead of its options for tuning and with another "
            "`--study`; then write this report again."
        )
    shared = markdown(values_text(untuned.values))
    start = f"Study {code(untuned.study)} makes the same comparison at shared values: {shared}."
    if untuned.conflicts:
        return (
            f"{start} Its runs cannot be compared with those of this study: {markdown('; '.join(untuned.conflicts))}."
        )
    if not untuned.blocks:
        return f"{start} No block of this study and of that one has finished yet."
    settings = "setting and seed" if _cell_axes(plan) else "seed"
    fewest = min(each.gain.n for each in untuned.arms)
    text = (
        f"{start} Runs of an arm in both with the same {settings} form a pair: they share the data split, the order of "
        f"the images and the initial weights{', as far as the tuned fields allow' * pairs_differ(found.design)}. There "
        f"are {f'{fewest} to ' * (fewest < untuned.blocks)}{count(untuned.blocks, 'such pair')} for each arm."
    )
    fewer, more = sorted(untuned.seeds)
    if fewer != more:
        text += (
            f" Verdicts are those of each whole study, with {count(untuned.seeds[0], 'seed')} at shared values and "
            f"{untuned.seeds[1]} tuned; they may also differ for this reason."
        )
    elif not untuned.complete:
        text += (
            " Verdicts are those of each whole study. Not all runs have finished: they may also differ for this reason."
        )
    return text


def _cell_axes(plan: StudyPlan) -> list[str]:
    return [axis for axis, levels in plan.axes.items() if len(levels) > 1 and axis != compared_axis(plan.axes)]


def untuned_findings(untuned: UntunedComparison) -> list[str]:
    """Return what tuning changed, as sentences of markdown."""
    if not untuned.arms or not untuned.blocks:
        return []
    baseline = next(each for each in untuned.arms if each.change is None)
    found = [f"{verdicts_changed(untuned)}"] if len(untuned.arms) > 1 else []
    if baseline.gain.n:
        found.append(
            f"Tuning changes the mean test accuracy of the baseline {bold(baseline.arm)} by "
            f"{points_text(baseline.gain.mean)} points{_interval(baseline.gain.low, baseline.gain.high, untuned)}."
        )
    clear = [each for each in untuned.arms if each.change and each.change.change.p_adjusted <= ALPHA]
    if untuned.sequential or len(untuned.arms) < 2:
        return found
    for each in clear:
        change = each.change
        assert change is not None
        found.append(
            f"Tuning changes the difference between {bold(each.arm)} and {bold(baseline.arm)}, from "
            f"{points_text(change.from_lead)} to {points_text(change.lead)} points: a change of "
            f"{points_text(change.change.mean)} points{_interval(change.change.low, change.change.high, untuned)}; "
            f"joint {p_phrase(change.change.p_adjusted)}."
        )
    if not clear:
        found.append("For no arm is it shown that tuning changes its difference from the baseline.")
    return found


def _interval(low: float, high: float, untuned: UntunedComparison) -> str:
    if untuned.sequential or not math.isfinite(low) or low == high:
        return ""
    return f" (95 % interval {interval_text(low, high)})"


def verdicts_changed(untuned: UntunedComparison) -> str:
    changed = untuned.changed
    if not changed:
        return f"No verdict differs from that at shared values (study {code(untuned.study)})."
    parts = [f"{bold(each.arm)} is {each.tuned_verdict}, at shared values {each.shared_verdict}" for each in changed]
    verb = "differs" if len(changed) == 1 else "differ"
    return (
        f"{len(changed)} of {count(len(untuned.arms) - 1, 'verdict')} {verb} from that at shared values (study "
        f"{code(untuned.study)}): {'; '.join(parts)}."
    )


def untuned_table(found: TuningAnalysis) -> Table:
    """Return for each arm what tuning gains, and its difference from the baseline at shared values and tuned."""
    untuned = found.untuned
    assert untuned is not None
    tests = [] if untuned.sequential else ["95 % interval", "joint p"]
    header = [
        "arm",
        "gain",
        "difference, shared",
        "difference, tuned",
        "change",
        *tests,
        "verdict, shared",
        "verdict, tuned",
    ]
    return Table(header, [_untuned_row(each, bool(tests)) for each in untuned.arms])


def _untuned_row(each: ArmChange, tested: bool) -> tuple[object, ...]:
    gain = _points(each.gain.mean)
    if each.change is None:
        return (each.arm, gain, "baseline", *["–"] * (4 + 2 * tested))
    change = each.change.change
    tests = (interval_cell(change.low, change.high), p_text(change.p_adjusted)) if tested else ()
    verdicts = str(each.shared_verdict), str(each.tuned_verdict)
    shown = (verdicts[0], Strong(verdicts[1]) if each.verdict_changed else verdicts[1])
    return (
        each.arm,
        gain,
        _points(each.change.from_lead),
        _points(each.change.lead),
        _points(change.mean),
        *tests,
        *shown,
    )


def _points(value: float) -> str:
    return points_text(value) if math.isfinite(value) else "–"


def untuned_legend(untuned: UntunedComparison) -> str:
    tests = (
        " One of the studies grew in rounds, so there is no interval and no test of the change."
        if untuned.sequential
        else " *Joint p*: of all changes together, as for changes along an axis."
    )
    return (
        "In percentage points of test accuracy, over the pairs that both studies have finished. *Gain*: the arm with "
        "its own values minus itself at the shared ones. *Difference*: from the baseline, at the shared values and "
        "tuned. *Change*: the second minus the first, so the part of the difference that is due to tuning, with these "
        f"chosen values.{tests} Verdicts that differ are bold; that a verdict differs does not show that tuning "
        "changed the difference, only *change* can."
    )
