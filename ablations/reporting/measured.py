"""Metrics of evaluation protocols as measures of the runs of a study."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablations.config import count
from ablations.errors import UsageError, unknown_name
from ablations.evaluation import Metric, protocol
from ablations.statistics import Measure

if TYPE_CHECKING:
    from ablations.evaluation import Evaluations

ACCURACY_NAME = "accuracy"


@dataclass(frozen=True)
class Measured:
    """A metric of a protocol, with its values by the keys of runs."""

    measure: Measure
    values: Mapping[str, float]
    protocol: str
    """The protocol in its standard spelling."""
    beforehand: bool
    """Whether the grid chose the protocol before the training."""

    @property
    def folder(self) -> str:
        """Name of a folder for the metric: letters, digits, dots and hyphens."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.measure.name).strip("-.")

    def missing(self, runs: int) -> str:
        """Return how many of so many finished runs have no value, empty if none."""
        absent = runs - len(self.values)
        return f"{absent} of {count(runs, 'finished run')} {'has' if absent == 1 else 'have'} no value" * bool(absent)


def measured(evaluations: Evaluations, text: str, metric: Metric) -> Measured:
    """Return the values of a metric of a protocol in its standard spelling."""
    table = evaluations.values
    here = table[(table["protocol"] == text) & (table["metric"] == metric.name)]
    found = Measure(f"{text}:{metric.name}", metric.noun, metric.unit, metric.higher_is_better, metric.signed)
    return Measured(found, dict(zip(here["key"], here["value"], strict=True)), text, text in evaluations.beforehand)


def find_measured(evaluations: Evaluations, study: str, name: str) -> Measured | None:
    """Return the metric that a name such as `calibration:nll` means; None for `accuracy`.

    The name of a protocol alone means its first metric. Raises UsageError if no run has such a metric.
    """
    if name == ACCURACY_NAME:
        return None
    text, colon, metric = (name.strip(), "", "") if name.endswith(")") else name.rpartition(":")
    if not text:
        text, metric = metric, ""
    try:
        text = str(protocol(text))
    except UsageError:
        if colon:
            raise
        raise unknown_name("metric", name, [ACCURACY_NAME, *evaluations.protocols]) from None
    metrics = evaluations.metrics(text)
    if not metrics:
        raise UsageError(
            f"no run of study {study} is measured by {text}; run: vitab evaluate {study} --protocol {shlex.quote(text)}"
        )
    names = [each.name for each in metrics]
    if metric and metric not in names:
        raise unknown_name(f"metric of {text}", metric, names)
    return measured(evaluations, text, metrics[names.index(metric) if metric else 0])


def metric_names(evaluations: Evaluations) -> list[str]:
    """Return every name that `find_measured` accepts, in the order of the report."""
    found = [f"{text}:{metric.name}" for text in evaluations.protocols for metric in evaluations.metrics(text)]
    return [ACCURACY_NAME, *found]
