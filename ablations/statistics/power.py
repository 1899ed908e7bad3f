"""Power analysis of paired runs: smallest possible p, power, seeds needed, equivalence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ablations.statistics.intervals import estimate_error
from ablations.statistics.outcomes import FloatArray
from ablations.statistics.permutation import all_signs
from ablations.statistics.setting_weights import complete_blocks, estimate, variance_shares
from ablations.statistics.studentised import studentise_combined

Noise = Literal["normal", "laplace"]

MARGIN = 0.5
"""Differences smaller than this, in percentage points, are of no practical interest."""

MOST_SEEDS = 1_000

SIMULATED_BLOCKS = 12
"""Up to this number of blocks the power is that of the sign-flip test itself, simulated; beyond it that of a t-test."""

ALIKE_BLOCKS = 100
"""Beyond this number of blocks the tails of the noise change the power of a t-test by less than half a point."""

LARGEST_EFFECT = 16.0
"""Effect sizes are searched for up to here."""


def smallest_p(blocks: int) -> float:
    """Return the smallest possible two-sided p of a sign-flip test over n blocks, 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - blocks))


def t_power(centre: float, freedom: float, alpha: float) -> float:
    """Return the power of a two-sided t-test with noncentrality `centre` at `alpha`; 0 without degrees of freedom."""
    if freedom < 1:
        return 0.0
    centre = abs(centre)
    critical = special.stdtrit(freedom, 1 - alpha / 2)
    power = 1 - special.nctdtr(freedom, centre, critical) + special.nctdtr(freedom, centre, -critical)
    return float(power) if np.isfinite(power) else float(centre > critical)


def sign_flip_power(effect_size: float, blocks: int | Sequence[int], alpha: float) -> float:
    """Return the power of the two-sided sign-flip test at `alpha`, within 0.01.

    `effect_size` is the true difference over the standard deviation of paired differences between seeds within a
    setting; `blocks` are those of one setting, or of each setting. The power is the mean of that for normal and for
    Laplace noise: a handful of seeds does not tell how heavy the tails are, and the difference of two runs with the
    same skewed noise is symmetric with heavy tails (of two exponential variables it is Laplace's).
    """
    return (power_under("normal", effect_size, blocks, alpha) + power_under("laplace", effect_size, blocks, alpha)) / 2


def power_under(noise: Noise, effect_size: float, blocks: int | Sequence[int], alpha: float) -> float:
    """Return the power of the sign-flip test for paired differences with this noise.

    Simulated up to `SIMULATED_BLOCKS` blocks, where few p values are possible and a t-test would promise up to 0.15
    too much. Beyond it from the t-test with the same standard error, whose power the sign-flip test approaches.
    """
    counts = np.sort(np.atleast_1d(blocks))
    counts = counts[counts > 0]
    if counts.size and counts[-1] == 1:  # no spread within settings: the plain mean, as over one setting
        counts = np.array([counts.size])
    n = int(counts.sum())
    if n > ALIKE_BLOCKS or (n > SIMULATED_BLOCKS and noise == "normal"):
        return t_power(effect_size / np.sqrt(variance_shares(counts).sum()), n - counts.size, alpha)
    thresholds = _detected_from(tuple(int(count) for count in counts), alpha, noise)
    found = np.searchsorted(thresholds, [abs(effect_size), -abs(effect_size)], side="left")
    return float(found.sum()) / thresholds.size


