"""The studentised estimate of paired differences, as a function of the blocks' signs.

The estimate is the mean of the settings' means; its standard error comes from the spread of seeds within settings, as
in the interval (`intervals.estimate_error`), and is computed again for every sign pattern. Differences between settings
therefore do not count as noise, in the test as in the interval. Janssen (1997) and Chung and Romano (2013) give the
theory of studentised permutation tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ablations.statistics.outcomes import FloatArray
from ablations.statistics.setting_weights import variance_shares

NO_SPREAD = 1e-10
"""Share of the mean square of a setting's differences below which their variance is rounding error."""
FLOOR = 1e-12
"""The same share, added to every variance: patterns without any spread are ordered by their estimate."""


def studentise(sums: FloatArray, counts: NDArray[np.integer], squares: FloatArray) -> FloatArray:
    """Return the studentised estimate under each sign pattern, (..., patterns).

    `sums` (G, ..., patterns) are the signed sums of each setting's differences, `counts` (G,) the number of blocks n_g
    and `squares` (G, ...) the sum of squared differences, which signs do not change. With m_g = sums / n_g,

        t = mean_g(m_g) / sqrt(sum_g share_g (squares_g - n_g m_g^2) / (n_g - 1)),    share_g: `variance_shares`.

    If no setting has two blocks there is no spread of seeds to divide by, and the plain estimate is returned. It counts
    differences between settings as noise.
    """
    across = (slice(None), *[None] * (sums.ndim - 1))
    means = sums / counts[across]
    estimates = means.mean(axis=0)
    shares = variance_shares(counts)
    if not shares.any():
        return np.asarray(estimates)
    squares = squares[..., None]
    residual = squares - sums * means
    residual[residual < NO_SPREAD * squares] = 0.0
    variance = np.tensordot(shares / np.maximum(counts - 1, 1), residual, axes=1)
    floor = FLOOR * (squares / counts[across]).max(axis=0)
    return np.asarray(estimates / np.sqrt(variance + np.maximum(floor, np.finfo(float).tiny)))
