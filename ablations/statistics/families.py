"""Contrasts of several measures of the same runs as one family, and means of one measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ablations.statistics.analysis import Analysis
from ablations.statistics.contrasts import Contrast
from ablations.statistics.intervals import paired_interval
from ablations.statistics.outcomes import Outcomes
from ablations.statistics.permutation import holm
from ablations.statistics.setting_weights import estimate


def joined_family(analyses: Sequence[Analysis]) -> list[Contrast]:
    """Return the contrasts with the baseline of several measures, adjusted by Holm's correction over all of them.

    The correction holds however the measures of a run are correlated. The seeds needed are not estimated.
    """
    found, equivalence = [], []
    for analysis in analyses:
        outcomes = analysis.looked
        arms = [arm for arm in range(len(outcomes.arms)) if arm != outcomes.baseline]
        for arm, contrast in zip(arms, analysis.contrasts, strict=True):
            differences = outcomes.differences(arm, outcomes.baseline)
            found.append(contrast)
            equivalence.append(analysis.tests.equivalence(differences) if outcomes.measure.is_share else np.nan)
    family = sum(contrast.n > 0 for contrast in found)
    adjusted, equivalent = holm([contrast.p for contrast in found]), holm(equivalence)
    return [
        replace(
            contrast,
            p_adjusted=float(p),
            p_adjusted_smallest=min(1.0, max(family, 1) * contrast.p_smallest),
            p_equivalence=float(p_equivalence),
            seeds_needed=None,
            family=family,
        )
        for contrast, p, p_equivalence in zip(found, adjusted, equivalent, strict=True)
    ]


@dataclass(frozen=True)
class Mean:
    """The mean of an arm, the mean of its settings' means, with its 95 % interval over seeds.

    Over the `cells` settings and `n` runs of blocks in which every arm that was measured at all was measured.
    """

    arm: str
    mean: float
    low: float
    high: float
    cells: int
    n: int


def means_of_arms(outcomes: Outcomes) -> list[Mean]:
    """Return the mean of each arm; NaN for an arm without values."""
    known = np.isfinite(outcomes.values)
    whole = known[known.any(axis=(1, 2))].all(axis=0)
    found = []
    for arm, values in enumerate(outcomes.values):
        own = np.where(whole, values, np.nan)
        complete = np.isfinite(own)
        low, high = paired_interval(own) if complete.any() else (np.nan, np.nan)
        lowest, highest = outcomes.measure.lowest, outcomes.measure.highest
        found.append(
            Mean(
                outcomes.arm_name(arm),
                estimate(own),
                float(np.clip(low, lowest, highest)),
                float(np.clip(high, lowest, highest)),
                int(complete.any(axis=1).sum()),
                int(complete.sum()),
            )
        )
    return found
