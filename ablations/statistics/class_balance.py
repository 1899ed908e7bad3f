"""Balanced accuracy and macro F1, where the classes of the test set differ in size.

The accuracy of a model that always names the largest class is the share of that class. Balanced accuracy is the mean of
the accuracies of the classes, which is then 1 / C; macro F1 is the mean of the F1 scores of the classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablations.config import level_text
from ablations.statistics.other_images import Predictions
from ablations.statistics.outcomes import Outcomes


@dataclass(frozen=True)
class BalancedScores:
    """Means over the seeds of an arm in a setting, in percent, without diverged runs."""

    arm: str
    setting: tuple[str, ...]
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    majority: float
    """Share of the largest class of the test set: the accuracy of always naming it."""
    smallest: int
    """Test images of the smallest class."""
    largest: int
    n: int


def balanced_accuracy(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> float:
    """Return the mean over the classes that occur of the share of their images that are classified correctly."""
    sizes = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return float((right[sizes > 0] / sizes[sizes > 0]).mean())


def macro_f1(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> float:
    """Return the mean F1 score, 2 TP / (2 TP + FP + FN), of the classes that occur in labels or predictions."""
    total = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return float((2 * right[total > 0] / total[total > 0]).mean())


def balanced_scores(outcomes: Outcomes, predictions: Predictions) -> list[BalancedScores]:
    """Return the scores of each arm in each setting; empty if no run has classes of unequal size, or predictions."""
    from ablations.data.quality.class_sizes import is_imbalanced

    found = []
    for arm, level in enumerate(outcomes.arms):
        for cell, levels in enumerate(outcomes.cells):
            keys = [str(key) for key in outcomes.keys[arm, cell] if key and str(key) not in outcomes.diverged]
            stored = [each for key in keys if (each := predictions(key))]
            if not stored or len(stored) < len(keys):
                continue
            rows = []
            for each in stored:
                labels, predicted = each["labels"], each["predicted"]
                classes = each["probabilities"].shape[1]
                sizes = np.bincount(labels, minlength=classes)
                rows.append(
                    (
                        float((labels == predicted).mean()),
                        balanced_accuracy(labels, predicted, classes),
                        macro_f1(labels, predicted, classes),
                        sizes.max() / sizes.sum(),
                        sizes.min(),
                        sizes.max(),
                    )
                )
            correct, balanced, f1, majority, smallest, largest = map(float, np.mean(rows, axis=0))
            found.append(
                BalancedScores(
                    arm=level_text(level),
                    setting=tuple(map(level_text, levels)),
                    accuracy=100 * correct,
                    balanced_accuracy=100 * balanced,
                    macro_f1=100 * f1,
                    majority=100 * majority,
                    smallest=round(smallest),
                    largest=round(largest),
                    n=len(rows),
                )
            )
    return found if any(is_imbalanced(np.array([each.smallest, each.largest])) for each in found) else []
