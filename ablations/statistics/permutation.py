"""Sign-flip permutation tests of paired differences, and Holm's correction; tested against SciPy and statsmodels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablations.statistics.outcomes import FloatArray
from ablations.statistics.setting_weights import weigh

EXACT_BLOCKS = 16
_FLIPS = 2**EXACT_BLOCKS


def sign_flip_p(differences: FloatArray, seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: how often do random signs give an `estimate` as far from zero?

    `differences` are (G, S) with NaN, or (n,) of one setting. Exact up to 16 blocks, beyond that from 65,535 random
    sign patterns and the observed one. NaN without blocks.
    """
    values = weigh(differences)[np.isfinite(differences)]
    n = values.size
    if n == 0:
        return np.nan
    threshold = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if n <= EXACT_BLOCKS:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= threshold))
    rng = np.random.default_rng(seed)
    extreme, left = 1, _FLIPS - 1
    batch = max(1, 2**22 // n)
    while left:
        rows = min(batch, left)
        bits = np.unpackbits(np.frombuffer(rng.bytes(rows * (-(-n // 8))), np.uint8).reshape(rows, -1), axis=1)
        sums = 2 * (bits[:, :n] @ values) - values.sum()
        extreme += int(np.count_nonzero(np.abs(sums) >= threshold))
        left -= rows
    return extreme / _FLIPS


def joint_sign_flip_p(differences: FloatArray, seed: int = 0) -> FloatArray:
    """p values of k paired means, (k, n blocks) with NaN, adjusted for testing all k at once.

    One sign a block flips all its differences together; a p is the share of flips whose largest mean is at least
    the one observed (the single-step procedure of Westfall and Young). It knows that the k means are correlated,
    so its smallest p is that of one test, where Holm's is k times that. Exact up to 16 blocks. NaN without blocks.
    """
    known = np.isfinite(differences)
    used = known.any(axis=0)
    values = np.where(known, differences, 0.0)[:, used] / np.maximum(known.sum(axis=1, keepdims=True), 1)
    n = values.shape[1]
    observed = np.abs(values.sum(axis=1))
    threshold = observed - 1e-9 * np.abs(values).sum(axis=1)
    if n <= EXACT_BLOCKS:
        sums = np.zeros((len(values), 1))
        for block in values.T:
            sums = np.concatenate([sums + block[:, None], sums - block[:, None]], axis=1)
    else:
        signs = np.random.default_rng(seed).integers(0, 2, (_FLIPS - 1, n), dtype=np.int8) * 2 - 1
        sums = np.column_stack([observed, values @ signs.T])
    largest = np.abs(sums).max(axis=0, initial=0.0)
    p = (largest[None, :] >= threshold[:, None]).mean(axis=1)
    return np.where(known.any(axis=1), p, np.nan)


def holm(p_values: Sequence[float]) -> FloatArray:
    """Holm's adjusted p values of a family; NaN stays NaN and does not count as a member.

    What statsmodels' `multipletests` gives, without the garbage collection that it runs on every call.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    places = np.flatnonzero(known)[np.argsort(p[known], kind="stable")]
    steps = p[places] * np.arange(places.size, 0, -1)
    adjusted[places] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
