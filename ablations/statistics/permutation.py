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
    patterns = sign_patterns(int(known.sum()), seed)
    statistics = [np.abs(flipped_statistics(each, known, patterns)) for each in arrays]
    largest = np.max(statistics, axis=0, initial=0.0)
    p = [float(np.mean(largest >= each[0] * (1 - TIE))) for each in statistics]
    return np.where([np.isfinite(each).any() for each in arrays], p, np.nan)


@lru_cache(maxsize=4)
def sign_patterns(blocks: int, seed: int = 0) -> NDArray[np.int8]:
    """Return sign patterns (patterns, blocks) of +1 and -1, int8, the observed one (all +1) first.

    All 2^blocks up to `EXACT_BLOCKS`, otherwise `PATTERNS` of which all but the first are random.
    """
    if blocks <= EXACT_BLOCKS:
        bits = np.arange(2**blocks)[:, None] >> np.arange(blocks) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (PATTERNS, blocks), dtype=np.int8)
        bits[0] = 0
    return (1 - 2 * bits).astype(np.int8)


def flipped_statistics(differences: FloatArray, known: NDArray[np.bool_], patterns: NDArray[np.int8]) -> FloatArray:
    """Return the studentised estimate of `differences` (G, S) under each pattern of signs of the `known` blocks."""
    columns = np.cumsum(known).reshape(known.shape) - 1  # of a block in the patterns
    sums, counts, squares = [], [], []
    for row, column in zip(differences, columns, strict=True):
        finite = np.isfinite(row)
        if finite.any():
            sums.append(patterns[:, column[finite]] @ row[finite])
            counts.append(int(finite.sum()))
            squares.append(float(row[finite] @ row[finite]))
    if not counts:
        return np.zeros(len(patterns))
    return studentise(np.array(sums), np.array(counts), np.array(squares))


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
