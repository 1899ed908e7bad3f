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
class Design:
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

    def shares(self, cells: int, tests: int, alpha: float = 0.05) -> NDArray[np.float64]:
        """The share of the level that each look spends, summing to one.

        `cells` blocks a seed. Looks too early for any p to pass the strictest step of Holm over `tests` contrasts
        leave theirs to the first that is not.
        """
        looks = np.array(self.looks)
        spent = (looks / self.maximum) ** SPENDING
        least = 2.0 ** (1.0 - np.minimum(cells * looks, GROUP_BITS))
        spent[: int(np.argmax(least <= alpha / tests * spent))] = 0.0
        return np.diff(spent, prepend=0.0)
