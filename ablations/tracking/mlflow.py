"""MLflow: a run per run, in the experiment of the study; a SQLite file unless MLFLOW_TRACKING_URI says otherwise."""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablations.tracking.tracker import TrackedRun, Tracker, without_credentials

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

BATCH = 1000
"""Maximum number of metrics in a request."""


class MLflow(Tracker):
    """Writes to the server or database MLFLOW_TRACKING_URI, by default <folder>/mlflow.db with <folder>/artifacts.

    The experiment is MLFLOW_EXPERIMENT_NAME, by default the study. The report is a run of the name report. Runs are
    found again by their tags vitab.study and vitab.key.
    """

    def __init__(self, folder: Path, study: str) -> None:
        own = f"sqlite:///{folder.resolve()}/mlflow.db"
        address = os.environ.get("MLFLOW_TRACKING_URI") or own
        self.study, self.runs = study, dict[str, str]()
        self.client = MlflowClient(address)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or study
        self.where = f"experiment {name} in {folder if address == own else without_credentials(address)}"
        self.next_step = f"to look: mlflow ui --backend-store-uri {shlex.quote(own)}" if address == own else ""
        if (found := self.client.get_experiment_by_name(name)) is not None:
            self.experiment = found.experiment_id
        else:
            artifacts = (folder / "artifacts").resolve().as_uri() if address == own else None
            self.experiment = self.client.create_experiment(name, artifacts)

    def start_run(self, run: TrackedRun, *, resume: bool) -> bool:
        found = self._find(key=run.key)
        if resume and found:
            self.client.update_run(found[0], status="RUNNING")
            self.runs[run.key] = found[0]
            return True
        for one in found:
            self.client.delete_run(one)
        tags = {f"vitab.{name}": value for name, value in run.tags.items()}
        made = self.client.create_run(self.experiment, run_name=run.name, tags=tags)
        self.runs[run.key] = made.info.run_id
        params = [Param(name, str(value)) for name, value in run.config.items()]
        self.client.log_batch(made.info.run_id, params=params)
        return False

    def log(self, run: TrackedRun, epochs: Sequence[Mapping[str, float]]) -> None:
        self._metrics(run, [_at(int(row["epoch"]), row) for row in epochs])

    def finish(self, run: TrackedRun, epochs: int, results: Mapping[str, float]) -> None:
        self._metrics(run, [_at(epochs, results)])
        self.client.set_terminated(self.runs.pop(run.key), "FINISHED")

    def stop(self, run: TrackedRun, failure: str | None) -> None:
        number = self.runs.pop(run.key)
        if failure is not None:
            self.client.log_batch(number, tags=[RunTag("vitab.failure", failure)])
        self.client.set_terminated(number, "KILLED" if failure is None else "FAILED")

    def report(self, folder: Path) -> None:
        for one in self._find(key="report"):
            self.client.delete_run(one)
        tags = {"vitab.study": self.study, "vitab.key": "report"}
        made = self.client.create_run(self.experiment, run_name="report", tags=tags)
        self.client.log_artifacts(made.info.run_id, str(folder), "report")
        self.client.set_terminated(made.info.run_id, "FINISHED")

    def _find(self, key: str) -> list[str]:
        """Return the ids of the runs of this study with a key."""
        tags = f"tags.`vitab.study` = '{self.study}' and tags.`vitab.key` = '{key}'"
        return [run.info.run_id for run in self.client.search_runs([self.experiment], tags)]

    def _metrics(self, run: TrackedRun, rows: Sequence[Sequence[Metric]]) -> None:
        metrics = [metric for row in rows for metric in row]
        for first in range(0, len(metrics), BATCH):
            self.client.log_batch(self.runs[run.key], metrics=metrics[first : first + BATCH])


def _at(epoch: int, numbers: Mapping[str, float]) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, epoch) for name, value in numbers.items() if name != "epoch"]
