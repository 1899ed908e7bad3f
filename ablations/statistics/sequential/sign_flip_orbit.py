"""Group-sequential sign-flip tests with alpha spending.

After each round the statistic of a contrast is compared with its values under the sign patterns of a group (the orbit
of the data), and the level is spent over the looks (Lan and DeMets 1983): of the patterns that no earlier look
rejected, those with the largest statistics are rejected, as many as the look's share of the level allows. If
differences are symmetric about zero all patterns of the orbit are equally likely, so the probability that the observed
one is ever rejected is at most the level, for any number of blocks and any stopping rule.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ablations.config.sequential_design import GROUP_BITS
from ablations.statistics.outcomes import FloatArray
from ablations.statistics.permutation import TIE


def flipped_sums(values: FloatArray, bits: int = GROUP_BITS) -> FloatArray:
    """Return the sums of `values` (..., n) under every sign pattern of the group, observed signs first, (..., 2^bits).

    At most n bits are used. Pattern b gives block i the sign (-1)^(b . v_i), where v_i is the block's vector of bits:
    a Walsh-Hadamard transform. With the unit vectors for the first blocks the patterns run through all signs of these.
    Sums of a part of the blocks (the rest zero) belong to the same patterns.
    """
    *batch, blocks = values.shape
    bits = min(bits, blocks)
    sums = np.zeros((*batch, 2**bits))
    for block in range(blocks):
        sums[..., _vectors(bits)[block % 2 ** (bits - 1)]] += values[..., block]
    for half in 2 ** np.arange(bits):
        pairs = sums.reshape(*batch, -1, 2, half)
        even, odd = pairs[..., 0, :], pairs[..., 1, :]
        sums = np.stack([even + odd, even - odd], axis=-2).reshape(*batch, -1)
    return sums


@lru_cache(maxsize=32)
def _vectors(bits: int) -> NDArray[np.int64]:
    """Return all bit vectors of odd weight, unit vectors first. The group then contains the flip of all signs."""
    numbers = np.arange(2**bits)
    units = 2 ** np.arange(bits)
    odd = numbers[np.array([bin(number).count("1") % 2 == 1 for number in numbers])]
    return np.concatenate([units, np.random.default_rng(0).permutation(np.setdiff1d(odd, units))])


class SignFlipOrbit:
    """A group-sequential test: a statistic at each look under every sign pattern.

    `statistics` (K looks, N patterns) are large under the alternative; `observed` (K,) are those of the data.
    """

    def __init__(self, statistics: FloatArray, observed: FloatArray, shares: FloatArray) -> None:
        self._patterns = statistics.shape[1]
        self._shares = shares
        self._order = np.argsort(-statistics, axis=1, kind="stable")
        ranked = -np.take_along_axis(statistics, self._order, axis=1)
        self._ends, self._places = [], []
        for row, value in zip(ranked, -observed, strict=True):
            last = np.append(np.flatnonzero(np.diff(row) > TIE * np.abs(row[:-1])), row.size - 1)
            self._ends.append(last[np.searchsorted(last, np.arange(row.size))])
            self._places.append(int(np.searchsorted(row, value + TIE * abs(value), side="right")) - 1)

    def rejected(self, alpha: float) -> tuple[int, int]:
        """Return the look that rejects the data at level `alpha`, and the number of patterns at least as extreme there.

        The look is K if none rejects.
        """
        alive = np.ones(self._patterns, dtype=bool)
        looks = zip(self._order, self._ends, self._places, self._shares, strict=True)
        for look, (order, ends, place, share) in enumerate(looks):
            if not share:
                continue
            counts = np.cumsum(alive[order])[ends]
            cut = int(np.searchsorted(counts, self._patterns * alpha * share * (1 + 1e-12), side="right"))
            if 0 <= place < cut:
                return look, int(counts[place])
            alive[order[:cut]] = False
        return len(self._shares), 0

    def path(self) -> FloatArray:
        """Return the sequential p after each look, (K,): the smallest level at which the data are rejected by then.

        Rejection at a level implies rejection at every higher one, so p is found by bisection, to a thousandth.
        """
        found = np.ones(len(self._shares))
        least = 1.0 / self._patterns
        for look in range(len(found)):
            high = found[look - 1] if look else 1.0
            if self.rejected(high * (1 - 1e-9))[0] > look:
                found[look] = high
                continue
            low = least / 2
            while high > low * 1.001:
                middle = float(np.sqrt(low * high))
                low, high = (low, middle) if self.rejected(middle)[0] <= look else (middle, high)
            at, count = self.rejected(high)
            exact = count / (self._patterns * self._shares[at])
            found[look] = exact if low < exact <= high and self.rejected(exact)[0] <= look else high
        return found
