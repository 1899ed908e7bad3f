"""The verdict on a contrast."""

from __future__ import annotations

from enum import StrEnum

from ablations.statistics.contrasts import ALPHA, Contrast
from ablations.statistics.measure import ACCURACY, Measure


class Verdict(StrEnum):
    """Better, worse, equivalent or undecided; higher or lower if neither direction is better."""

    BETTER = "better"
    WORSE = "worse"
    HIGHER = "higher"
    LOWER = "lower"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"
    NO_PAIRS = "no pairs"


DIFFERENT = frozenset({Verdict.BETTER, Verdict.WORSE, Verdict.HIGHER, Verdict.LOWER})
"""Verdicts that there is a difference."""


def decided(n: int, mean: float, p_adjusted: float, p_equivalence: float, measure: Measure = ACCURACY) -> Verdict:
    """Return the verdict that these numbers support."""
    if n == 0:
        return Verdict.NO_PAIRS
    if p_adjusted <= ALPHA:
        if measure.higher_is_better is None:
            return Verdict.HIGHER if mean > 0 else Verdict.LOWER
        return Verdict.BETTER if measure.sign * mean > 0 else Verdict.WORSE
    return Verdict.EQUIVALENT if p_equivalence <= ALPHA else Verdict.UNDECIDED


def verdict(contrast: Contrast) -> Verdict:
    """Return the verdict on a contrast.

    Better or worse, or higher or lower, if the adjusted p is at most 0.05; otherwise equivalent if p of equivalence is;
    otherwise undecided.
    """
    return decided(contrast.n, contrast.mean, contrast.p_adjusted, contrast.p_equivalence, contrast.measure)
