"""The plan of a study that grows in rounds: when it is looked at, and how much of the level each look spends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUP_BITS = 16
"""The group has 2^16 sign patterns: all there are up to 16 blocks, and beyond that a random subgroup."""

GROWTH = 4
"""A round adds a quarter of the seeds there are; the last one may add half as many again."""

SPENDING = 2.0
"""Power of the share of seeds at which the level is spent (Kim & DeMets 1987)."""


@dataclass(frozen=True)
class SequentialDesign:
    """A study that begins with `first` seeds a setting and grows in rounds, up to `maximum`."""

    first: int
    maximum: int

    @property
    def looks(self) -> tuple[int, ...]:
        """Seeds of a setting after each round."""
        seeds = [self.first]
        while seeds[-1] < self.maximum:
            step = -(-seeds[-1] // GROWTH)
            seeds.append(self.maximum if seeds[-1] + 1.5 * step >= self.maximum else seeds[-1] + step)
        return tuple(seeds)

    @property
    def spending(self) -> NDArray[np.float64]:
        """The share of the level that each look spends, summing to one."""
        return np.diff((np.array(self.looks) / self.maximum) ** SPENDING, prepend=0.0)

    def shares(self, cells: int, tests: int, alpha: float = 0.05) -> NDArray[np.float64]:
        """`spending`, where looks that cannot reject leave theirs to the first that can.

        That is one where the least p of `cells` blocks a seed passes the strictest step of Holm over `tests` contrasts.
        """
        spent = np.cumsum(self.spending)
        least = 2.0 ** (1.0 - np.minimum(cells * np.array(self.looks), GROUP_BITS))
        spent[: int(np.argmax(least <= alpha / tests * spent))] = 0.0
        return np.diff(spent, prepend=0.0)
