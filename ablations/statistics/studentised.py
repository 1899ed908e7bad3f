"""The studentised estimate of paired differences, as a function of the blocks' signs.

The estimate is the mean of the settings' means; its standard error comes from the spread of seeds within settings, as
in the interval (`intervals.estimate_error`), and is computed again for every sign pattern. Differences between settings
therefore do not count as noise, in the test as in the interval. Janssen (1997) and Chung and Romano (2013) give the
theory of studentised permutation tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ablations.statistics.outcomes import FloatArray
from ablations.statistics.setting_weights import variance_shares

NO_SPREAD = 1e-10
"""Share of the mean square of a setting's differences below which their variance is rounding error."""
FLOOR = 1e-12
"""The same share, added to every variance: patterns without any spread are ordered by their estimate."""


def studentise(
    sums: Sequence[FloatArray], counts: NDArray[np.integer], squares: Sequence[FloatArray | float]
) -> FloatArray:
    """Return the studentised estimate under each sign pattern, (..., patterns).

    For each of G settings, `sums` are the signed sums of its differences, (..., patterns), `counts` the number of its
    blocks n_g, and `squares` the sum of its squared differences, (..., 1) or a number, which signs do not change. With
    m_g = sums / n_g,

        t = mean_g(m_g) / sqrt(sum_g share_g (squares_g - n_g m_g^2) / (n_g - 1)),    share_g: `variance_shares`.

    If no setting has two blocks there is no spread of seeds to divide by, and the plain estimate is returned. It counts
    differences between settings as noise.
    """
    return _studentise(sums, counts, squares, lambda total, own: total + own)


def studentise_combined(
    sums: Sequence[FloatArray], counts: NDArray[np.integer], squares: Sequence[FloatArray | float]
) -> FloatArray:
    """Return the studentised estimate under each combination of the settings' own sign patterns.

    As `studentise`, but with `sums` (..., patterns of the setting): each setting has few patterns of its own, and all
    of the study, (..., product of their numbers), are combined from them.
    """

    def combine(total: FloatArray, own: FloatArray) -> FloatArray:
        return (total[..., :, None] + own[..., None, :]).reshape(*own.shape[:-1], -1)

    return _studentise(sums, counts, squares, combine)


def _studentise(
    sums: Sequence[FloatArray],
    counts: NDArray[np.integer],
    squares: Sequence[FloatArray | float],
    add: Callable[[FloatArray, FloatArray], FloatArray],
) -> FloatArray:
    shares = variance_shares(counts)
    estimates, variance = np.zeros((*sums[0].shape[:-1], 1)), np.zeros((*sums[0].shape[:-1], 1))
    floor: FloatArray | float = np.finfo(float).tiny
    for own, count, share, square in zip(sums, counts, shares, squares, strict=True):
        mean = own / count
        estimates = add(estimates, mean / counts.size)
        residual = square - own * mean if share else np.zeros_like(mean)
        residual[residual < NO_SPREAD * square] = 0.0
        variance = add(variance, share / max(count - 1, 1) * residual)
        floor = np.maximum(floor, FLOOR * square / count)
    return estimates / np.sqrt(variance + floor) if shares.any() else estimates
