"""What a number of paired runs can and cannot show: smallest p, seeds for a given power, equivalence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import special

from ablations.statistics.intervals import estimate_error
from ablations.statistics.outcomes import FloatArray
from ablations.statistics.setting_weights import estimate, weights

Noise = Literal["normal", "laplace"]

MARGIN = 0.5
"""Percentage points below which a difference is of no practical interest."""

MOST_SEEDS = 1_000

SIMULATED_BLOCKS = 12
"""Up to so many blocks the power of a sign-flip test is that of the test itself, beyond it that of a t-test."""

ALIKE_BLOCKS = 100
"""Beyond so many blocks the tails of the differences change the power of a t-test by less than half a point."""


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


def sign_flip_power(effect_size: float, blocks: int | Sequence[int], alpha: float) -> float:
    """Power of the two-sided sign-flip test at `alpha` for Cohen's d_z, within 0.01; `blocks` in all or by setting.

    The mean of that for normal differences and that for Laplace's: a handful of seeds does not tell how heavy the tails
    are, and the difference of two runs with the same skewed noise is symmetric with heavy ones (of two exponential
    variables it is Laplace's).
    """
    return (power_under("normal", effect_size, blocks, alpha) + power_under("laplace", effect_size, blocks, alpha)) / 2


def power_under(noise: Noise, effect_size: float, blocks: int | Sequence[int], alpha: float) -> float:
    """Power of the sign-flip test for differences so distributed.

    From 4,000 simulated studies up to `SIMULATED_BLOCKS` blocks, where few p values are possible and a t-test would
    promise up to 0.15 too much; beyond that from the t-test, whose power it approaches.
    """
    counts = np.atleast_1d(blocks)
    n, weight = int(counts.sum()), weights(counts)
    if n > ALIKE_BLOCKS or (n > SIMULATED_BLOCKS and noise == "normal"):
        # Unequal weights widen the error of the estimate as if there were fewer blocks.
        return paired_power(effect_size * np.sqrt(n / (weight**2 * counts).sum()), n, alpha)
    thresholds = _detected_from(tuple(np.sort(np.repeat(weight, counts))), alpha, noise)
    found = np.searchsorted(thresholds, [abs(effect_size), -abs(effect_size)], side="left")
    return float(found.sum()) / thresholds.size


@lru_cache(maxsize=256)
def _detected_from(weight: tuple[float, ...], alpha: float, noise: Noise) -> FloatArray:
    """The effect above which each simulated study of unit spread rejects in the positive direction, sorted.

    Blocks count with their `weight` (n,).
    """
    exact = len(weight) <= SIMULATED_BLOCKS
    thresholds, studies = (_sign_flip_thresholds, 4_000) if exact else (_t_thresholds, 20_000)
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(8):
        shape = (studies // 8, len(weight))
        drawn = rng.normal(size=shape) if noise == "normal" else rng.laplace(scale=2**-0.5, size=shape)
        parts.append(thresholds(drawn, np.array(weight), alpha))
    return np.sort(np.concatenate(parts))


def _sign_flip_thresholds(noise: FloatArray, weight: FloatArray, alpha: float) -> FloatArray:
    """The effect from which each study, (studies, n), is rejected by the sign-flip test.

    Flipping the signs of a set of blocks keeps the mean as high or higher while their own mean is at most zero. With
    noise z and effect d that is d <= -mean(z over the set), so a test that allows k - 1 such sets rejects from the
    k-th largest of these values on (Hartigan 1969, "typical values"). All means are weighted.
    """
    allowed = int(np.floor(alpha * 2**weight.size / 2 + 1e-9))
    if allowed < 1:
        return np.full(len(noise), np.inf)
    sums, sizes = np.zeros((len(noise), 1)), np.zeros(1)
    for block, size in zip((noise * weight).T, weight, strict=True):
        sums = np.concatenate([sums, sums + block[:, None]], axis=1)
        sizes = np.concatenate([sizes, sizes + size])
    typical = -sums[:, 1:] / sizes[1:]
    # The empty set ties with the observed signs and always counts, so k - 1 others may.
    return np.asarray(np.partition(typical, -allowed, axis=1)[:, -allowed])


def _t_thresholds(noise: FloatArray, weight: FloatArray, alpha: float) -> FloatArray:
    """The effect from which each study, (studies, n), is rejected by the t-test."""
    n = weight.size
    error = noise.std(axis=1, ddof=1) * np.sqrt((weight**2).sum()) / n
    return np.asarray(special.stdtrit(n - 1, 1 - alpha / 2) * error - (noise * weight).mean(axis=1))


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
    mean = abs(estimate(differences))
    if spread <= 1e-12:
        return floor if mean else None
    effect = mean / spread

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
    """p of two one-sided t-tests (TOST) that the mean lies within ±`margin`; differences are (G, S) with NaN.

    Standard error and degrees of freedom are those of Student's interval (`estimate_error`): where that of 95 % lies
    within the margin, p is at most 0.025. NaN where nothing is known of the spread of seeds within settings: none has
    two, or all its differences are the same (accuracies are counts of images, so that happens by rounding).
    """
    error, freedom = estimate_error(differences)
    if not error > 1e-12:
        return np.nan
    return float(special.stdtr(freedom, -(margin - abs(estimate(differences))) / error))


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
        freedom = cells * (seeds - 1)
        margin_in_errors = margin * np.sqrt(cells * seeds) / spread
        return 2 * special.stdtr(freedom, margin_in_errors - special.stdtrit(freedom, 1 - alpha)) - 1 >= power

    return next((seeds for seeds in range(2, MOST_SEEDS) if enough(seeds)), MOST_SEEDS)
