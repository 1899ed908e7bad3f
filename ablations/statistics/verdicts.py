"""The verdict on a contrast."""

from __future__ import annotations

from enum import StrEnum

from ablations.statistics.contrasts import ALPHA, Contrast


class Verdict(StrEnum):
    """Better, worse, equivalent or undecided."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"
    NO_PAIRS = "no pairs"


def decided(n: int, mean: float, p_adjusted: float, p_equivalence: float) -> Verdict:
    """Return the verdict that these numbers support."""
    if n == 0:
        return Verdict.NO_PAIRS
    if p_adjusted <= ALPHA:
        return Verdict.BETTER if mean > 0 else Verdict.WORSE
    return Verdict.EQUIVALENT if p_equivalence <= ALPHA else Verdict.UNDECIDED


def verdict(contrast: Contrast) -> Verdict:
    """Return the verdict on a contrast.

    Better or worse if the adjusted p is at most 0.05; otherwise equivalent if p of equivalence is; otherwise undecided.
    """
    return decided(contrast.n, contrast.mean, contrast.p_adjusted, contrast.p_equivalence)
