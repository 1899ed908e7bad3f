"""Balanced accuracy and macro F1 in a report, and the warning of arms that the largest class alone would equal."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ablations.config import count
from ablations.reporting.formatting import listed
from ablations.reporting.tables import Table, word
from ablations.statistics import BalancedScores, Outcomes


def balanced_frame(outcomes: Outcomes, scores: Sequence[BalancedScores]) -> pd.DataFrame:
    """Return the scores of each arm in each setting, in percent."""
    return pd.DataFrame(
        [
            {outcomes.axis: each.arm}
            | dict(zip(outcomes.cell_axes, each.setting, strict=True))
            | {"accuracy": each.accuracy, "balanced_accuracy": each.balanced_accuracy, "macro_f1": each.macro_f1}
            | {"largest_class_alone": each.majority, "smallest_class": each.smallest, "largest_class": each.largest}
            | {"n": each.n}
            for each in scores
        ]
    )


def balanced_table(outcomes: Outcomes, scores: Sequence[BalancedScores]) -> Table:
    axes = [outcomes.axis, *outcomes.cell_axes]
    return Table(
        [*map(word, axes), "accuracy", "balanced accuracy", "macro F1", "largest class alone", "n"],
        [
            (
                each.arm,
                *each.setting,
                *(f"{v:.1f}" for v in (each.accuracy, each.balanced_accuracy, each.macro_f1, each.majority)),
                each.n,
            )
            for each in scores
        ],
        left=len(axes),
    )


def sizes_sentence(scores: Sequence[BalancedScores]) -> str:
    """Return how much the classes of the test set differ in size."""
    most = max(scores, key=lambda each: each.largest / max(each.smallest, 1))
    smallest = count(most.smallest, "image")
    return f"The test set has {smallest} of its smallest class and {most.largest:,} of its largest."


def majority_warning(scores: Sequence[BalancedScores]) -> str:
    """Return which arms are no more accurate than always naming the largest class; nothing if none is so."""
    low = [each for each in scores if each.accuracy <= each.majority]
    if not low:
        return ""
    names = listed([", ".join((each.arm, *each.setting)) for each in low]) if len(low) < len(scores) else "all arms"
    return (
        f"The accuracy of {names} is no higher than that of naming the largest class for every image "
        f"({max(each.majority for each in low):.1f} %)"
    )
