"""Pairs of classes that an arm confuses more or less often than the baseline, tested jointly over pairs of runs.

The unit is the run: the test images are the same in all runs, so single images are not independent. If an arm does not
differ from the baseline, the two runs of a block can change places, which changes the signs of all differences of the
block, one for each pair of classes. p is the share of sign patterns whose largest absolute sum is at least the observed
one (maxT of Westfall and Young 1993, without studentisation, because most counts are small), times the number of arms
(Bonferroni). It accounts for the correlation of the pairs and for testing all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ablations.statistics.outcomes import FloatArray, Outcomes
from ablations.statistics.permutation import EXACT_BLOCKS, TIE, all_signs, random_signs

COLUMNS = 128
"""Sums computed at once."""


@dataclass(frozen=True)
class Confusion:
    """How often an arm takes one of two classes for the other, in images per run, compared with the baseline.

    Over the `n` blocks in which both have a confusion matrix.
    """

    arm: str
    baseline: str
    first: int
    second: int
    images: float
    """Confused images of a run of the arm, mean over runs."""
    images_baseline: float
    n: int
    p: float
    """Adjusted for all pairs of classes and all arms."""

    @property
    def difference(self) -> float:
        return self.images - self.images_baseline


def compare_confusions(outcomes: Outcomes, matrix: Callable[[str], NDArray[np.integer] | None]) -> list[Confusion]:
    """Return every pair of classes that some run confuses, for every arm but the baseline, the smallest p first.

    `matrix` returns the confusion matrix (classes, classes) of a run by its key; rows are labels.
    """
    others = outcomes.others
    found = [each for arm in others for each in _compare_with_baseline(outcomes, arm, matrix)]
    adjusted = [replace(each, p=min(1.0, len(others) * each.p)) for each in found]
    return sorted(adjusted, key=lambda each: (each.p, -abs(each.difference)))


def _compare_with_baseline(
    outcomes: Outcomes, arm: int, matrix: Callable[[str], NDArray[np.integer] | None]
) -> list[Confusion]:
    """Return the pairs of classes that an arm or the baseline confuses, with the joint p of this arm."""
    matrices = paired_matrices(outcomes, arm, matrix)
    first, second = np.triu_indices(matrices.shape[2], 1)
    counts = (matrices + matrices.swapaxes(2, 3))[:, :, first, second]  # (2, blocks, pairs of classes)
    used = np.flatnonzero(counts.any(axis=(0, 1)))
    if not used.size:
        return []
    p = joint_sum_p(counts[0][:, used] - counts[1][:, used])
    own, baseline = counts.mean(axis=1)
    return [
        Confusion(
            outcomes.arm_name(arm),
            outcomes.arm_name(outcomes.baseline),
            int(first[pair]),
            int(second[pair]),
            float(own[pair]),
            float(baseline[pair]),
            counts.shape[1],
            float(p_of_pair),
        )
        for pair, p_of_pair in zip(used, p, strict=True)
    ]


def paired_matrices(outcomes: Outcomes, arm: int, matrix: Callable[[str], NDArray[np.integer] | None]) -> FloatArray:
    """Return the confusion matrices (2, blocks, classes, classes) of an arm and of the baseline.

    Of the blocks in which both have one. No block if the runs have different classes.
    """
    keys = outcomes.keys[[arm, outcomes.baseline]].reshape(2, -1)
    found = [[matrix(str(key)) if key else None for key in pair] for pair in keys.T]
    complete = [(a, b) for a, b in found if a is not None and b is not None]
    if len({each.shape for pair in complete for each in pair}) != 1:
        return np.zeros((2, 0, 0, 0))
    return np.array(complete, dtype=float).swapaxes(0, 1)


def joint_sum_p(differences: FloatArray, seed: int = 0) -> FloatArray:
    """Return the joint p of the sums of differences (blocks, k): one sign per block flips all k of them."""
    blocks = len(differences)
    # Of all patterns half suffice: the opposite ones have the same absolute sums.
    signs = all_signs(blocks)[: 2 ** max(blocks - 1, 0)] if blocks <= EXACT_BLOCKS else random_signs(blocks, seed)
    parts = [differences[:, start : start + COLUMNS] for start in range(0, differences.shape[1], COLUMNS)]
    largest = np.max([np.abs(signs @ part).max(axis=1) for part in parts], axis=0)
    observed = np.abs(differences.sum(axis=0))
    return np.array([float(np.mean(largest >= value * (1 - TIE))) for value in observed])
