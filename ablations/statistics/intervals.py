"""Confidence intervals for means of few values; `benchmarks/statistics.py` measures their coverage."""

from __future__ import annotations

import numpy as np
from scipy import special
from scipy import stats as scipy_stats

from ablations.statistics.outcomes import FloatArray
from ablations.statistics.setting_weights import complete_blocks, estimate, variance_shares

LEVEL = 0.95
RESAMPLES = 4_000
LEAST_FREEDOM = 5
"""Degrees of freedom below which the bootstrap is far too wide, as too many resamples have almost no spread."""

LEAN = 1 / 4
"""Fraction of the way from Student's end of an interval to the bootstrap's, if that is wider; chosen by simulation."""

_NOTHING = (np.nan, np.nan)


def t_interval(values: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """Return Student's interval for a mean; NaN for fewer than two values."""
    values = values[np.isfinite(values)]
    if values.size < 2:
        return _NOTHING
    half = scipy_stats.t.ppf((1 + level) / 2, values.size - 1) * scipy_stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def estimate_error(differences: FloatArray) -> tuple[float, float]:
    """Return the standard error and degrees of freedom of the `estimate` of (G settings, S seeds) with NaN.

    Only the spread of seeds within settings counts: the settings are fixed by the plan, not sampled. Each setting has
    its own variance, so the degrees of freedom are those of Welch and Satterthwaite, in a form that is nearly unbiased
    for few seeds: (sum a_g s_g^2)^2 / (sum (a_g s_g^2)^2 / (f_g + 2)) - 2 with f_g = n_g - 1, since s^4 f / (f + 2) has
    the mean sigma^4; at most sum f_g. The variance of a setting with one block is that of the others, pooled. NaN if no
    setting has two blocks.
    """
    settings = complete_blocks(differences)
    sizes = np.array([row.size for row in settings])
    freedom = sizes - 1
    if freedom.sum() < 1:
        return _NOTHING
    shares = variance_shares(sizes)
    parts = shares * np.array([row.var(ddof=1) if row.size > 1 else 0.0 for row in settings])
    variance = parts.sum()
    if variance <= 1e-24:
        return 0.0, float(freedom.sum())
    found = variance**2 / (parts**2 / (freedom + 2)).sum() - 2
    return float(np.sqrt(variance)), float(min(found, freedom.sum()))


def paired_interval(
    differences: FloatArray, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the `estimate` of paired differences, (G settings, S seeds) with NaN.

    Student's interval, with the error and degrees of freedom of `estimate_error`, covers symmetric differences but is
    too short on the long side of skewed ones. The studentised bootstrap (Efron 1981; Hall 1988), which resamples the
    seeds within each setting, follows the skew but is too wide with few seeds. Each end is therefore Student's, moved a
    quarter (`LEAN`) of the way to the bootstrap's if that is wider. Below `LEAST_FREEDOM` it is Student's. NaN if no
    setting has two seeds.
    """
    mean, (error, freedom) = estimate(differences), estimate_error(differences)
    if np.isnan(error):
        return _NOTHING
    if error == 0:
        return mean, mean
    tail = (1 - level) / 2
    student = float(special.stdtrit(freedom, 1 - tail))
    low = high = student
    if sum(row.size - 1 for row in complete_blocks(differences)) >= LEAST_FREEDOM:
        below, above = np.quantile(studentised_bootstrap(differences, resamples, seed), [tail, 1 - tail])
        low += LEAN * max(0.0, float(above) - student)
        high += LEAN * max(0.0, float(-below) - student)
    return mean - low * error, mean + high * error


def studentised_bootstrap(differences: FloatArray, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """Return the studentised estimate, centred at zero, in resamples of the seeds within settings.

    A setting with one block is resampled from the deviations of the others. Resamples without spread are left out.
    """
    settings = complete_blocks(differences)
    # The deviations of m seeds from their mean have (m - 1) / m of the variance.
    own = [(row - row.mean()) * np.sqrt(row.size / max(row.size - 1, 1)) for row in settings]
    all_of_them = np.concatenate([row for row in own if row.size > 1])
    pools = [row if row.size > 1 else all_of_them for row in own]
    sizes = np.array([row.size for row in settings])
    rng = np.random.default_rng(seed)
    pivots = []
    for rows in _chunks(resamples, max(1, 2**21 // int(sizes.sum()))):
        means, variance = np.zeros(rows), np.zeros(rows)
        for pool, size, share in zip(pools, sizes, variance_shares(sizes), strict=True):
            drawn = pool[rng.integers(0, pool.size, (rows, size))].T.copy()
            mean = drawn.mean(axis=0)
            means += mean / sizes.size
            if size > 1:
                variance += share * ((drawn - mean) ** 2).sum(axis=0) / (size - 1)
        varied = variance > 1e-12 * np.abs(all_of_them).max() ** 2
        pivots.append(means[varied] / np.sqrt(variance[varied]))
    return np.concatenate(pivots)


def _chunks(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]
