"""Comparison of two trained models on the same test examples, by McNemar's test.

It is about these two models, not about the methods that trained them: another seed gives other models. Whether a method
is better is a question for the paired contrasts over seeds (`contrasts`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

RESAMPLES = 10_000


@dataclass(frozen=True)
class ModelComparison:
    """Test accuracies in percent, their difference with a 95 % bootstrap interval over examples, McNemar's exact p.

    `only_first` and `only_second` count the examples that only one of the models classifies correctly.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float


def compare_models(
    labels: NDArray[np.integer], first: NDArray[np.integer], second: NDArray[np.integer], seed: int = 0
) -> ModelComparison:
    """Compare the predicted classes of two models, all (n,). The bootstrap resamples examples."""
    right_first, right_second = first == labels, second == labels
    only_first = int((right_first & ~right_second).sum())
    only_second = int((~right_first & right_second).sum())
    n = labels.size
    # Resampling n examples of three kinds (+1, -1, 0) is a multinomial draw of how many of each.
    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, RESAMPLES)
    low, high = np.quantile(100 * (drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    discordant = only_first + only_second
    p = float(scipy_stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    accuracies = 100 * float(right_first.mean()), 100 * float(right_second.mean())
    return ModelComparison(
        *accuracies, 100 * (only_first - only_second) / n, float(low), float(high), only_first, only_second, p
    )
