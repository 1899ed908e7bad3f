"""The statistics of a study, computed once and shared by findings, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from ablations.statistics.class_balance import BalancedScores, balanced_scores
from ablations.statistics.contrasts import (
    Contrast,
    Interaction,
    all_contrasts,
    baseline_contrasts,
    interactions,
    main_effects,
)
from ablations.statistics.divergence import Divergence, divergences
from ablations.statistics.estimates import cell_means
from ablations.statistics.measure import ACCURACY, Measure
from ablations.statistics.other_images import OtherImages, Predictions, other_images
from ablations.statistics.outcomes import Outcomes, arrange
from ablations.statistics.ranks import Ranks, rank_arms
from ablations.statistics.sequential.interim import InterimResult, interim_results
from ablations.statistics.sequential.procedures import FIXED, GroupSequential, Procedure
from ablations.statistics.sequential.progress import SequentialProgress, sequential_progress, truncate_seeds
from ablations.statistics.verdicts import Verdict, verdict

if TYPE_CHECKING:
    from ablations.storage import Results


@dataclass(frozen=True, eq=False)
class Analysis:
    """The statistics of a study; each is computed on first use and cached."""

    outcomes: Outcomes
    growth: SequentialProgress | None = None
    """Progress of a sequential study, whose p values and intervals hold over all its interim analyses."""
    predictions: Predictions = lambda key: {}
    """Predictions of a run on the test images, by its key."""

    @cached_property
    def tests(self) -> Procedure:
        """The procedure that tests differences."""
        return self._group_sequential if self.growth else FIXED

    @property
    def _group_sequential(self) -> GroupSequential:
        assert self.growth is not None
        return GroupSequential(self.growth.design, contrasts=max(len(self.outcomes.arms) - 1, 1))

    @cached_property
    def looked(self) -> Outcomes:
        """The outcomes up to the last complete round of each arm."""
        return truncate_seeds(self.outcomes, self.growth.seeds) if self.growth else self.outcomes

    @cached_property
    def shared(self) -> Outcomes:
        """The outcomes up to the last round that all arms have completed."""
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
        undecided = (Verdict.UNDECIDED, Verdict.NO_PAIRS)
        return [
            arm for arm, found in zip(self.outcomes.others, self.contrasts, strict=True) if verdict(found) in undecided
        ]

    @cached_property
    def rounds(self) -> list[InterimResult]:
        """The contrasts with the baseline after every round of a sequential study."""
        return interim_results(self.looked, self.growth, self._group_sequential) if self.growth else []

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
        """The levels of each other axis against its first level, averaged over the arms and the remaining axes."""
        return {axis: main_effects(self.shared, axis, self.tests) for axis in self.outcomes.cell_axes}

    @cached_property
    def divergences(self) -> list[Divergence]:
        """How often the runs of each arm diverged, up to its last complete round; empty if none did."""
        return divergences(self.looked)

    @cached_property
    def contrasts_without_diverged(self) -> list[Contrast]:
        """Every other arm against the baseline, without diverged runs; empty if none diverged."""
        return baseline_contrasts(self.looked.without_diverged(), self.tests) if self.divergences else []

    @cached_property
    def other_images(self) -> list[OtherImages]:
        """The contrasts with the baseline over other seeds and other test images; empty without predictions."""
        return other_images(self.looked, self.contrasts, self.predictions)

    @cached_property
    def balanced_scores(self) -> list[BalancedScores]:
        """Balanced accuracy and macro F1; empty unless the classes of the test set differ in size."""
        return balanced_scores(self.outcomes, self.predictions)

    @cached_property
    def ranks(self) -> Ranks | None:
        """Mean ranks of the arms over the settings; None for fewer than three arms or two complete settings."""
        return rank_arms(self.shared)

    @cached_property
    def cell_means(self) -> pd.DataFrame:
        """What was measured of every arm in every cell."""
        return cell_means(self.outcomes)


def analyse(results: Results, measure: Measure = ACCURACY, measured: Mapping[str, float] | None = None) -> Analysis:
    """Return the statistics of a study, tested as its plan prescribes.

    They are about test accuracy, or about what was `measured`, by the keys of runs. Interim analyses of another measure
    are at the same numbers of seeds; predictions are about accuracy only.
    """
    outcomes = arrange(results, None, measure, measured)
    growth = sequential_progress(results, outcomes)
    return Analysis(outcomes, growth, results.predictions) if measured is None else Analysis(outcomes, growth)


def outcomes_at_last_look(
    results: Results, axis: str, measure: Measure = ACCURACY, measured: Mapping[str, float] | None = None
) -> tuple[Outcomes, Procedure]:
    """Return the outcomes along one axis up to the last interim analysis, and the procedure that tests them."""
    whole, outcomes = analyse(results, measure, measured), arrange(results, axis, measure, measured)
    if whole.growth is None:
        return outcomes, FIXED
    seeds = whole.growth.seeds if axis == whole.outcomes.axis else [min(whole.growth.seeds)] * len(outcomes.arms)
    return truncate_seeds(outcomes, seeds), whole.tests
