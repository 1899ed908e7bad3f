"""Runs of trials on disk, one folder each, in a folder beside the runs.

::

    runs/trials/<first 16 characters of the key>/
        config.json  environment.json  metrics.csv  result.json  DONE.json

They are claimed, written and verified as runs are (`ablations.storage.store`). They have no predictions of test images
and no weights: a trial is scored by its validation accuracy alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ablations.config import FIELDS, RunConfig, run_key
from ablations.storage.files import to_json
from ablations.storage.store import Held, Store, metrics_csv, plain_number

if TYPE_CHECKING:
    import pandas as pd

    from ablations.storage.records import TrialRecord
    from ablations.storage.study_plan import TrialRun

FOLDER = "trials"
FILES = ("config.json", "environment.json", "metrics.csv", "result.json")
RESULT = ("validation_accuracy", "parameters", "flops", "train_seconds", "seconds")


class TrialStore(Store):
    """The runs of the trials of the studies in a folder."""

    files: ClassVar[tuple[str, ...]] = FILES
    has_studies: ClassVar[bool] = False

    @classmethod
    def beside(cls, runs: Store) -> TrialStore:
        """Return the trials beside the runs of a store."""
        return cls(runs.root / FOLDER)

    def write_trial(
        self,
        key: str,
        record: TrialRecord,
        thresholds: Sequence[float],
        environment: dict[str, Any],
        held: Held = lambda: True,
        replaces: str | None = None,
    ) -> None:
        """Write a finished run of a trial, DONE.json last. Raises as `Store.write`."""
        result = {name: plain_number(getattr(record, name)) for name in RESULT} | {
            "key": key,
            "thresholds": [*thresholds],
        }
        ends = {"pruned": record.pruned, "diverged": record.diverged}
        contents = {
            "config.json": to_json(record.config.canonical()),
            "environment.json": to_json(environment),
            "metrics.csv": metrics_csv(record),
            "result.json": to_json(result | {name: epoch for name, epoch in ends.items() if epoch is not None}),
        }
        self._put(key, contents, held, replaces)


def trial_key(config: RunConfig, fingerprint: str, thresholds: Sequence[float]) -> str:
    """Return the key of a run of a trial: SHA-256 (64 hex characters) of the key of the run and its thresholds.

    With thresholds it may end early, so that its result depends on them.
    """
    identity = {"run": run_key(config, fingerprint), "thresholds": [*map(float, thresholds)]}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


COLUMNS = (
    "key",
    *FIELDS,
    "trial",
    "round",
    *RESULT,
    "trained_epochs",
    "pruned",
    "diverged",
)


def load_trials(store: TrialStore, planned: Iterable[TrialRun]) -> pd.DataFrame:
    """Return the finished ones among the planned runs of trials, in order, with a row for each. Columns:

    - key, and every field of the configuration: the axes, the tuned fields, the seed
    - trial, round: from 0
    - validation_accuracy: after the last epoch, that of the end if pruned, chance if diverged
    - parameters, flops, train_seconds, seconds: as for a run
    - trained_epochs: number of epochs
    - pruned, diverged: the epoch after which it was ended and that in which the loss was not finite, 0 for neither

    Raises VitabError if a file is damaged.
    """
    import pandas as pd

    rows = []
    for run in planned:
        if store.done(run.key):
            result = store.result(run.key)
            epochs = len(store.metrics(run.key))
            rows.append(
                {"key": run.key}
                | {name: getattr(run.config, name) for name in FIELDS}
                | {"trial": run.number, "round": run.round}
                | {name: result[name] for name in RESULT}
                | {"trained_epochs": epochs, "pruned": result.get("pruned") or 0}
                | {"diverged": result.get("diverged") or 0}
            )
    return pd.DataFrame(rows, columns=[*COLUMNS])
