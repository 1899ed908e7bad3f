"""Metrics of evaluation protocols as measures of the runs of a study."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablations.config import count
from ablations.errors import UsageError, unknown_name
from ablations.evaluation import Metric, names, protocol, protocol_label
from ablations.evaluation.registry import protocol_as_given
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
    """The protocol as on a command line."""
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
    given = protocol_as_given(text)
    found = Measure(f"{given}:{metric.name}", metric.noun, metric.unit, metric.higher_is_better, metric.signed)
    return Measured(found, dict(zip(here["key"], here["value"], strict=True)), given, text in evaluations.beforehand)


def find_measured(evaluations: Evaluations, study: str, name: str, options: str = "") -> Measured | None:
    """Return the metric that a name such as `calibration:nll` means; None for `accuracy`.

    The name of a protocol alone means its first metric. Raises UsageError if no run has such a metric; `options` are
    added to the command that its message names.
    """
    if name == ACCURACY_NAME:
        return None
    for text in evaluations.protocols:
        for spelled in (text, protocol_as_given(text), protocol_label(text)):
            if name == spelled or name.startswith(f"{spelled}:"):
                return _of_protocol(evaluations, study, text, name.removeprefix(spelled).removeprefix(":"))
    return _of_protocol(evaluations, study, *_with_another_spelling(evaluations, study, name, options))


def _of_protocol(evaluations: Evaluations, study: str, text: str, metric: str) -> Measured:
    """Return a metric of a protocol, the first if it has no name. Raises UsageError if no run has it."""
    metrics, given = {each.name: each for each in evaluations.metrics(text)}, protocol_as_given(text)
    if not metrics:
        why = next((f": {lines[0]}" for (_, by), lines in evaluations.reasons.items() if by == text), "")
        raise UsageError(f"{given} measured no metric of the runs of study {study}{why}")
    if metric and metric not in metrics:
        raise unknown_name(f"metric of {given}", metric, metrics)
    return measured(evaluations, text, metrics[metric or next(iter(metrics))])


def _with_another_spelling(evaluations: Evaluations, study: str, name: str, options: str) -> tuple[str, str]:
    """Return protocol and metric of a name. Raises UsageError if no run is measured by the protocol."""
    spelled, colon, metric = name.rpartition(":")
    if not colon or spelled.endswith(".py") or name.endswith(")"):
        spelled, metric = name, ""
    try:
        text = str(protocol(spelled))
    except UsageError:
        if name in names() or not re.fullmatch(r"[\w-]*", name):
            raise
        known = [ACCURACY_NAME, *map(protocol_as_given, evaluations.protocols)]
        raise unknown_name("metric", name, known) from None
    if text not in evaluations.protocols:
        given = protocol_as_given(text)
        command = f"vitab evaluate {study} --protocol {shlex.quote(given)}{options}"
        raise UsageError(f"no run of study {study} is measured by {given}; run: {command}")
    return text, metric


def metric_names(evaluations: Evaluations) -> list[str]:
    """Return every name that `find_measured` accepts, in the order of the report."""
    found = [
        f"{protocol_as_given(text)}:{metric.name}"
        for text in evaluations.protocols
        for metric in evaluations.metrics(text)
    ]
    return [ACCURACY_NAME, *found]
