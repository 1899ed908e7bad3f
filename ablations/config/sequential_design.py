"""The design of a sequential study: its interim analyses (looks) and the level that each spends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUP_BITS = 16
"""log2 of the number of sign patterns: all patterns up to 16 blocks, a random subgroup beyond."""

GROWTH = 4
"""A round adds 1 / 4 of the current seeds; the last round may add up to 1.5 times that."""

SPENDING = 2.0
"""Exponent of the alpha-spending function: a share t of the seeds spends t^2 of the level (Kim and DeMets 1987)."""


@dataclass(frozen=True)
class SequentialDesign:
    """A study that starts with `first` seeds per setting and adds seeds in rounds, up to `maximum`."""

    first: int
    maximum: int

    @property
    def looks(self) -> tuple[int, ...]:
        """Seeds per setting at each look."""
        seeds = [self.first]
        while seeds[-1] < self.maximum:
            step = -(-seeds[-1] // GROWTH)
            seeds.append(self.maximum if seeds[-1] + 1.5 * step >= self.maximum else seeds[-1] + step)
        return tuple(seeds)

    @property
    def spending(self) -> NDArray[np.float64]:
        """Share of the level that each look spends; they sum to 1."""
        return np.diff((np.array(self.looks) / self.maximum) ** SPENDING, prepend=0.0)

    def shares(self, cells: int, tests: int, alpha: float = 0.05) -> NDArray[np.float64]:
        """Return `spending` with the shares of looks that cannot reject passed on to the first that can.

        A look can reject if the smallest p of `cells` blocks per seed passes the strictest step of Holm over `tests`.
        """
        spent = np.cumsum(self.spending)
        least = 2.0 ** (1.0 - np.minimum(cells * np.array(self.looks), GROUP_BITS))
        spent[: int(np.argmax(least <= alpha / tests * spent))] = 0.0
        return np.diff(spent, prepend=0.0)
