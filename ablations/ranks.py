"""Arms ranked in every cell: mean ranks, Friedman's test and Nemenyi's critical difference (Demšar 2006)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from ablations.outcomes import FloatArray, Outcomes


@dataclass(frozen=True)
class Ranks:
    """Mean rank of each arm over the cells, 1 the best; ties share their rank.

    Cells are what is counted, each by its mean over seeds: this asks whether an order would hold in other settings,
    where the contrasts ask how large a difference is in these. `p` is Friedman's; two arms whose mean ranks differ
    by less than `critical` (Nemenyi at 5 %) are not told apart.
    """

    arms: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    cells: int
    p: float
    critical: float

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The largest sets of neighbouring arms, best first, that are not told apart; sets of one are left out."""
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


def ranks(outcomes: Outcomes) -> Ranks | None:
    """The ranks over the cells in which some seed has a run of every arm; None for < 3 arms or < 2 such cells.

    A cell's means are over the seeds that all arms have there.
    """
    whole: NDArray[np.bool_] = np.all(np.isfinite(outcomes.accuracy), axis=0)
    used = [cell for cell in range(len(outcomes.cells)) if whole[cell].any()]
    arms = len(outcomes.arms)
    if arms < 3 or len(used) < 2:
        return None
    means: FloatArray = np.stack([outcomes.accuracy[:, cell, whole[cell]].mean(axis=1) for cell in used])
    each = scipy_stats.rankdata(-means.round(9), axis=1)
    distinct = bool((each != each[:, :1]).any())
    p = float(scipy_stats.friedmanchisquare(*means.round(9).T).pvalue) if distinct else 1.0
    q = float(scipy_stats.studentized_range.isf(0.05, arms, np.inf)) / np.sqrt(2)
    critical = q * np.sqrt(arms * (arms + 1) / (6 * len(used)))
    names = tuple(outcomes.arm_name(arm) for arm in range(arms))
    return Ranks(names, tuple(map(float, each.mean(axis=0))), len(used), p, float(critical))
