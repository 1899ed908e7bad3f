"""What the evaluation protocols found: the statistics of every metric, one family of tests per protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablations.config import level_text
from ablations.evaluation import Protocol, protocol, protocol_label
from ablations.evaluation.registry import protocol_as_given
from ablations.reporting.findings import SummaryFinding, summary
from ablations.reporting.measured import measured
from ablations.statistics import (
    Analysis,
    Confusion,
    Contrast,
    Mean,
    analyse,
    arrange,
    compare_confusions,
    joined_family,
    means_of_arms,
    varying_axes,
)

if TYPE_CHECKING:
    from ablations.evaluation import Evaluations
    from ablations.storage import Results


@dataclass(frozen=True, eq=False)
class ProtocolAnalysis:
    """The statistics of what one protocol measured."""

    name: str
    """The protocol as on a command line."""
    label: str
    """The protocol as in headings."""
    protocol: Protocol
    beforehand: bool
    """Whether the grid chose it before the training."""
    analyses: Mapping[str, Analysis]
    """By the name of the metric, in the order of the protocol."""
    reasons: Sequence[tuple[str, int]]
    """Why metrics are missing, and in how many runs."""
    arrays: Mapping[str, Mapping[str, Any]]
    """What the protocol measured besides its metrics, by the key of the run."""
    runs: int
    """Number of runs that were measured."""

    @cached_property
    def tested(self) -> dict[str, Analysis]:
        """The metrics in the family of tests."""
        listed = {metric.name for metric in self.protocol.metrics() if metric.tested}
        return {name: each for name, each in self.analyses.items() if name in listed}

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """The contrasts of all tested metrics with the baseline, one family."""
        return joined_family(list(self.tested.values()))

    @cached_property
    def first(self) -> Analysis:
        """The analysis of the first metric, which stands for the protocol. There must be one."""
        return next(iter(self.analyses.values()))

    @cached_property
    def means(self) -> dict[str, list[Mean]]:
        """The means of the arms by metric."""
        return {name: means_of_arms(analysis.outcomes) for name, analysis in self.analyses.items()}

    @property
    def finding(self) -> SummaryFinding | None:
        """How the arms compare by the first metric; None if nothing is compared."""
        if not self.analyses:
            return None
        own = [contrast for contrast in self.contrasts if contrast.measure == self.first.outcomes.measure]
        return summary(self.first.looked, own) if any(contrast.n for contrast in own) else None

    @property
    def questions(self) -> int:
        """Number of contrasts that were tested."""
        return sum(contrast.n > 0 for contrast in self.contrasts)

    def array(self, name: str) -> dict[str, Any]:
        """Return an array that the protocol measured, by the key of the run."""
        return {key: arrays[name] for key, arrays in self.arrays.items() if name in arrays}

    @cached_property
    def confusions(self) -> list[Confusion]:
        """Pairs of classes that an arm and the baseline confuse, of the protocol that has confusion matrices."""
        found = self.array("confusion")
        return compare_confusions(self.first.looked, found.get) if found and self.analyses else []

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if the protocol does not tell the names."""
        names = next(iter(self.array("classes").values()), ())
        return str(names[label]) if label < len(names) else str(label)


@dataclass(frozen=True, eq=False)
class EvaluationAnalysis:
    """The statistics of everything that was measured by protocols."""

    protocols: Sequence[ProtocolAnalysis]
    outdated: int
    """Measurements made by other code, which are left out."""
    outdated_protocols: Sequence[str]
    diverged: Mapping[str, int]
    """Numbers of runs that diverged and are not measured, by arm."""

    @property
    def questions(self) -> int:
        return sum(each.questions for each in self.protocols)

    @property
    def metrics(self) -> int:
        """Number of tested metrics."""
        return sum(len(each.tested) for each in self.protocols)


def analyse_evaluations(results: Results, evaluations: Evaluations | None) -> EvaluationAnalysis | None:
    """Return the statistics of the evaluations of a study; None without any, current or outdated."""
    if evaluations is None or not (evaluations.protocols or evaluations.outdated):
        return None
    whole = (_analyse_protocol(results, evaluations, text) for text in evaluations.protocols)
    protocols = [each for each in whole if each.analyses or each.reasons]
    renewed = list(map(protocol_as_given, evaluations.outdated_protocols))
    accuracy = arrange(results)
    number = accuracy.has_diverged.sum(axis=(1, 2))
    diverged = {accuracy.arm_name(arm): int(n) for arm, n in enumerate(number) if n}
    return EvaluationAnalysis(protocols, evaluations.outdated, renewed, diverged)


def _analyse_protocol(results: Results, evaluations: Evaluations, text: str) -> ProtocolAnalysis:
    analyses = {}
    for metric in evaluations.metrics(text):
        each = measured(evaluations, text, metric)
        analysis = analyse(results, each.measure, each.values)
        if np.isfinite(analysis.outcomes.values).any():
            analyses[metric.name] = analysis
    reasons = Counter(line for (_, name), lines in evaluations.reasons.items() if name == text for line in lines)
    keys = [str(key) for key in results.runs["key"]]
    arrays = {key: evaluations.arrays(key, text) for key in keys}
    here = evaluations.values["key"][evaluations.values["protocol"] == text]
    measured_runs = {*here} | {run for run, name in evaluations.reasons if name == text}
    return ProtocolAnalysis(
        protocol_as_given(text),
        protocol_label(text),
        protocol(text),
        text in evaluations.beforehand,
        analyses,
        sorted(reasons.items()),
        {key: found for key, found in arrays.items() if found},
        len(measured_runs),
    )


def evaluations_frame(results: Results, evaluations: Evaluations) -> pd.DataFrame:
    """Return every measurement as a row: run, axes, seed, protocol, metric, value."""
    axes = list(dict.fromkeys(["position", *varying_axes(results), "seed"]))
    runs = results.runs[["key", *axes]].copy()
    for axis in axes[:-1]:
        runs[axis] = runs[axis].map(level_text)
    order = {text: place for place, text in enumerate(evaluations.protocols)}
    frame = runs.merge(evaluations.values, on="key")
    places = frame["protocol"].map(order)
    return frame.assign(place=places).sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)
