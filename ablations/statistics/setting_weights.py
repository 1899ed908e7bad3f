"""Weights of settings: every setting counts equally, however many of its blocks are complete.

A lost run must not change what is estimated. G settings, S seeds; differences are (G, S) with NaN for an incomplete
block, or (S,) for one setting; n_g is the number of complete blocks of setting g, and n their sum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ablations.statistics.outcomes import FloatArray


def estimate(differences: FloatArray) -> float:
    """Return the mean of the settings' means, over the settings that have a complete block; NaN if none has."""
    means = [values.mean() for values in complete_blocks(differences)]
    return float(np.mean(means)) if means else np.nan


def complete_blocks(differences: FloatArray) -> list[FloatArray]:
    """Return the differences of the complete blocks, one array (n_g,) for each setting that has any."""
    rows = [row[np.isfinite(row)] for row in np.atleast_2d(differences)]
    return [row for row in rows if row.size]


def variance_shares(counts: NDArray[np.integer]) -> FloatArray:
    """Return the coefficients (G,) of the settings' sample variances in the variance of the `estimate`.

    1 / (G^2 n_g). A setting with one block has no sample variance: the pooled variance of the others, weighted by
    their degrees of freedom, stands in for it. All zeros if no setting has two blocks.
    """
    own, freedom = 1 / (counts.size**2 * counts), counts - 1
    if not freedom.any():
        return np.zeros(counts.size)
    return np.asarray(np.where(freedom > 0, own, 0.0) + own[freedom == 0].sum() * freedom / freedom.sum())
