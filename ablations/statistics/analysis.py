"""All that is computed of a study, once, for the claims, figures and tables to share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from ablations.statistics.contrasts import (
    Contrast,
    Interaction,
    all_contrasts,
    baseline_contrasts,
    interactions,
    main_effects,
)
from ablations.statistics.estimates import cell_means
from ablations.statistics.outcomes import Outcomes, arrange
from ablations.statistics.ranks import Ranks, rank_arms
from ablations.statistics.sequential.growth import SequentialProgress, growth, truncate_seeds
from ablations.statistics.sequential.interim import InterimResult, looks
from ablations.statistics.sequential.procedures import FIXED, GroupSequential, Procedure
from ablations.statistics.verdicts import Verdict, verdict

if TYPE_CHECKING:
    from ablations.storage import Results


@dataclass(frozen=True, eq=False)
class Analysis:
    """The statistics of a study; each is computed when first asked for and then kept."""

    outcomes: Outcomes
    growth: SequentialProgress | None = None
    """Of a study that grows in rounds: then every p and every interval of a difference holds for all looks."""

    @cached_property
    def tests(self) -> Procedure:
        """How differences are tested."""
        return self._every_round if self.growth else FIXED

    @property
    def _every_round(self) -> GroupSequential:
        assert self.growth is not None
        return GroupSequential(self.growth.design, contrasts=max(len(self.outcomes.arms) - 1, 1))

    @cached_property
    def looked(self) -> Outcomes:
        """The outcomes as far as whole rounds go."""
        return truncate_seeds(self.outcomes, self.growth.seeds) if self.growth else self.outcomes

    @cached_property
    def shared(self) -> Outcomes:
        """The outcomes as far as the rounds go that all arms took part in."""
        if self.growth is None:
            return self.outcomes
        return truncate_seeds(self.outcomes, [min(self.growth.seeds)] * len(self.outcomes.arms))

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """Every other arm against the baseline."""
        return baseline_contrasts(self.looked, self.tests)

    @cached_property
    def open_arms(self) -> list[int]:
        """The arms whose contrast with the baseline is neither better, worse nor equivalent."""
        arms = [arm for arm in range(len(self.outcomes.arms)) if arm != self.outcomes.baseline]
        undecided = (Verdict.UNDECIDED, Verdict.NO_PAIRS)
        return [arm for arm, found in zip(arms, self.contrasts, strict=True) if verdict(found) in undecided]

    @cached_property
    def rounds(self) -> list[InterimResult]:
        """The contrasts with the baseline after every round of a study that grows."""
        return looks(self.looked, self.growth, self._every_round) if self.growth else []

    @cached_property
    def pairs(self) -> list[Contrast]:
        """Every pair of arms."""
        return all_contrasts(self.looked, self.tests)

    @cached_property
    def interactions(self) -> dict[str, list[Interaction]]:
        """How the contrasts with the baseline change along each other axis."""
        axes = self.outcomes.cell_axes if len(self.outcomes.arms) > 1 else ()
        return {axis: interactions(self.shared, axis, self.tests) for axis in axes}

    @cached_property
    def main_effects(self) -> dict[str, list[Contrast]]:
        """What each other axis does, averaged over the arms and the rest: its levels against its first."""
        return {axis: main_effects(self.shared, axis, self.tests) for axis in self.outcomes.cell_axes}

    @cached_property
    def ranks(self) -> Ranks | None:
        """Mean ranks of the arms over the cells; None for fewer than three arms or two whole cells."""
        return rank_arms(self.shared)

    @cached_property
    def cell_means(self) -> pd.DataFrame:
        """Accuracy of every arm in every cell."""
        return cell_means(self.outcomes)


def analyse(results: Results) -> Analysis:
    """The statistics of a study, tested as its plan says."""
    outcomes = arrange(results)
    return Analysis(outcomes, growth(results, outcomes))


def as_looked(results: Results, axis: str) -> tuple[Outcomes, Procedure]:
    """The runs of a study along one axis as far as it was looked at, and how they are to be tested."""
    whole, outcomes = analyse(results), arrange(results, axis)
    if whole.growth is None:
        return outcomes, FIXED
    seeds = whole.growth.seeds if axis == whole.outcomes.axis else [min(whole.growth.seeds)] * len(outcomes.arms)
    return truncate_seeds(outcomes, seeds), whole.tests
