"""Test procedures for paired differences: a single analysis, or group-sequential interim analyses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ablations.config import SequentialDesign
from ablations.config.sequential_design import GROUP_BITS
from ablations.statistics.intervals import LEVEL, paired_interval
from ablations.statistics.outcomes import FloatArray
from ablations.statistics.permutation import joint_sign_flip_p, sign_flip_p
from ablations.statistics.power import MARGIN, equivalence_p, smallest_p
from ablations.statistics.sequential.sign_flip_orbit import SignFlipOrbit, flipped_sums
from ablations.statistics.studentised import studentise

SEQUENTIAL = "sequential "


class Procedure(Protocol):
    """Tests and intervals of paired differences, (G settings, S seeds) in points, NaN for an incomplete block."""

    name: str
    """Prefix of the name of a correction."""

    def p(self, differences: FloatArray) -> float:
        """Return the two-sided p of no difference; NaN without blocks."""

    def joint(self, differences: Sequence[FloatArray]) -> FloatArray:
        """Return the p of each of k differences, adjusted for testing all at once."""

    def equivalence(self, differences: FloatArray) -> float:
        """Return the p of equivalence within `MARGIN` points."""

    def interval(self, differences: FloatArray) -> tuple[float, float]:
        """Return the 95 % interval of the `estimate`."""

    def smallest(self, differences: FloatArray) -> float:
        """Return the smallest possible `p` with this number of blocks."""


class FixedDesign:
    """A single analysis, with all seeds planned beforehand."""

    name = ""

    def p(self, differences: FloatArray) -> float:
        return sign_flip_p(differences)

    def joint(self, differences: Sequence[FloatArray]) -> FloatArray:
        return joint_sign_flip_p(differences)

    def equivalence(self, differences: FloatArray) -> float:
        return equivalence_p(differences)

    def interval(self, differences: FloatArray) -> tuple[float, float]:
        return paired_interval(differences)

    def smallest(self, differences: FloatArray) -> float:
        return smallest_p(int(np.isfinite(differences).sum()))


FIXED = FixedDesign()


@dataclass(frozen=True)
class GroupSequential:
    """Analyses after every round, valid for any stopping rule.

    A contrast has been analysed up to the round of its last seed.
    """

    design: SequentialDesign
    contrasts: int
    """Number of arms compared with the baseline; it determines which looks can reject."""
    bits: int = GROUP_BITS
    name = SEQUENTIAL
    statistic = staticmethod(studentise)
    """Function of signed sums, counts and sums of squares of the settings, as `studentise`."""

    def p(self, differences: FloatArray) -> float:
        return _last(self.path(differences))

    def path(self, differences: FloatArray) -> FloatArray:
        """Return the sequential p after each look so far."""
        return self.orbit(differences).path()

    def orbit(self, differences: FloatArray) -> SignFlipOrbit:
        """Return the test of no difference over the looks so far."""
        found = np.abs(self.statistics(differences))
        return SignFlipOrbit(found, found[:, 0], self._shares(differences))

    def joint(self, differences: Sequence[FloatArray]) -> FloatArray:
        known = np.any([np.isfinite(each) for each in differences], axis=0)
        union = np.where(known, 0.0, np.nan)
        found = [np.abs(self.statistics(each, known)) for each in differences]
        largest, shares = np.max(found, axis=0), self._shares(union)
        p = [_last(SignFlipOrbit(largest, each[:, 0], shares).path()) for each in found]
        return np.where([np.isfinite(each).any() for each in differences], p, np.nan)

    def equivalence(self, differences: FloatArray) -> float:
        return _last(self.equivalence_path(differences))

    def equivalence_path(self, differences: FloatArray) -> FloatArray:
        """Return the larger p of two one-sided tests after each look; NaN while all differences are equal."""
        above, below = (orbit.path() for orbit in self.margin_orbits(differences))
        varied = [np.nanstd(differences[:, :seeds]) > 1e-12 for seeds in self.design.looks[: above.size]]
        return np.where(varied, np.maximum(above, below), np.nan)

    def margin_orbits(self, differences: FloatArray) -> tuple[SignFlipOrbit, SignFlipOrbit]:
        """Return the one-sided tests of a mean of at most -`MARGIN`, and of at least `MARGIN`."""
        shares = self._shares(differences)
        above, below = self.statistics(differences + MARGIN), self.statistics(MARGIN - differences)
        return SignFlipOrbit(above, above[:, 0], shares), SignFlipOrbit(below, below[:, 0], shares)

    def interval(self, differences: FloatArray) -> tuple[float, float]:
        """Return the interval at the level that this look spends.

        The intervals of all looks together cover the mean in 95 % of studies.
        """
        looks = self._looked(differences)
        if not looks:
            return np.nan, np.nan
        return paired_interval(differences, level=1 - (1 - LEVEL) * float(self.design.spending[looks - 1]))

    def smallest(self, differences: FloatArray) -> float:
        shares = self._shares(differences)
        counts = self._counts(differences, shares.size)
        least = [2.0 ** (1 - min(n, self.bits)) / share for n, share in zip(counts, shares, strict=True) if share]
        return min([1.0, *least])

    def _looked(self, differences: FloatArray) -> int:
        """Return the number of looks so far: up to the one that includes the last seed with a block."""
        seeds = np.flatnonzero(np.isfinite(differences).any(axis=0))
        return int(np.searchsorted(self.design.looks, seeds[-1] + 1)) + 1 if seeds.size else 0

    def _shares(self, differences: FloatArray) -> FloatArray:
        return self.design.shares(len(differences), self.contrasts)[: self._looked(differences)]

    def _counts(self, differences: FloatArray, looks: int) -> list[int]:
        return [int(np.isfinite(differences[:, :seeds]).sum()) for seeds in self.design.looks[:looks]]

    def statistics(self, differences: FloatArray, known: NDArray[np.bool_] | None = None) -> FloatArray:
        """Return the studentised estimate at each look under every sign pattern, the observed first, (looks, patterns).

        `known` (G, S) are the blocks that the patterns give signs to: by default the complete ones.
        """
        known = np.isfinite(differences) if known is None else known
        complete = np.isfinite(differences)
        looks = self.design.looks[: self._looked(np.where(known, 0.0, np.nan))]
        settings, seeds = np.nonzero(known.T)[::-1]
        values = np.nan_to_num(differences)[settings, seeds]
        rounds = np.searchsorted(looks, seeds, side="right")
        own = (settings == np.arange(len(known))[:, None, None]) & (rounds == np.arange(len(looks))[:, None])
        sums = flipped_sums(np.where(own, values, 0.0), self.bits).cumsum(axis=1)  # (G, looks, patterns)
        found = []
        for look, seen in enumerate(looks):
            counts = complete[:, :seen].sum(axis=1)
            squares = np.nansum(differences[:, :seen] ** 2, axis=1)
            used = counts > 0
            zeros = np.zeros(sums.shape[-1])
            found.append(self.statistic(sums[used, look], counts[used], squares[used]) if used.any() else zeros)
        return np.array(found) if found else np.zeros((0, 1))


def _last(path: FloatArray) -> float:
    return float(path[-1]) if path.size else np.nan
