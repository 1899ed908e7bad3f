"""The results of the interim analyses of a sequential study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ablations.statistics.outcomes import FloatArray, Outcomes
from ablations.statistics.permutation import holm
from ablations.statistics.sequential.procedures import GroupSequential
from ablations.statistics.sequential.progress import SequentialProgress
from ablations.statistics.setting_weights import estimate
from ablations.statistics.verdicts import Verdict, decided


@dataclass(frozen=True)
class InterimResult:
    """A contrast with the baseline after a round: over the `n` pairs of its first `seeds` seeds.

    `p_adjusted` and `p_equivalence` are sequential and Holm-adjusted, with the other contrasts as they were then.
    """

    round: int
    seeds: int
    arm: str
    n: int
    mean: float
    p_adjusted: float
    p_equivalence: float
    verdict: Verdict


def interim_results(outcomes: Outcomes, growth: SequentialProgress, tests: GroupSequential) -> list[InterimResult]:
    """Return every contrast with the baseline after every round that includes it."""
    base = outcomes.baseline
    arms = [arm for arm in range(len(outcomes.arms)) if arm != base]
    differences = {arm: outcomes.differences(arm, base) for arm in arms}
    p = {arm: tests.path(each) for arm, each in differences.items()}
    equal = {arm: tests.equivalence_path(each) for arm, each in differences.items()}
    found = []
    for i, seeds in enumerate(growth.design.looks):
        adjusted, equivalent = (holm([_by(path[arm], i) for arm in arms]) for path in (p, equal))
        for place, arm in enumerate(arms):
            if seeds > min(growth.seeds[arm], growth.seeds[base]):
                continue
            values = differences[arm][:, :seeds]
            n = int(np.isfinite(values).sum())
            mean = estimate(values)
            numbers = float(adjusted[place]), float(equivalent[place]) if outcomes.measure.is_share else np.nan
            kind = decided(n, mean, *numbers, outcomes.measure)
            found.append(InterimResult(i + 1, seeds, outcomes.arm_name(arm), n, mean, *numbers, kind))
    return found


def _by(path: FloatArray, look: int) -> float:
    """Return the value at a look, or the last one of a contrast that has left the study."""
    return float(path[min(look, path.size - 1)]) if path.size else np.nan
