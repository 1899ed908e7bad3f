"""What a tracker is for vitab: a few methods that write runs to it."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers show it."""

    study: str
    key: str
    name: str
    """Its label, such as `rope, depth 2, seed 0`."""
    arm: str
    """Its label without the seed."""
    config: dict[str, Any]
    version: str
    """Of vitab."""

    @property
    def tags(self) -> dict[str, str]:
        """Where the run comes from."""
        seed = str(self.config["seed"])
        return {"study": self.study, "arm": self.arm, "seed": seed, "key": self.key, "version": self.version}

    @property
    def unique_name(self) -> str:
        """The name, unique in its study: runs with the same label may differ outside the axes."""
        return f"{self.name} ({self.key[:8]})"


class Tracker(ABC):
    """Writes the runs of one study to a tracker. Every method may raise any exception, or never return.

    Metrics of an epoch have the names and values of a row of metrics.csv, with the epoch, counted from 1, as `epoch`.
    Results have the names and values of result.json, with the prefix `result/`.
    """

    where: str
    """Where the runs are, without credentials."""
    next_step: str
    """What to do with them, such as `to look: tensorboard --logdir runs/tracking/tensorboard`, or empty."""

    @abstractmethod
    def __init__(self, folder: Path, study: str) -> None:
        """Connect to the tracker. Runs go to a folder, unless environment variables of the tracker say otherwise."""

    @abstractmethod
    def start_run(self, run: TrackedRun, *, resume: bool) -> bool:
        """Open a run, and return whether its epochs are kept.

        With `resume`, a run that was stopped goes on if the tracker can do that. Otherwise what the tracker has of this
        run, by its key, is removed first.
        """

    @abstractmethod
    def log(self, run: TrackedRun, epochs: Sequence[Mapping[str, float]]) -> None:
        """Add epochs, in order, to an open run."""

    @abstractmethod
    def finish(self, run: TrackedRun, epochs: int, results: Mapping[str, float]) -> None:
        """Add the results of an open run, which has this number of epochs, and close it. It is written on return."""

    @abstractmethod
    def stop(self, run: TrackedRun, failure: str | None) -> None:
        """Close an open run that failed for a reason, or was interrupted. It is written on return."""

    @abstractmethod
    def report(self, folder: Path) -> None:
        """Write the report of the study, in place of an earlier one: README.md, report.html, figures/, tables/."""


def report_text(folder: Path) -> str:
    """Return README.md of a report with the names of its figures, for trackers that show pictures in another place."""
    figure = re.compile(r"\[!\[(.*?)\]\(figures/([^)]*)\.png\)\]\(figures/[^)]*\.svg\)")
    return figure.sub(r"*Figure `figures/\2`: \1*", (folder / "README.md").read_text(encoding="utf-8"))


def without_credentials(address: str) -> str:
    """Return an address without the user and the password in it."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else address
