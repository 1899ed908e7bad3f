"""Compute matching in words and as a table: the epochs of the arms of a study, and how they were chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.config import ComputeMatch, count, level_text, name_level
from ablations.config.safe_text import bold, markdown
from ablations.reporting.formatting import listed
from ablations.reporting.tables import Table, word

if TYPE_CHECKING:
    from ablations.storage import StudyPlan

COMPUTE = {"flops": "training FLOPs", "seconds": "training time"}


def compute_facts(plan: StudyPlan) -> dict[str, Any]:
    """Return the facts about the compute of a study that matches it; none of another study."""
    match = plan.match
    if match is None:
        return {}
    epochs, shares = ([of(levels) for levels in match.costs] for of in (match.epochs_of, match.share_of))
    return {
        "compute_matched": match.measure,
        "compute_baseline_epochs": match.epochs,
        "epochs_fewest": min(epochs),
        "epochs_most": max(epochs),
        "compute_least_percent": 100 * min(shares),
        "compute_most_percent": 100 * max(shares),
    }


def compute_note(plan: StudyPlan) -> str:
    """Return which compute the arms share, and their epochs, as a sentence; empty for equal epochs."""
    match = plan.match
    if match is None:
        return ""
    return f"All arms have equal {COMPUTE[match.measure]}, with {epochs_range(match)} epochs ([Method](#method))."


def compute_clause(match: ComputeMatch, axis: str) -> str:
    """Return a sentence on the compute of two levels of an axis: matched, with the epochs of all arms, or not."""
    what = COMPUTE[match.measure]
    if axis != match.compared:
        return f"Compute ({what}) is matched between the levels of {word(match.compared)}, not between these two arms."
    return f"All arms have equal {what}; epochs: {markdown(match.describe_epochs())}."


def epochs_range(match: ComputeMatch) -> str:
    """Return the fewest and the most epochs of all arms and settings as text."""
    epochs = sorted(map(match.epochs_of, match.costs))
    return f"{epochs[0]}" if epochs[0] == epochs[-1] else f"{epochs[0]} to {epochs[-1]}"


def compute_sentence(plan: StudyPlan) -> str:
    """Return the sentences of the method section; empty for equal epochs."""
    match = plan.match
    if match is None:
        return ""
    baseline = bold(name_level(match.compared, match.baseline))
    text = (
        f"**Compute.** In every setting, all arms have the {COMPUTE[match.measure]} of {baseline}, which is trained "
        f"for {count(match.epochs, 'epoch')}. An arm is trained for {match.epochs} / c epochs, rounded to a whole "
        "number, where c is the cost of its epoch divided by that of the baseline; its warm-up and its learning-rate "
        f"schedule change in proportion. With the rounding, the arms have {match.describe_shares()} of the compute of "
        "the baseline. "
    )
    if match.measure == "flops":
        return text + (
            "FLOPs are those of matrix products, convolutions and rotations in the forward and backward passes, a "
            "multiply-add as two; elementwise operations are not counted."
        )
    return text + (
        "c was measured once, before the first run: the median over pairs of training steps of the arm and of the "
        f"baseline, which were timed in turn on {markdown(where(match))}. The time of an epoch includes the validation."
    )


def where(match: ComputeMatch) -> str:
    """Return the machines and environments on which times were measured."""
    return listed(list(dict.fromkeys(cost.where for cost in match.costs.values() if cost.where)))


def compute_limits(plan: StudyPlan) -> str:
    """Return what the matching means for the conclusions, without markup; empty for equal epochs."""
    match = plan.match
    if match is None:
        return ""
    baseline = name_level(match.compared, match.baseline)
    several = len({levels for arm in match.arms.values() for levels in map(match.epochs_of, arm)}) > 1
    text = f"The arms have equal {COMPUTE[match.measure]} instead of equal epochs. "
    if several:
        text += (
            f"They are trained for {epochs_range(match)} epochs, so a difference between two arms combines that of "
            "their architectures with that of the length of their training. "
        )
    text += f"Whole epochs match the compute only to {match.describe_shares()} of that of {baseline}. "
    if len(match.costs) > len(match.arms):
        text += "Compute is matched between the arms of a setting, not between settings. "
    if match.measure == "flops":
        return text + "Equal FLOPs are not equal time: arms reach different shares of the peak of a processor."
    return text + (
        f"The times were measured on {where(match)}; another machine, or another measurement, can give other epochs."
    )


def compute_frame(plan: StudyPlan) -> pd.DataFrame:
    """Return the epochs of each arm and setting, the relative cost of an epoch, and the share of the compute."""
    match = plan.match
    if match is None:
        return pd.DataFrame()
    axes = _axes(match)
    rows = []
    for levels, cost in match.costs.items():
        named = dict(zip(match.axes, map(level_text, levels), strict=True))
        rows.append(
            {axis: named[axis] for axis in axes}
            | {"epochs": match.epochs_of(levels), "relative_cost": cost.value}
            | ({"low": cost.low, "high": cost.high} if match.measure == "seconds" else {})
            | {"share_percent": 100 * match.share_of(levels)}
        )
    return pd.DataFrame(rows)


def compute_table(plan: StudyPlan) -> Table:
    """Return `compute_frame` as a table of text."""
    match = plan.match
    assert match is not None
    axes, timed = _axes(match), match.measure == "seconds"
    rows = [
        (
            *(row[axis] for axis in axes),
            row["epochs"],
            f"{row['relative_cost']:.3f}",
            *([f"{row['low']:.3f} to {row['high']:.3f}" if pd.notna(row["low"]) else "–"] if timed else []),
            f"{row['share_percent']:.0f}",
        )
        for row in compute_frame(plan).to_dict("records")
    ]
    header = ["epochs", "relative cost of an epoch", *["95 % interval"] * timed, f"{COMPUTE[match.measure]} (percent)"]
    return Table([*map(word, axes), *header], rows, left=len(axes))


def _axes(match: ComputeMatch) -> list[str]:
    """Return the axes that tell the arms and settings apart, the compared one first."""
    levels = zip(*match.costs, strict=True)
    varying = [axis for axis, found in zip(match.axes, levels, strict=True) if len(set(found)) > 1]
    return [match.compared, *(axis for axis in varying if axis != match.compared)]