@lru_cache(maxsize=4096)
def _detected_from(counts: tuple[int, ...], alpha: float, noise: Noise) -> FloatArray:
    """Return the effect above which each of many simulated studies rejects in the positive direction, sorted.

    `counts` are the blocks of each setting; the noise has unit variance.
    """
    exact = sum(counts) <= SIMULATED_BLOCKS
    thresholds, studies, parts = (_sign_flip_thresholds, 2_000, 16) if exact else (_t_thresholds, 20_000, 8)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(parts):
        shape = (studies // parts, sum(counts))
        drawn = rng.normal(size=shape) if noise == "normal" else rng.laplace(scale=2**-0.5, size=shape)
        found.append(thresholds(drawn, np.array(counts), alpha))
    return np.sort(np.concatenate(found))


def _sign_flip_thresholds(noise: FloatArray, counts: NDArray[np.integer], alpha: float) -> FloatArray:
    """Return the effect from which each study, (studies, n), is rejected by the sign-flip test, by bisection."""
    allowed = int(np.floor(alpha * 2 ** (noise.shape[1] - 1) + 1e-9))
    if allowed < 1:
        return np.full(len(noise), np.inf)
    settings = np.split(np.arange(noise.shape[1]), np.cumsum(counts)[:-1])
    patterns = [all_signs(own.size) for own in settings]
    patterns[0] = patterns[0][: 2 ** (counts[0] - 1)]  # of two opposite patterns of the study one suffices
    sums = [noise[:, own] @ signs.T for own, signs in zip(settings, patterns, strict=True)]  # (studies, patterns) each
    signs = [own.sum(axis=1) for own in patterns]
    low, high = np.full(len(noise), -LARGEST_EFFECT), np.full(len(noise), LARGEST_EFFECT)
    for _ in range(14):
        effect = (low + high) / 2
        moved = [each + effect[:, None] * sign for each, sign in zip(sums, signs, strict=True)]
        squares = [((noise[:, own] + effect[:, None]) ** 2).sum(axis=1, keepdims=True) for own in settings]
        found = studentise_combined(moved, counts, squares)
        extreme = (np.abs(found) >= found[:, :1] * (1 - 1e-9)).sum(axis=1)
        rejected = (found[:, 0] > 0) & (extreme <= allowed)
        low, high = np.where(rejected, low, effect), np.where(rejected, effect, high)
    return high


def _t_thresholds(noise: FloatArray, counts: NDArray[np.integer], alpha: float) -> FloatArray:
    """Return the effect from which each study, (studies, n), is rejected by the t-test."""
    settings = np.split(noise, np.cumsum(counts)[:-1], axis=1)
    means = np.mean([own.mean(axis=1) for own in settings], axis=0)
    spreads = np.stack([own.var(axis=1, ddof=1) if own.shape[1] > 1 else np.zeros(len(own)) for own in settings])
    error = np.sqrt(variance_shares(counts) @ spreads)
    return np.asarray(special.stdtrit(noise.shape[1] - counts.size, 1 - alpha / 2) * error - means)


def seeds_needed(differences: FloatArray, alpha: float, power: float = 0.8) -> int | None:
    """Return the seeds per setting at which the observed difference and spread would be found with this power.

    `differences` is (G, S) with NaN. At least the seeds with which a sign-flip test can reach `alpha` at all. None if
    more than 1,000 would be needed, or if the spread between seeds is unknown: no setting has two blocks, or the
    differences within every setting are equal.
    """
    error, _ = estimate_error(differences)
    if not error > 1e-12:
        return None
    counts = np.array([values.size for values in complete_blocks(differences)])
    cells, mean = counts.size, abs(estimate(differences))
    floor = next(n for n in range(1, MOST_SEEDS) if smallest_p(cells * n) <= alpha)
    effect = mean * np.sqrt(variance_shares(counts).sum()) / error

    def enough(seeds: int) -> bool:
        return sign_flip_power(effect, [seeds] * cells, alpha) >= power

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
    """Return p of two one-sided t-tests (TOST) that the mean lies within ±`margin`; differences are (G, S) with NaN.

    Standard error and degrees of freedom are those of Student's interval (`estimate_error`): if its 95 % interval lies
    within the margin, p is at most 0.025. NaN if the spread of seeds within settings is unknown: no setting has two
    seeds, or all differences are equal (accuracies are counts of images, so this happens by rounding).
    """
    error, freedom = estimate_error(differences)
    if not error > 1e-12:
        return np.nan
    return float(special.stdtr(freedom, -(margin - abs(estimate(differences))) / error))


def detectable_effect(blocks: int | Sequence[int], alpha: float, power: float = 0.8) -> float | None:
    """Return the smallest effect size that a sign-flip test finds with this power; None if it can never reject.

    `effect size` and `blocks` as in `sign_flip_power`.
    """
    if smallest_p(int(np.sum(blocks))) > alpha:
        return None
    low, high = 0.0, 1.0
    while sign_flip_power(high, blocks, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if sign_flip_power(middle, blocks, alpha) >= power else (middle, high)
    return high


def equivalence_seeds(cells: int, spread: float, alpha: float, margin: float = MARGIN, power: float = 0.8) -> int:
    """Return the seeds per setting at which two identical arms are shown equivalent with this power, at most 1,000.

    `spread` is the standard deviation of paired differences in points, `alpha` the level of the two one-sided tests.
    """

    def enough(seeds: int) -> bool:
        freedom = cells * (seeds - 1)
        margin_in_errors = margin * np.sqrt(cells * seeds) / spread
        return 2 * special.stdtr(freedom, margin_in_errors - special.stdtrit(freedom, 1 - alpha)) - 1 >= power

    return next((seeds for seeds in range(2, MOST_SEEDS) if enough(seeds)), MOST_SEEDS)
