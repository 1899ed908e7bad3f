"""Settings count alike, whatever number of their blocks is complete: a lost run must not change what is estimated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ablations.statistics.outcomes import FloatArray


def weights(counts: NDArray[np.integer]) -> FloatArray:
    """What a block counts in each setting, (G,): n / (G n_g), where n_g = `counts` of the n blocks are complete.

    Their mean over the blocks is 1, and each is 1 with as many blocks in every setting. Settings without a block have
    no part: G leaves them out.
    """
    return np.asarray(counts.sum() / (max(int(np.count_nonzero(counts)), 1) * np.maximum(counts, 1)))


def weigh(differences: FloatArray) -> FloatArray:
    """Differences, (G settings, S seeds) or (S,) with NaN, times their weights: their mean is the `estimate`."""
    return differences * weights(np.isfinite(differences).sum(axis=-1, keepdims=True))


def estimate(differences: FloatArray) -> float:
    """The mean of the settings' means, over the settings that have a block; NaN without blocks."""
    weighed = weigh(differences)[np.isfinite(differences)]
    return float(weighed.mean()) if weighed.size else np.nan
