"""All that is computed of a study, once, for the claims, figures and tables to share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from ablations.outcomes import Outcomes
from ablations.ranks import Ranks, ranks
from ablations.stats import (
    Contrast,
    Interaction,
    all_contrasts,
    baseline_contrasts,
    cell_means,
    interactions,
)


@dataclass(frozen=True, eq=False)
class Analysis:
    """The statistics of a study; each is computed when first asked for and then kept."""

    outcomes: Outcomes

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """Every other arm against the baseline."""
        return baseline_contrasts(self.outcomes)

    @cached_property
    def pairs(self) -> list[Contrast]:
        """Every pair of arms."""
        return all_contrasts(self.outcomes)

    @cached_property
    def interactions(self) -> dict[str, list[Interaction]]:
        """How the contrasts with the baseline change along each other axis."""
        axes = self.outcomes.cell_axes if len(self.outcomes.arms) > 1 else ()
        return {axis: interactions(self.outcomes, axis) for axis in axes}

    @cached_property
    def main_effects(self) -> dict[str, list[Contrast]]:
        """What each other axis does, averaged over the arms and the rest: its levels against its first."""
        return {axis: baseline_contrasts(self.outcomes.along(axis)) for axis in self.outcomes.cell_axes}

    @cached_property
    def ranks(self) -> Ranks | None:
        """Mean ranks of the arms over the cells; None for fewer than three arms or two whole cells."""
        return ranks(self.outcomes)

    @cached_property
    def cell_means(self) -> pd.DataFrame:
        """Accuracy of every arm in every cell."""
        return cell_means(self.outcomes)
