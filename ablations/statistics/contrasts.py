"""Contrasts of paired runs: arms against the baseline, all pairs, main effects, interactions.

Differences are (G settings, S seeds) with NaN for an incomplete block, those of shares in percentage points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ablations.config import level_text
from ablations.statistics.estimates import (
    arm_means,
    cell_means,
    effect_size,
    interquartile_mean,
    probability_of_improvement,
)
from ablations.statistics.intervals import LEVEL
from ablations.statistics.measure import ACCURACY, Measure
from ablations.statistics.outcomes import FloatArray, Outcomes
from ablations.statistics.permutation import holm, joint_sign_flip_p, sign_flip_p
from ablations.statistics.power import MARGIN, seeds_needed
from ablations.statistics.sequential.procedures import FIXED, SEQUENTIAL, Procedure
from ablations.statistics.setting_weights import estimate

ALPHA = round(1 - LEVEL, 10)


@dataclass(frozen=True)
class Contrast:
    """A paired comparison: `subject` minus `reference`, in the unit of `measure`, over `n` complete blocks.

    `mean`: the `estimate`, the mean of the settings' means, over the `cells` of `cells_planned` settings that have a
    complete block. `low`, `high`: its 95 % interval (`paired_interval`). `p`, `p_adjusted`: sign-flip test, before and
    after `correction` over the family of contrasts: "Holm", "joint" for `joint_sign_flip_p`, or "adjusted" for
    `joined_family`, with the prefix "sequential " if it holds over all interim analyses. `p_smallest`,
    `p_adjusted_smallest`: their smallest possible values with this number of blocks. `p_equivalence`: two one-sided
    tests within `MARGIN` points, Holm-adjusted; NaN if the measure is not a share. `wins`: blocks in which the subject
    leads; `probability_of_improvement`: that of a better value, or of a higher one if neither direction is better.
    `seeds`: the largest number of seeds in a setting. `seeds_needed`: seeds per setting for 80 % power, None if over
    1,000.
    """

    subject: str
    reference: str
    n: int
    cells: int
    cells_planned: int
    seeds: int
    mean: float
    low: float
    high: float
    p: float
    p_adjusted: float
    correction: str
    p_smallest: float
    p_adjusted_smallest: float
    p_equivalence: float
    effect_size: float
    probability_of_improvement: float
    wins: int
    seeds_needed: int | None
    family: int
    runs: tuple[str, ...]
    measure: Measure = ACCURACY

    @property
    def sequential(self) -> bool:
        """Whether p and interval hold over all interim analyses of a sequential study."""
        return self.correction.startswith(SEQUENTIAL)


@dataclass(frozen=True)
class _Pair:
    subject: str
    reference: str
    differences: FloatArray
    improvement: float
    runs: tuple[str, ...]


def _family(
    pairs: Sequence[_Pair], correction: str, tests: Procedure, measure: Measure, differences: int = 1
) -> list[Contrast]:
    """Return the contrasts of one family, each of so many `differences` of runs; intervals end at what is possible."""
    largest = differences * measure.largest_difference
    family = sum(bool(np.isfinite(pair.differences).any()) for pair in pairs)
    strictest = max(family, 1) if correction == "Holm" else 1
    ps = [tests.p(pair.differences) for pair in pairs]
    adjusted = holm(ps) if correction == "Holm" or not pairs else tests.joint([pair.differences for pair in pairs])
    equivalent = holm([tests.equivalence(pair.differences) if measure.is_share else np.nan for pair in pairs])
    found = []
    for i, pair in enumerate(pairs):
        known = np.isfinite(pair.differences)
        values = pair.differences[known]
        low, high = np.clip(tests.interval(pair.differences), -largest, largest)
        smallest = tests.smallest(pair.differences)
        found.append(
            Contrast(
                subject=pair.subject,
                reference=pair.reference,
                n=values.size,
                cells=int(known.any(axis=1).sum()),
                cells_planned=len(known),
                seeds=int(known.sum(axis=1).max(initial=0)),
                mean=estimate(pair.differences),
                low=float(low),
                high=float(high),
                p=ps[i],
                p_adjusted=float(adjusted[i]),
                correction=f"{tests.name}{correction}",
                p_smallest=smallest,
                p_adjusted_smallest=min(1.0, strictest * smallest),
                p_equivalence=float(equivalent[i]),
                effect_size=effect_size(pair.differences),
                probability_of_improvement=pair.improvement,
                wins=int((measure.sign * values > 0).sum()),
                seeds_needed=seeds_needed(pair.differences, alpha=ALPHA / strictest),
                family=family,
                runs=pair.runs,
                measure=measure,
            )
        )
    return found


def _pair(outcomes: Outcomes, subject: int, reference: int) -> _Pair:
    sign = outcomes.measure.sign
    return _Pair(
        outcomes.arm_name(subject),
        outcomes.arm_name(reference),
        outcomes.differences(subject, reference),
        probability_of_improvement(sign * outcomes.values[subject], sign * outcomes.values[reference]),
        outcomes.runs(subject, reference),
    )


def baseline_contrasts(outcomes: Outcomes, tests: Procedure = FIXED) -> list[Contrast]:
    """Compare every other arm with the baseline; one Holm family."""
    pairs = [_pair(outcomes, arm, outcomes.baseline) for arm in outcomes.others]
    return _family(pairs, "Holm", tests, outcomes.measure)


def main_effects(outcomes: Outcomes, axis: str, tests: Procedure = FIXED) -> list[Contrast]:
    """Compare the levels of a cell axis with its first, averaged over the arms; one Holm family.

    A block is one (other settings, seed): the arms of a seed are correlated, so they count as one block.
    """
    return baseline_contrasts(outcomes.averaged(axis), tests)


def all_contrasts(outcomes: Outcomes, tests: Procedure = FIXED) -> list[Contrast]:
    """Compare every pair of arms, the one with the better mean first; one Holm family."""
    pairs = []
    for first, second in combinations(range(len(outcomes.arms)), 2):
        differences = outcomes.differences(second, first)
        ahead = outcomes.measure.sign * estimate(differences) >= 0
        pairs.append(_pair(outcomes, second, first) if ahead else _pair(outcomes, first, second))
    return _family(pairs, "Holm", tests, outcomes.measure)


@dataclass(frozen=True)
class Interaction:
    """The change of a lead over the baseline along another axis: a difference of differences.

    `change.mean` is (subject - baseline at `level`) - (subject - baseline at `from_level`) over complete blocks;
    `lead` and `from_lead` are the two leads over the same blocks.
    """

    axis: str
    from_level: str
    level: str
    from_lead: float
    lead: float
    change: Contrast


def interactions(outcomes: Outcomes, axis: str, tests: Procedure = FIXED) -> list[Interaction]:
    """Compare each arm's lead over the baseline at every level of `axis` with that at the first level.

    The changes along the axis are one family, tested jointly over the blocks that are complete in all of them.
    """
    at = outcomes.cell_axes.index(axis)
    levels = list(dict.fromkeys(cell[at] for cell in outcomes.cells))
    rows = {level: [i for i, cell in enumerate(outcomes.cells) if cell[at] == level] for level in levels}
    places = [(arm, level) for arm in outcomes.others for level in levels[1:]]
    start = rows[levels[0]]
    changes, leads = [], []
    for arm, level in places:
        lead = outcomes.differences(arm, outcomes.baseline)
        leads.append((lead[start], lead[rows[level]]))
        changes.append(lead[rows[level]] - lead[start])
    measured = [np.isfinite(change) for change in changes if np.isfinite(change).any()]
    complete = np.logical_and.reduce(measured) if measured else np.zeros((len(start), len(outcomes.seeds)), dtype=bool)
    pairs = []
    for (arm, level), change in zip(places, changes, strict=True):
        known = complete & np.isfinite(change)
        cells = np.array([start, rows[level]])
        used = outcomes.keys[[arm, outcomes.baseline]][:, cells][:, :, known]
        pairs.append(
            _Pair(
                outcomes.arm_name(arm),
                outcomes.arm_name(outcomes.baseline),
                np.where(known, change, np.nan),
                np.nan,
                tuple(sorted(map(str, used.ravel()))),
            )
        )
    found = []
    for (_, level), lead_pair, contrast in zip(
        places, leads, _family(pairs, "joint", tests, outcomes.measure, differences=2), strict=True
    ):
        means = [estimate(np.where(complete & (contrast.n > 0), lead, np.nan)) for lead in lead_pair]
        found.append(Interaction(axis, level_text(levels[0]), level_text(level), means[0], means[1], contrast))
    return found


__all__ = [
    "ALPHA",
    "MARGIN",
    "Contrast",
    "Interaction",
    "all_contrasts",
    "arm_means",
    "baseline_contrasts",
    "cell_means",
    "effect_size",
    "holm",
    "interactions",
    "interquartile_mean",
    "joint_sign_flip_p",
    "main_effects",
    "probability_of_improvement",
    "sign_flip_p",
]
