"""What the protocols have measured on the runs of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.evaluation.keys import key_of
from ablations.evaluation.protocol import Metric
from ablations.evaluation.registry import protocol
from ablations.storage import EvaluationStore, Store, StudyPlan

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evaluations:
    """Measurements of the runs of a study, with the code as it is now."""

    values: pd.DataFrame
    """One row for each run, protocol and metric: key (of the run), protocol, metric, value."""
    protocols: tuple[str, ...] = ()
    """Protocols that have measured a run, in their standard spelling: those chosen beforehand first."""
    beforehand: frozenset[str] = frozenset()
    """Those of them that the grid chose before the training."""
    reasons: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Why metrics are missing, by run and protocol."""
    outdated: int = 0
    """Number of measurements that are left out and not renewed: of other code, or of a protocol that is gone."""
    arrays: Callable[[str, str], dict[str, np.ndarray]] = lambda run, text: {}
    """Arrays that a protocol has measured on a run, by the key of the run and the protocol."""
    outdated_protocols: tuple[str, ...] = ()
    """Protocols of the outdated measurements, without those that no longer exist."""

    def metrics(self, text: str) -> list[Metric]:
        """Return the metrics of a protocol that at least one run has, in the order of the protocol."""
        found = set(self.values["metric"][self.values["protocol"] == text])
        return [metric for metric in protocol(text).metrics() if metric.name in found]


@dataclass(frozen=True)
class FinishedEvaluations:
    """Finished evaluations, by run and protocol."""

    current: dict[tuple[str, str], dict[str, Any]]
    """Results of the runs, the protocols and the code as they are now; "key" is the key of the evaluation."""
    outdated: set[tuple[str, str]]
    """What has only results of an earlier run or other code, or of a protocol that is gone."""


def finished_evaluations(
    evaluations: EvaluationStore, positions: Mapping[str, str], *, verify: bool = True
) -> FinishedEvaluations:
    """Return the finished evaluations of runs, whose encodings are given by key.

    Their checksums are verified unless `verify` is false.
    """
    current: dict[tuple[str, str], dict[str, Any]] = {}
    old: set[tuple[str, str]] = set()
    for key, result in evaluations.finished(positions, verify=verify).items():
        run, text = str(result["run"]), str(result.get("protocol"))
        if key == key_of(run, text, positions[run]) and evaluations.is_of_current_run(result):
            current[run, text] = {**result, "key": key}
        else:
            old.add((run, text))
    return FinishedEvaluations(current, old - {*current})


def load_evaluations(store: Store, plan: StudyPlan) -> Evaluations:
    """Return what the protocols have measured on the finished runs of a study, checksums verified."""
    import pandas as pd

    evaluations = EvaluationStore.beside(store)
    positions = {key: config.position for key, config in plan.runs.items() if store.done(key)}
    found = finished_evaluations(evaluations, positions)
    rows = [
        {"key": run, "protocol": text, "metric": name, "value": value}
        for (run, text), result in found.current.items()
        for name, value in result["metrics"].items()
    ]
    measured = {text for _, text in found.current}
    chosen = [text for text in plan.protocols if text in measured]
    return Evaluations(
        pd.DataFrame(rows, columns=["key", "protocol", "metric", "value"]),
        (*chosen, *sorted(measured - {*chosen})),
        frozenset(chosen),
        {one: tuple(result["reasons"]) for one, result in found.current.items() if result["reasons"]},
        len(found.outdated),
        lambda run, text: evaluations.arrays(found.current[run, text]["key"]) if (run, text) in found.current else {},
        tuple(sorted({text for run, text in found.outdated if key_of(run, text, positions[run])})),
    )
