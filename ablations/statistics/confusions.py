"""Pairs of classes that an arm confuses more or less often than the baseline, tested jointly over pairs of runs.

The unit is the run: the test images are the same in all runs, so single images are not independent. If an arm does not
differ from the baseline, the two runs of a block can change places, which changes the signs of all differences of the
block, one for each pair of classes. p is the share of sign patterns whose largest absolute sum is at least the observed
one (maxT of Westfall and Young 1993, without studentisation, because most counts are small), times the number of arms
(Bonferroni). It accounts for the correlation of the pairs and for testing all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablations.statistics.outcomes import FloatArray, Outcomes
from ablations.statistics.permutation import EXACT_BLOCKS, TIE, all_signs, random_signs

COLUMNS = 128
"""Sums computed at once."""


@dataclass(frozen=True)
class Confusion:
    """How often an arm takes one of two classes for the other, in images per run, compared with the baseline.

    Over the `n` blocks in which all arms have a confusion matrix.
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


def confusion_matrices(outcomes: Outcomes, matrix: Callable[[str], NDArray[np.integer] | None]) -> FloatArray:
    """Return the confusion matrices (arms, blocks, classes, classes) of the blocks in which every arm has one.

    `matrix` returns that of a run by its key, rows are labels. No block if the runs have different classes.
    """
    complete = (outcomes.keys != "").all(axis=0)
    found = [[matrix(str(key)) for key in keys[complete]] for keys in outcomes.keys]
    whole = [i for i in range(int(complete.sum())) if all(row[i] is not None for row in found)]
    shapes = {row[i].shape for row in found for i in whole}  # type: ignore[union-attr]
    if len(shapes) != 1:
        return np.zeros((len(found), 0, 0, 0))
    return np.array([[row[i] for i in whole] for row in found], dtype=float)


def compare_confusions(outcomes: Outcomes, matrices: FloatArray) -> list[Confusion]:
    """Return every pair of classes that some run confuses, for every arm but the baseline, the smallest p first."""
    arms, blocks, classes = matrices.shape[:3]
    first, second = np.triu_indices(classes, 1)
    counts = (matrices + matrices.swapaxes(2, 3))[:, :, first, second]  # (arms, blocks, pairs)
    used = np.flatnonzero(counts.any(axis=(0, 1)))
    others = [arm for arm in range(arms) if arm != outcomes.baseline]
    if not used.size or not others:
        return []
    differences = counts[others][:, :, used] - counts[outcomes.baseline][:, used]
    p = np.minimum(1, len(others) * np.array([joint_sum_p(each) for each in differences]))
    found = [
        Confusion(
            outcomes.arm_name(arm),
            outcomes.arm_name(outcomes.baseline),
            int(first[pair]),
            int(second[pair]),
            float(counts[arm, :, pair].mean()),
            float(counts[outcomes.baseline, :, pair].mean()),
            blocks,
            float(p[row, column]),
        )
        for row, arm in enumerate(others)
        for column, pair in enumerate(used)
    ]
    return sorted(found, key=lambda each: (each.p, -abs(each.difference)))


def joint_sum_p(differences: FloatArray, seed: int = 0) -> FloatArray:
    """Return the joint p of the sums of differences (blocks, k): one sign per block flips all k of them."""
    blocks = len(differences)
    # Of all patterns half suffice: the opposite ones have the same absolute sums.
    signs = all_signs(blocks)[: 2 ** max(blocks - 1, 0)] if blocks <= EXACT_BLOCKS else random_signs(blocks, seed)
    parts = [differences[:, start : start + COLUMNS] for start in range(0, differences.shape[1], COLUMNS)]
    largest = np.max([np.abs(signs @ part).max(axis=1) for part in parts], axis=0)
    observed = np.abs(differences.sum(axis=0))
    return np.array([float(np.mean(largest >= value * (1 - TIE))) for value in observed])
