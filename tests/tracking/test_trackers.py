"""Every tracker, read by its own library: the values are those of metrics.csv and result.json, and come once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.storage import METRICS, EpochMetrics, RunRecord, Store
from ablations.tracking.registry import PACKAGES, TRACKERS
from tests.support import fake_trainer
from tests.support.evaluations import succeeds, vitab
from tests.support.tracked import READERS, Copy, replace_file
from tests.tracking.conftest import SMOKE

pytestmark = pytest.mark.slow

TEXT = "# smoke\n\nOne **finding**.\n\n*Figure `figures/accuracy`: Dots [a].*\n"
REPORT = {
    "tensorboard": ["figures/accuracy", TEXT],
    "mlflow": ["report/README.md", "report/figures", "report/report.html", "report/tables"],
    "wandb": ["README.md", "figures/accuracy.png", "report.html", "tables/runs.csv"],
    "trackio": ["figures/accuracy", TEXT],
}
"""What is read of the report of the tests."""
WITH_KEY = ("tensorboard", "trackio")
"""Trackers in which the name of a run has its key."""
EXACT = {"tensorboard": lambda value: float(np.float32(value))}
"""How a tracker rounds numbers."""


@pytest.fixture(params=["tensorboard", "mlflow", "wandb", "trackio"])
def tracker(request: pytest.FixtureRequest, here: Path) -> str:
    for package in PACKAGES.get(request.param, (request.param,)):
        pytest.importorskip(package, reason=f"needs vitab[{request.param}]", exc_type=ImportError)
    return str(request.param)


def read(tracker: str) -> tuple[dict[str, Copy], list[str]]:
    """The copies by key, each once, and the report."""
    copies, report = READERS[tracker](Path("runs/tracking") / tracker)
    by_key = {copy.tags["key"]: copy for copy in copies}
    assert len(by_key) == len(copies)
    return by_key, report


def plain(tracker: str, value: Any) -> Any:
    """A value of a configuration as a tracker has it."""
    if tracker == "mlflow":
        return str(value)
    if tracker == "tensorboard":
        return value if isinstance(value, bool | int | float | str) else str(value)
    return value


def check(tracker: str, store: Store, key: str, copy: Copy) -> None:
    """Compare a copy with the files of its run."""
    rounded: Callable[[float], float] = EXACT.get(tracker, float)
    config = json.loads((store.folder(key) / "config.json").read_bytes())
    name = f"{config['position']}, seed {config['seed']}"
    assert copy.name == (f"{name} ({key[:8]})" if tracker in WITH_KEY else name)
    assert (copy.group, copy.ended) == ("smoke", "finished")
    assert copy.config == {field: plain(tracker, value) for field, value in config.items()}
    tags = {"study": "smoke", "arm": config["position"], "seed": str(config["seed"]), "key": key, "version": "0.1.0"}
    assert copy.tags == tags
    rows = store.metrics(key)
    assert len(rows) == 3
    assert copy.epochs == {
        metric: [(int(row["epoch"]), rounded(row[metric])) for row in rows] for metric in METRICS if metric != "epoch"
    }
    result = {name: value for name, value in store.result(key).items() if name != "key"}
    assert copy.results == {f"result/{name}": rounded(value) for name, value in result.items()}


def train_with_faults(config: Any, dataset: Any, *, on_epoch: Callable[[EpochMetrics], None], **rest: Any) -> RunRecord:
    """Fails the run of none with seed 1 after its last epoch, and is interrupted in the third one of rope."""
    arm = (config.position, config.seed)

    def count(metrics: EpochMetrics) -> None:
        if arm == ("rope", 1) and metrics.epoch == 3:
            raise KeyboardInterrupt
        on_epoch(metrics)

    record = fake_trainer.train(config, dataset, on_epoch=count, **rest)
    if arm == ("none", 1):
        raise ZeroDivisionError("no luck")
    return record


def test_runs_are_copied_while_they_are_trained_and_afterwards(tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeds(vitab(*SMOKE, "--seeds", "1"))
    store = Store(Path("runs"))
    monkeypatch.setattr("ablations.training.trainer.train", train_with_faults)
    stopped = vitab(*SMOKE, "--track", tracker)
    assert stopped.exit_code == 130
    assert "warning: tracking" not in stopped.stderr
    _, _, failed, interrupted = keys = store.read_study("smoke").keys
    copies, report = read(tracker)
    assert set(copies) == {failed, interrupted}
    assert copies[failed].ended == "failed"
    assert copies[failed].epochs["train_loss"] == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert copies[interrupted].ended in ("interrupted", "failed")
    assert copies[interrupted].epochs["train_loss"] == [(1, 2.0), (2, 1.0)]
    assert report == []

    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    again = vitab(*SMOKE, "--track", tracker)
    assert succeeds(again)[-1] == f"not in {tracker}: 2 finished runs; to copy: vitab track smoke --to {tracker}"
    assert "warning: tracking" not in again.stderr
    copies, report = read(tracker)
    assert set(copies) == {failed, interrupted}
    for key in copies:
        check(tracker, store, key, copies[key])
    assert report == REPORT[tracker]

    replace_file(store, interrupted, "result.json", test_accuracy=0.875, diverged=3)
    assert succeeds(vitab("track", "--to", tracker))[0].startswith(f"copied 3 runs of study smoke to {tracker}, 1 was")
    copies, report = read(tracker)
    assert set(copies) == set(keys)
    for key in keys:
        check(tracker, store, key, copies[key])
    assert copies[interrupted].results["result/test_accuracy"] == 0.875
    assert copies[interrupted].results["result/diverged"] == 3
    assert report == REPORT[tracker]
    assert {path.name for path in Path().iterdir()} == {"runs", "report of a test"}


@pytest.mark.parametrize("tracker", ["mlflow", "wandb", "trackio"], indirect=True)
def test_the_variables_of_a_tracker_say_where_runs_are_written(tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("other").resolve()
    other.mkdir()
    variables = {
        "mlflow": {"MLFLOW_TRACKING_URI": f"sqlite:///{other}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "mine"},
        "wandb": {"WANDB_DIR": str(other), "WANDB_PROJECT": "mine"},
        "trackio": {"TRACKIO_DIR": str(other)},
    }
    where = {
        "mlflow": f"experiment mine in sqlite:///{other}/mlflow.db",
        "wandb": f"offline runs in {other}/wandb",
        "trackio": f"project smoke in {other}",
    }
    succeeds(vitab(*SMOKE, "--seeds", "1"))
    for name, value in variables[tracker].items():
        monkeypatch.setenv(name, value)
    lines = succeeds(vitab("track", "--to", tracker))
    assert lines[0] == f"copied 2 runs of study smoke to {tracker}: {where[tracker]}"
    copies, _ = READERS[tracker](other)
    assert sorted(copy.name.partition(" (")[0] for copy in copies) == ["none, seed 0", "rope, seed 0"]
    assert {path.name for path in Path("runs/tracking", tracker).iterdir()} <= {"vitab", "cache", "data"}


def test_every_tracker_is_tested() -> None:
    assert set(READERS) == set(TRACKERS) == set(REPORT)
