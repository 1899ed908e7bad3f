"""How often the runs of each arm diverge, compared with the baseline over pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from ablations.statistics.intervals import LEVEL
from ablations.statistics.outcomes import Outcomes
from ablations.statistics.permutation import holm


@dataclass(frozen=True)
class Divergence:
    """The diverged runs of an arm, and their comparison with those of the baseline.

    `share`, `low`, `high`: percentage of the arm's finished runs that diverged, with its exact 95 % interval (Clopper
    and Pearson 1934). `only_arm`, `only_baseline`: pairs in which only that run diverged. `p`, `p_adjusted`: McNemar's
    exact test of these two numbers, before and after Holm's correction over the arms; NaN for the baseline and without
    pairs.
    """

    arm: str
    baseline: str
    diverged: int
    runs: int
    share: float
    low: float
    high: float
    pairs: int
    only_arm: int
    only_baseline: int
    p: float
    p_adjusted: float
    keys: tuple[str, ...]

    @property
    def is_baseline(self) -> bool:
        return self.arm == self.baseline


def divergences(outcomes: Outcomes) -> list[Divergence]:
    """Return the divergence of every arm, in the order of the arms; empty if no run diverged."""
    diverged, finished = outcomes.has_diverged, np.isfinite(outcomes.values)
    if not diverged.any():
        return []
    base, tested = outcomes.baseline, []
    for arm in range(len(outcomes.arms)):
        pairs = finished[arm] & finished[base]
        only_arm = int((pairs & diverged[arm] & ~diverged[base]).sum())
        only_base = int((pairs & diverged[base] & ~diverged[arm]).sum())
        p = _mcnemar_p(only_arm, only_base) if arm != base and pairs.any() else np.nan
        tested.append((int(pairs.sum()), only_arm, only_base, p))
    adjusted = holm([p for *_, p in tested])
    found = []
    for arm, ((pairs_of_arm, only_arm, only_base, p), p_adjusted) in enumerate(zip(tested, adjusted, strict=True)):
        number, runs = int(diverged[arm].sum()), int(finished[arm].sum())
        low, high = _exact_interval(number, runs)
        found.append(
            Divergence(
                arm=outcomes.arm_name(arm),
                baseline=outcomes.arm_name(base),
                diverged=number,
                runs=runs,
                share=100 * number / runs if runs else np.nan,
                low=low,
                high=high,
                pairs=0 if arm == base else pairs_of_arm,
                only_arm=only_arm,
                only_baseline=only_base,
                p=p,
                p_adjusted=float(p_adjusted),
                keys=tuple(sorted(map(str, outcomes.keys[arm][finished[arm]].ravel()))),
            )
        )
    return found


def _mcnemar_p(only_arm: int, only_baseline: int) -> float:
    discordant = only_arm + only_baseline
    return float(scipy_stats.binomtest(only_arm, discordant).pvalue) if discordant else 1.0


def _exact_interval(number: int, runs: int) -> tuple[float, float]:
    if not runs:
        return np.nan, np.nan
    found = scipy_stats.binomtest(number, runs).proportion_ci(LEVEL, method="exact")
    return 100 * float(found.low), 100 * float(found.high)
