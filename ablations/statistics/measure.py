"""What the numbers of a study are: test accuracy, or a metric of an evaluation protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Measure:
    """What is measured on each run: its name, noun and unit, and which direction is better."""

    name: str
    """`accuracy`, or protocol and metric, such as `calibration:nll`."""
    noun: str
    """What it is in a sentence, such as "test accuracy"."""
    unit: str = "%"
    """"%" for a share, whose differences are in points; otherwise the unit, or "" for a pure number."""
    higher_is_better: bool | None = True
    """None for a description, of which neither direction is better."""
    signed: bool = False
    """Whether it can be negative."""
    decimals: int = 1
    """Decimals of means and differences in text."""

    @property
    def is_accuracy(self) -> bool:
        """Whether this is the test accuracy, which every finished run has."""
        return self == ACCURACY

    @property
    def is_share(self) -> bool:
        """Whether this is a share, for which a margin of equivalence is defined."""
        return self.unit == "%"

    @property
    def scale(self) -> float:
        """Factor from stored values to those of tables: shares are in percent."""
        return 100.0 if self.is_share else 1.0

    @property
    def sign(self) -> float:
        """-1 if lower values are better, else 1."""
        return -1.0 if self.higher_is_better is False else 1.0

    @property
    def lowest(self) -> float:
        """Smallest possible value."""
        return (-self.highest) if self.signed else 0.0

    @property
    def highest(self) -> float:
        """Largest possible value."""
        return 100.0 if self.is_share else np.inf

    @property
    def largest_difference(self) -> float:
        """Largest possible difference of two values."""
        return self.highest - self.lowest

    @property
    def best(self) -> str:
        """`lowest` if lower values are better, else `highest`."""
        return "lowest" if self.sign < 0 else "highest"

    @property
    def mean_noun(self) -> str:
        """The noun of a mean, such as "mean test accuracy"."""
        return self.noun if self.noun.startswith("mean ") else f"mean {self.noun}"

    @property
    def differences_in(self) -> str:
        """Return "percentage points", or the unit of a difference, or "" for a pure number."""
        return "percentage points" if self.is_share else self.unit

    def amount(self, text: str) -> str:
        """Return a difference with its unit: `1.2 points`, `0.03 nats`, or `0.03` for a pure number."""
        return f"{text} {'points' if self.is_share else self.unit}".rstrip()

    def level(self, text: str) -> str:
        """Return a value with its unit: `97.1 %`, `0.21 nats`, or `0.21` for a pure number."""
        return f"{text} {self.unit}".rstrip()

    def with_decimals(self, values: NDArray[np.float64]) -> Measure:
        """Return the measure with as many decimals as give three digits of a typical value; shares have one."""
        known = np.abs(values[np.isfinite(values) & (values != 0)])
        if self.is_share or not known.size:
            return self
        return replace(self, decimals=int(np.clip(2 - np.floor(np.log10(np.median(known))), 0, 4)))


ACCURACY = Measure("accuracy", "test accuracy")
