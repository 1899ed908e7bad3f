"""What a number of paired runs can and cannot show: smallest p, seeds for a given power, equivalence."""

from __future__ import annotations

import numpy as np
from scipy import stats as scipy_stats

from ablations.outcomes import FloatArray

MARGIN = 0.5
"""Percentage points below which a difference is of no practical interest."""

MOST_SEEDS = 1_000


def smallest_p(blocks: int) -> float:
    """The smallest two-sided p that a sign-flip test over this many blocks can give: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - blocks))


def paired_power(effect_size: float, blocks: int, alpha: float) -> float:
    """Power of a two-sided paired t-test for Cohen's d_z at `alpha`."""
    if blocks < 2:
        return 0.0
    freedom, centre = blocks - 1, abs(effect_size) * np.sqrt(blocks)
    critical = scipy_stats.t.ppf(1 - alpha / 2, freedom)
    power = scipy_stats.nct.sf(critical, freedom, centre) + scipy_stats.nct.cdf(-critical, freedom, centre)
    return float(power) if np.isfinite(power) else float(centre > critical)


def seeds_needed(differences: FloatArray, alpha: float, power: float = 0.8) -> int | None:
    """Seeds per cell at which a difference and spread as observed would be found with this power.

    `differences` is (G, S) with NaN. At least as many as a sign-flip test needs to reach `alpha` at all. None where
    it would take more than 1,000, or where the spread is unknown because there are fewer than two blocks.
    """
    known = np.isfinite(differences)
    values = differences[known]
    if values.size < 2:
        return None
    cells = int(known.any(axis=1).sum())
    floor = next(n for n in range(1, MOST_SEEDS) if smallest_p(cells * n) <= alpha)
    spread = values.std(ddof=1)
    if spread <= 1e-12:
        return floor if values.mean() else None
    effect = abs(values.mean()) / spread

    def enough(seeds: int) -> bool:
        return paired_power(effect, cells * seeds, alpha) >= power

    low = high = floor
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high + 1, min(2 * high, MOST_SEEDS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def equivalence_p(differences: FloatArray, margin: float = MARGIN) -> float:
    """p of two one-sided paired t-tests (TOST) that the mean lies within ±`margin`; NaN below two blocks."""
    values = differences[np.isfinite(differences)]
    if values.size < 2:
        return np.nan
    if values.std(ddof=1) <= 1e-12:
        return float(abs(values.mean()) >= margin)
    above = scipy_stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = scipy_stats.ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(above, below))
