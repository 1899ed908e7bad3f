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

JOINED = "adjusted"
"""Name of the correction of `joined_family`."""


def joined_family(analyses: Sequence[Analysis]) -> list[Contrast]:
    """Return the contrasts with the baseline of several measures, adjusted for testing all of them.

    The measures of an arm are tested jointly: if it does not differ from the baseline, the two runs of a block can
    change places, which changes the signs of the differences in all measures together (maxT of Westfall and Young
    1993). The number of arms multiplies the result (Bonferroni). Both hold however measures and arms are correlated,
    and the smallest possible p does not depend on the number of measures, as it does with Holm's correction.
    Equivalence is adjusted by Holm's correction. The seeds needed are not estimated.
    """
    found = [
        (arm, contrast, analysis.looked.differences(arm, analysis.looked.baseline), analysis)
        for analysis in analyses
        for arm, contrast in zip(analysis.looked.others, analysis.contrasts, strict=True)
    ]
    compared = {arm for arm, contrast, *_ in found if contrast.n}
    adjusted = np.full(len(found), np.nan)
    for arm in compared:
        own = [i for i, (each, *_) in enumerate(found) if each == arm]
        adjusted[own] = np.minimum(len(compared) * analyses[0].tests.joint([found[i][2] for i in own]), 1.0)
    equivalent = holm(
        [
            analysis.tests.equivalence(differences) if contrast.measure.is_share else np.nan
            for _, contrast, differences, analysis in found
        ]
    )
    family = sum(contrast.n > 0 for _, contrast, *_ in found)
    return [
        replace(
            contrast,
            p_adjusted=float(adjusted[i]),
            correction=f"{analysis.tests.name}{JOINED}",
            p_adjusted_smallest=min(1.0, max(len(compared), 1) * contrast.p_smallest),
            p_equivalence=float(equivalent[i]),
            seeds_needed=None,
            family=family,
        )
        for i, (_, contrast, _, analysis) in enumerate(found)
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
