"""How a family of paired differences is tested: once, or at every look of a study that grows in rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ablations.design import GROUP_BITS, Design
from ablations.intervals import LEVEL, paired_interval
from ablations.outcomes import FloatArray
from ablations.permutation import joint_sign_flip_p, sign_flip_p
from ablations.power import MARGIN, equivalence_p, smallest_p
from ablations.sequential import Orbit, flipped_sums

EVERY_ROUND = "sequential "


class Tests(Protocol):
    """What is asked of paired differences, (G cells, S seeds) in points with NaN for an incomplete block."""

    name: str
    """In front of the name of a correction."""

    def p(self, differences: FloatArray, tests: int) -> float:
        """Two-sided p of no difference, as one of so many `tests`; NaN without blocks."""

    def joint(self, differences: Sequence[FloatArray]) -> FloatArray:
        """p of every one of k means, adjusted for testing all at once."""

    def equivalence(self, differences: FloatArray, tests: int) -> float:
        """p of a difference beyond `MARGIN` points either way."""

    def interval(self, differences: FloatArray, tests: int) -> tuple[float, float]:
        """95 % interval of the mean."""

    def smallest(self, differences: FloatArray, tests: int) -> float:
        """The least that `p` could be with so many blocks."""


class Once:
    """Tests of a plan that was fixed before it ran."""

    name = ""

    def p(self, differences: FloatArray, tests: int) -> float:
        return sign_flip_p(differences)

    def joint(self, differences: Sequence[FloatArray]) -> FloatArray:
        return joint_sign_flip_p(np.stack([each.ravel() for each in differences]))

    def equivalence(self, differences: FloatArray, tests: int) -> float:
        return equivalence_p(differences)

    def interval(self, differences: FloatArray, tests: int) -> tuple[float, float]:
        return paired_interval(differences)

    def smallest(self, differences: FloatArray, tests: int) -> float:
        return smallest_p(int(np.isfinite(differences).sum()))


ONCE = Once()


@dataclass(frozen=True)
class EveryRound:
    """Tests of a study that is looked at after every round, however it came to stop.

    A contrast has been looked at up to the round of its last seed.
    """

    design: Design
    bits: int = GROUP_BITS
    name = EVERY_ROUND

    def p(self, differences: FloatArray, tests: int) -> float:
        return _last(self.path(differences, tests))

    def path(self, differences: FloatArray, tests: int) -> FloatArray:
        """The sequential p after each look there was."""
        looks = self._looked(differences)
        if not looks:
            return np.zeros(0)
        sums = self._sums(differences, 0.0, looks)
        return Orbit(np.abs(sums), np.abs(sums[:, 0]), self._shares(differences, tests, looks)).path()

    def joint(self, differences: Sequence[FloatArray]) -> FloatArray:
        looks = max(map(self._looked, differences), default=0)
        if not looks:
            return np.full(len(differences), np.nan)
        blocks = np.any([np.isfinite(each) for each in differences], axis=0)
        shares = self._shares(np.where(blocks, 0.0, np.nan), 1, looks)
        sums = np.stack(
            [np.abs(self._sums(np.where(blocks, np.nan_to_num(d), np.nan), 0.0, looks)) for d in differences]
        )
        counts = np.stack([_counts(each, self.design.looks[:looks]) for each in differences])
        means = sums / np.maximum(counts, 1)[:, :, None]
        largest = means.max(axis=0)
        found = [_last(Orbit(largest, mean[:, 0], shares).path()) for mean in means]
        return np.where([np.isfinite(each).any() for each in differences], found, np.nan)

    def equivalence(self, differences: FloatArray, tests: int) -> float:
        return _last(self.equivalence_path(differences, tests))

    def equivalence_path(self, differences: FloatArray, tests: int) -> FloatArray:
        """The larger p of two one-sided tests after each look; NaN where all differences so far are the same."""
        looks = self._looked(differences)
        shares = self._shares(differences, tests, looks)
        sides = []
        for sums in (self._sums(differences, MARGIN, looks), self._sums(-differences, MARGIN, looks)):
            sides.append(Orbit(sums, sums[:, 0], shares).path() if looks else np.zeros(0))
        varied = [np.nanstd(differences[:, :seeds]) > 1e-12 for seeds in self.design.looks[:looks]]
        return np.where(varied, np.maximum(*sides), np.nan)

    def interval(self, differences: FloatArray, tests: int) -> tuple[float, float]:
        """Widened so that the intervals of all looks together hold the mean in 95 % of studies."""
        looks = self._looked(differences)
        share = self._shares(differences, tests, looks)[-1] if looks else 0.0
        return paired_interval(differences, level=1 - (1 - LEVEL) * float(share)) if share else (np.nan, np.nan)

    def smallest(self, differences: FloatArray, tests: int) -> float:
        looks = self._looked(differences)
        shares = self._shares(differences, tests, looks)
        least = [
            2.0 ** (1 - min(n, self.bits)) / share
            for n, share in zip(_counts(differences, self.design.looks[:looks]), shares, strict=True)
            if share
        ]
        return min([1.0, *least])

    def _looked(self, differences: FloatArray) -> int:
        """How many looks there were: up to that which has the last seed with a block."""
        seeds = np.flatnonzero(np.isfinite(differences).any(axis=0))
        return int(np.searchsorted(self.design.looks, seeds[-1] + 1)) + 1 if seeds.size else 0

    def _shares(self, differences: FloatArray, tests: int, looks: int) -> FloatArray:
        return self.design.shares(len(differences), max(tests, 1))[:looks]

    def _sums(self, differences: FloatArray, shift: float, looks: int) -> FloatArray:
        """Sums of the blocks up to each look, each plus `shift`, under every sign pattern; (looks, patterns)."""
        blocks = np.isfinite(differences.T)
        round_of = np.searchsorted(self.design.looks, np.arange(1, differences.shape[1] + 1))
        rounds = np.broadcast_to(round_of[:, None], blocks.shape)[blocks]
        values = differences.T[blocks] + shift
        return np.cumsum([flipped_sums(np.where(rounds == i, values, 0.0), self.bits) for i in range(looks)], axis=0)


def _counts(differences: FloatArray, looks: Sequence[int]) -> list[int]:
    return [int(np.isfinite(differences[:, :seeds]).sum()) for seeds in looks]


def _last(path: FloatArray) -> float:
    return float(path[-1]) if path.size else np.nan
