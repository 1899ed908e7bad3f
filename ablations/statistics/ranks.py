"""Ranks of the arms over settings: mean ranks, Friedman's test, Nemenyi's critical difference (Demšar 2006)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from ablations.statistics.outcomes import FloatArray, Outcomes

_MOST = 2**16
"""Up to this number of permutations Friedman's test enumerates all; beyond it, it draws this many."""


@dataclass(frozen=True)
class Ranks:
    """Mean rank of each arm over the settings (cells); 1 is the best, ties share their rank.

    If neither direction is better, 1 is the highest.

    The unit of observation is a setting, represented by its mean over seeds. Ranks ask whether the order of the arms
    would hold in other settings; contrasts ask how large a difference is in these. `p` is that of Friedman's test
    (`friedman_p`). Two arms whose mean ranks differ by less than `critical` (Nemenyi at 5 %) are not distinguished.
    """

    arms: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    cells: int
    p: float
    critical: float

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The largest sets of neighbouring arms that are not distinguished, best first, without sets of one."""
        order = np.argsort(self.mean_ranks, kind="stable")
        spans: list[tuple[int, int]] = []
        for start in range(len(order)):
            end = start
            while (
                end + 1 < len(order) and self.mean_ranks[order[end + 1]] - self.mean_ranks[order[start]] < self.critical
            ):
                end += 1
            if end > start and (not spans or end > spans[-1][1]):
                spans.append((start, end))
        return [tuple(self.arms[i] for i in order[a : b + 1]) for a, b in spans]


def rank_arms(outcomes: Outcomes) -> Ranks | None:
    """Return the ranks over the settings in which some seed has a run of every arm.

    A setting's means are over the seeds that all arms have there. None for fewer than three arms or two such settings.
    """
    whole: NDArray[np.bool_] = np.all(np.isfinite(outcomes.values), axis=0)
    used = [cell for cell in range(len(outcomes.cells)) if whole[cell].any()]
    arms = len(outcomes.arms)
    if arms < 3 or len(used) < 2:
        return None
    means: FloatArray = np.stack([outcomes.values[:, cell, whole[cell]].mean(axis=1) for cell in used])
    each = scipy_stats.rankdata(-outcomes.measure.sign * means.round(9), axis=1)
    q = float(scipy_stats.studentized_range.isf(0.05, arms, np.inf)) / np.sqrt(2)
    critical = q * np.sqrt(arms * (arms + 1) / (6 * len(used)))
    names = tuple(outcomes.arm_name(arm) for arm in range(arms))
    return Ranks(names, tuple(map(float, each.mean(axis=0))), len(used), friedman_p(each), float(critical))


def friedman_p(each: FloatArray, seed: int = 0) -> float:
    """Return p of Friedman's test for ranks (N settings, k arms).

    p is the share of orders whose rank sums have at least the observed sum of squares, of which Friedman's statistic
    is a monotone function. Exact over all (k!)^(N - 1) orders relative to the first setting's if these are at most
    65,536, otherwise from 65,535 random orders and the observed one. The usual chi-square approximation needs many
    settings and is far off with four.
    """
    observed = _sum_of_squares(each.sum(axis=0))
    if factorial(each.shape[1]) ** (len(each) - 1) <= _MOST:
        sums = each[:1]
        for row in each[1:]:
            orders = np.array(list(permutations(row)))
            sums = (sums[:, None] + orders).reshape(-1, each.shape[1])
        return float(np.mean(_sum_of_squares(sums) >= observed))
    rng, extreme, left = np.random.default_rng(seed), 1, _MOST - 1
    batch = max(1, 2**21 // each.size)
    while left:
        rows = min(batch, left)
        orders = rng.permuted(np.broadcast_to(each, (rows, *each.shape)), axis=2)
        extreme += int(np.count_nonzero(_sum_of_squares(orders.sum(axis=1)) >= observed))
        left -= rows
    return extreme / _MOST


def _sum_of_squares(sums: FloatArray) -> FloatArray:
    """Return the sum of squares of rank sums (..., k). Exact, as ranks are multiples of 1/2."""
    return np.asarray((sums**2).sum(axis=-1))
