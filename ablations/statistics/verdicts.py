"""What the numbers of a contrast allow to say of it."""

from __future__ import annotations

from enum import StrEnum

from ablations.statistics.contrasts import ALPHA, Contrast


class Verdict(StrEnum):
    """What the numbers allow to say of a difference."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"
    NO_PAIRS = "no pairs"


def decided(n: int, mean: float, p_adjusted: float, p_equivalence: float) -> Verdict:
    """The verdict that these numbers of a contrast allow."""
    if n == 0:
        return Verdict.NO_PAIRS
    if p_adjusted <= ALPHA:
        return Verdict.BETTER if mean > 0 else Verdict.WORSE
    return Verdict.EQUIVALENT if p_equivalence <= ALPHA else Verdict.UNDECIDED


def verdict(contrast: Contrast) -> Verdict:
    """Better or worse when the adjusted p is at most 0.05; else equivalent when that of the two one-sided tests is."""
    return decided(contrast.n, contrast.mean, contrast.p_adjusted, contrast.p_equivalence)
