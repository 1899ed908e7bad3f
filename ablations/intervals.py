"""Confidence intervals for means of few values; how often they hold is measured in `benchmarks/statistics.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats as scipy_stats

from ablations.outcomes import FloatArray

LEVEL = 0.95
RESAMPLES = 4_000
LEAST_FREEDOM = 5
"""Degrees of freedom below which resamples too often have next to no spread, and the bootstrap is far too wide."""

_NOTHING = (np.nan, np.nan)


def t_interval(values: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """Student's interval for a mean; NaN for fewer than two values."""
    values = values[np.isfinite(values)]
    if values.size < 2:
        return _NOTHING
    half = scipy_stats.t.ppf((1 + level) / 2, values.size - 1) * scipy_stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def paired_interval(
    differences: FloatArray, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval for the mean of paired differences, (G cells, S seeds) with NaN; NaN if no cell has two seeds.

    Only the spread of seeds within cells counts: the cells are those of the plan, not a sample. At each end it is
    the wider of two intervals with n - G degrees of freedom. Student's, with the spread pooled over the cells, holds
    for symmetric differences but is too short on the long side of skewed ones. The studentised bootstrap (Efron 1981;
    Hall 1988) of the deviations from the cells' means follows the skew but is too short for heavy tails. Below
    `LEAST_FREEDOM` degrees of freedom it is Student's alone.
    """
    cells = [row[np.isfinite(row)] for row in np.atleast_2d(differences)]
    cells = [cell for cell in cells if cell.size]
    freedom = sum(cell.size - 1 for cell in cells)
    if freedom == 0:
        return _NOTHING
    mean, spread = _mean_and_spread(cells)
    if spread <= 1e-12:
        return mean, mean
    tail = (1 - level) / 2
    student = float(scipy_stats.t.ppf(1 - tail, freedom)) / np.sqrt(sum(cell.size for cell in cells))
    low = high = student
    if freedom >= LEAST_FREEDOM:
        _, _, pivots = studentised_bootstrap(cells, resamples, seed)
        below, above = np.quantile(pivots, [tail, 1 - tail])
        low, high = max(student, float(above)), max(student, float(-below))
    return float(mean - low * spread), float(mean + high * spread)


def studentised_bootstrap(
    cells: Sequence[FloatArray], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, FloatArray]:
    """The mean of values in cells, their spread within cells, and mean over spread in resamples around zero."""
    sizes = np.array([cell.size for cell in cells])
    # A cell of m seeds shows only (m - 1) / m of its variance in its deviations.
    pool = np.concatenate([(c - c.mean()) * np.sqrt(c.size / (c.size - 1)) for c in cells if c.size > 1])
    return *_mean_and_spread(cells), _studentised(pool, sizes, resamples, np.random.default_rng(seed))


def _mean_and_spread(cells: Sequence[FloatArray]) -> tuple[float, float]:
    freedom = sum(cell.size - 1 for cell in cells)
    spread = np.sqrt(sum(float(((cell - cell.mean()) ** 2).sum()) for cell in cells) / freedom)
    return float(np.concatenate(cells).mean()), float(spread)


def _studentised(pool: FloatArray, sizes: np.ndarray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Mean over pooled spread of resamples with cells of these sizes; those without any spread are left out."""
    n, freedom = int(sizes.sum()), int((sizes - 1).sum())
    starts = np.cumsum(sizes) - sizes
    pivots = []
    for rows in _chunks(resamples, max(1, 2**21 // n)):
        drawn = pool[rng.integers(0, pool.size, (rows, n))]
        sums = np.add.reduceat(drawn, starts, axis=1)
        within = (drawn**2).sum(axis=1) - (sums**2 / sizes).sum(axis=1)
        spread = np.sqrt(np.maximum(within, 0) / freedom)
        varied = spread > 1e-6 * np.abs(pool).max()
        pivots.append((sums.sum(axis=1) / n)[varied] / spread[varied])
    return np.concatenate(pivots)


def _chunks(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]
