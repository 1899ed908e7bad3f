"""Base class of evaluation protocols, and what a protocol measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from vit.options import Options, choice, option, switch

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun

__all__ = ["Measurement", "Metric", "Protocol", "choice", "option", "switch"]


@dataclass(frozen=True)
class Metric:
    """A number that a protocol measures for each run."""

    name: str
    """Name within its protocol, such as `accuracy-2x`: letters, digits, `-`, `.` and `_`."""
    noun: str
    """What it is in a sentence, such as "accuracy on images of twice the size"."""
    unit: str = "%"
    """"%" for a share from 0 to 1, which is shown in percent; otherwise the unit, or "" for a pure number."""
    higher_is_better: bool | None = True
    """None for a description, of which neither direction is better."""
    signed: bool = False
    """Whether it can be negative."""
    tested: bool = True
    """Whether reports compare arms by it. False for variants of another metric that only some arms have."""


@dataclass(frozen=True)
class Measurement:
    """What a protocol has measured on one run."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Finite values by the name of the metric. A metric that the run does not have is left out."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Arrays of numbers or strings for figures and tables, by names of letters, digits and `_`."""
    reasons: tuple[str, ...] = ()
    """Why metrics are left out, in a line each."""


@dataclass(frozen=True)
class Protocol(Options):
    """Base class of evaluation protocols: frozen dataclasses whose fields are the options (see `option`).

    A protocol draws its random numbers from `FinishedRun.generator`, so that runs with the same seed are measured on
    the same images.
    """

    description: ClassVar[str]
    """What is measured, in a phrase."""
    source: ClassVar[str] = ""
    """Publication of the definition."""

    def __post_init__(self) -> None:
        """Bring the options that have a standard spelling into it (see `numbers_option`)."""
        for each in fields(self):
            if standard := each.metadata.get("standard"):
                object.__setattr__(self, each.name, standard(getattr(self, each.name)))

    def metrics(self) -> list[Metric]:
        """Return the metrics, in the order of tables; the first stands for the protocol in summaries."""
        raise NotImplementedError

    def measure(self, run: "FinishedRun") -> Measurement:
        """Measure one run. Raise `VitabError` with a line for the user if it cannot be measured at all."""
        raise NotImplementedError

    def passes(self, config: "RunConfig") -> float:
        """Return the cost on the test set, in forward passes at the size of the training images."""
        return 1.0
