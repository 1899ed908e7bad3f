"""Sign-flip permutation tests of paired differences, and Holm's correction.

If two arms do not differ, the difference of a block is symmetric about zero, and its sign is a coin flip. A test
compares the studentised estimate (`studentised.studentise`) with its values under all sign patterns: p is the share of
patterns that are at least as extreme as the observed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ablations.statistics.outcomes import FloatArray
from ablations.statistics.studentised import studentise

EXACT_BLOCKS = 16
"""Up to this number of blocks all sign patterns are enumerated."""
PATTERNS = 2**EXACT_BLOCKS
"""Sign patterns beyond it: the observed one and random ones."""
TIE = 1e-9
"""Relative tolerance within which two statistics are equal."""


def sign_flip_p(differences: FloatArray, seed: int = 0) -> float:
    """Return the two-sided p of the sign-flip test of no difference.

    `differences` are (G settings, S seeds) with NaN for an incomplete block, or (n,) for one setting. Exact up to 16
    complete blocks, otherwise from 65,535 random sign patterns and the observed one. NaN without complete blocks.
    """
    return float(joint_sign_flip_p([differences], seed)[0])


def joint_sign_flip_p(differences: Sequence[FloatArray], seed: int = 0) -> FloatArray:
    """Return the two-sided p of k differences, adjusted for testing all of them at once.

    Each is (G, S) with NaN. One sign per block flips all of its differences together, and p is the share of patterns
    whose largest absolute statistic is at least the observed one of the difference (single-step maxT of Westfall and
    Young 1993). The test accounts for the correlation of the k differences, so its smallest possible p is that of a
    single test, where Holm's is k times that. Exact up to 16 blocks. NaN for a difference without complete blocks.
    """
    arrays = [np.atleast_2d(each) for each in differences]
    known = np.any([np.isfinite(each) for each in arrays], axis=0)
    statistics = [np.abs(flipped_statistics(each, known, seed)) for each in arrays]
    largest = np.max(statistics, axis=0, initial=0.0)
    p = [float(np.mean(largest >= each[0] * (1 - TIE))) for each in statistics]
    return np.where([np.isfinite(each).any() for each in arrays], p, np.nan)


def flipped_statistics(differences: FloatArray, known: NDArray[np.bool_], seed: int = 0) -> FloatArray:
    """Return the studentised estimate of `differences` (G, S) under sign patterns of the `known` blocks.

    The observed pattern is the first. Up to `EXACT_BLOCKS` blocks the patterns are those that leave the last block's
    sign as it is: the opposite ones have the same statistics, negated. Otherwise they are `PATTERNS`, of which all but
    the first are random.
    """
    n = int(known.sum())
    exact = n <= EXACT_BLOCKS
    sums, counts, squares = [], [], []
    first = 0  # block of the setting; block i has the sign of bit i in a pattern's number
    for row, blocks in zip(differences, known, strict=True):
        last = first + int(blocks.sum())
        values = np.nan_to_num(row[blocks])
        if np.isfinite(row).any():
            if exact:
                own = (all_signs(values.size) @ values)[None, :, None]
                own = own[:, : own.size // 2] if last == n else own
                shape = (2 ** max(n - 1 - last, 0), own.size, 2**first)
                sums.append(np.broadcast_to(own, shape).ravel())
            else:
                sums.append(random_signs(n, seed)[:, first:last] @ values)
            counts.append(int(np.isfinite(row).sum()))
            squares.append(float(values @ values))
        first = last
    if not counts:
        return np.zeros(2 ** max(n - 1, 0) if exact else PATTERNS)
    return studentise(sums, np.array(counts), squares)


@lru_cache(maxsize=EXACT_BLOCKS + 1)
def all_signs(blocks: int) -> FloatArray:
    """Return every sign pattern, (2^blocks, blocks) of +1 and -1, the observed one (all +1) first."""
    return np.asarray(1.0 - 2.0 * (np.arange(2**blocks)[:, None] >> np.arange(blocks) & 1))


@lru_cache(maxsize=2)
def random_signs(blocks: int, seed: int) -> FloatArray:
    """Return `PATTERNS` random sign patterns, (PATTERNS, blocks) of +1 and -1, the observed one (all +1) first."""
    signs = 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, (PATTERNS, blocks))
    signs[0] = 1.0
    return np.asarray(signs)


def holm(p_values: Sequence[float]) -> FloatArray:
    """Return Holm's adjusted p values of a family; NaN stays NaN and does not count as a member.

    The same as statsmodels' `multipletests(method="holm")`, without the garbage collection that it runs on every call.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    places = np.flatnonzero(known)[np.argsort(p[known], kind="stable")]
    steps = p[places] * np.arange(places.size, 0, -1)
    adjusted[places] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
