"""What a number of paired runs can and cannot show: smallest p, seeds for a given power, equivalence."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special

from ablations.outcomes import FloatArray

MARGIN = 0.5
"""Percentage points below which a difference is of no practical interest."""

MOST_SEEDS = 1_000

SIMULATED_BLOCKS = 12
"""Up to so many blocks the power of a sign-flip test is that of the test itself, beyond it that of a t-test."""

_STUDIES = 4_000


def smallest_p(blocks: int) -> float:
    """The smallest two-sided p that a sign-flip test over this many blocks can give: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - blocks))


def paired_power(effect_size: float, blocks: int, alpha: float) -> float:
    """Power of a two-sided paired t-test for Cohen's d_z at `alpha`."""
    if blocks < 2:
        return 0.0
    freedom, centre = blocks - 1, abs(effect_size) * np.sqrt(blocks)
    critical = special.stdtrit(freedom, 1 - alpha / 2)
    power = 1 - special.nctdtr(freedom, centre, critical) + special.nctdtr(freedom, centre, -critical)
    return float(power) if np.isfinite(power) else float(centre > critical)


def sign_flip_power(effect_size: float, blocks: int, alpha: float) -> float:
    """Power of the two-sided sign-flip test at `alpha` for Cohen's d_z and normal differences, within 0.01.

    From 4,000 simulated studies up to `SIMULATED_BLOCKS` blocks, where few p values are possible and a t-test
    would promise up to 0.15 too much; beyond that it is the power of the t-test, which it approaches.
    """
    if blocks > SIMULATED_BLOCKS:
        return paired_power(effect_size, blocks, alpha)
    thresholds = _detected_from(blocks, alpha)
    found = np.searchsorted(thresholds, abs(effect_size), side="left")
    wrong = np.searchsorted(thresholds, -abs(effect_size), side="left")
    return float(found + wrong) / _STUDIES


@lru_cache(maxsize=256)
def _detected_from(blocks: int, alpha: float) -> FloatArray:
    """The effect above which each simulated study of unit spread rejects in the positive direction, sorted.

    Flipping the signs of a set of blocks keeps the mean as high or higher while their own mean is at most zero. With
    noise z and effect d that is d <= -mean(z over the set), so a test that allows k - 1 such sets rejects from the
    k-th largest of these values on (Hartigan 1969, "typical values").
    """
    allowed = int(np.floor(alpha * 2**blocks / 2 + 1e-9))
    if allowed < 1:
        return np.full(_STUDIES, np.inf)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(8):
        noise = rng.normal(size=(_STUDIES // 8, blocks))
        sums, counts = np.zeros((len(noise), 1)), np.zeros(1)
        for block in noise.T:
            sums = np.concatenate([sums, sums + block[:, None]], axis=1)
            counts = np.concatenate([counts, counts + 1])
        typical = -sums[:, 1:] / counts[1:]
        # The empty set ties with the observed signs and always counts, so k - 1 others may.
        found.append(np.partition(typical, -allowed, axis=1)[:, -allowed])
    return np.sort(np.concatenate(found))


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
        return sign_flip_power(effect, cells * seeds, alpha) >= power

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
    """p of two one-sided paired t-tests (TOST) that the mean lies within ±`margin`.

    NaN below two blocks, and where all differences are the same: accuracies are counts of images, so that happens by
    rounding, and says nothing of the spread.
    """
    values = differences[np.isfinite(differences)]
    if values.size < 2:
        return np.nan
    spread = values.std(ddof=1)
    if spread <= 1e-12:
        return np.nan
    nearest = (margin - abs(values.mean())) / (spread / np.sqrt(values.size))
    return float(special.stdtr(values.size - 1, -nearest))


def detectable_effect(blocks: int, alpha: float, power: float = 0.8) -> float | None:
    """The least Cohen's d_z that a sign-flip test over `blocks` finds with this power; None where it never rejects."""
    if smallest_p(blocks) > alpha:
        return None
    low, high = 0.0, 1.0
    while sign_flip_power(high, blocks, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if sign_flip_power(middle, blocks, alpha) >= power else (middle, high)
    return high


def equivalence_seeds(cells: int, spread: float, alpha: float, margin: float = MARGIN, power: float = 0.8) -> int:
    """Seeds per cell at which two arms that do not differ at all are shown equivalent with this power; at most 1,000.

    `spread` is the standard deviation of paired differences in points, `alpha` the level of the two one-sided tests.
    """

    def enough(seeds: int) -> bool:
        n = cells * seeds
        if n < 2:
            return False
        margin_in_errors = margin * np.sqrt(n) / spread
        return 2 * special.stdtr(n - 1, margin_in_errors - special.stdtrit(n - 1, 1 - alpha)) - 1 >= power

    return next((seeds for seeds in range(1, MOST_SEEDS) if enough(seeds)), MOST_SEEDS)
