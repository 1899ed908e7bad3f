"""What the protocols have measured on the runs of a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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


def load_evaluations(store: Store, plan: StudyPlan) -> Evaluations:
    """Return what the protocols have measured on the finished runs of a study, checksums verified."""
    import pandas as pd

    evaluations = EvaluationStore.beside(store)
    finished = {key: config for key, config in plan.runs.items() if store.done(key)}
    current: dict[tuple[str, str], str] = {}
    rows, reasons = [], {}
    old: set[tuple[str, str]] = set()
    exist: set[str] = set()
    for key, result in evaluations.finished(finished).items():
        run, text = str(result["run"]), str(result["protocol"])
        now = key_of(run, text, finished[run].position)
        if key != now or not evaluations.is_of_current_run(result):
            old.add((run, text))
            exist |= {text} if now else set()
            continue
        current[run, text] = key
        rows += [{"key": run, "protocol": text, "metric": name, "value": v} for name, v in result["metrics"].items()]
        if result["reasons"]:
            reasons[run, text] = tuple(result["reasons"])
    outdated = old - {*current}
    measured = {text for _, text in current}
    chosen = [text for text in plan.protocols if text in measured]
    return Evaluations(
        pd.DataFrame(rows, columns=["key", "protocol", "metric", "value"]),
        (*chosen, *sorted(measured - {*chosen})),
        frozenset(chosen),
        reasons,
        len(outdated),
        lambda run, text: evaluations.arrays(current[run, text]) if (run, text) in current else {},
        tuple(sorted({text for _, text in outdated} & exist)),
    )
