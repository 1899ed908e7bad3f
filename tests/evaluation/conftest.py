"""Finished runs of small models on digits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations.config import RunConfig, run_key
from ablations.data.loading import dataset_for
from ablations.evaluation.finished_run import FinishedRun
from ablations.execution.tasks import ExecutionSettings, RunHooks, Task
from ablations.execution.worker import train_and_store
from ablations.storage import Store

SMALL = {"width": 16, "depth": 2, "epochs": 3, "warmup_epochs": 0.5, "per_class": 30}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FinishedRun]:
    """Train a run on first use, and return it afresh."""
    folder: Path = tmp_path_factory.mktemp("evaluated")
    done: set[str] = set()

    def run(**fields: Any) -> FinishedRun:
        config = RunConfig.from_mapping(SMALL | fields)
        key = run_key(config, dataset_for(config, None).fingerprint)
        if key not in done:
            task, settings = Task(key, config, "a run"), ExecutionSettings(folder)
            train_and_store(task, settings, RunHooks(epoch=lambda metrics: None))
            done.add(key)
        return FinishedRun(Store(folder), key, threads=1)

    return run
