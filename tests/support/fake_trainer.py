"""Stand-ins for training: they answer at once, and fail or die where a test wants them to."""

import os
import signal
import time
from collections.abc import Callable, Sequence

import numpy as np

from ablations.data import Dataset
from ablations.errors import UnfitError, VitabError
from ablations.execution.tasks import ExecutionSettings, Finished, RunHooks, Task
from ablations.storage import RunRecord, TrialRecord
from ablations.training.checkpoint import Checkpointer
from ablations.training.outcome import is_pruned, trial_record
from ablations.training.trainer import EpochMetrics


def train(
    config: object,
    dataset: Dataset,
    *,
    backend: str = "numpy",
    threads: int | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    checkpointer: Checkpointer | None = None,
) -> RunRecord:
    """A record with numbers made from the config; nothing is trained."""
    metrics = [
        EpochMetrics(epoch, 1e-3 / epoch, 2.0 / epoch, 1.5 / epoch, 0.1 * epoch, 0.25, 1000.0)
        for epoch in range(1, config.epochs + 1)
    ]
    for one in metrics:
        on_epoch(one)
    count = len(dataset.test_labels)
    return RunRecord(
        config=config,
        metrics=metrics,
        predictions={
            "labels": dataset.test_labels,
            "predicted": np.zeros(count, np.int64),
            "probabilities": np.full((count, dataset.classes), 1 / dataset.classes, np.float32),
        },
        test_accuracy=np.float64(0.5 + 0.01 * config.seed),
        test_loss=1.25,
        validation_accuracy=metrics[-1].validation_accuracy,
        state={"norm.weight": np.arange(3, dtype=np.float32)},
        parameters=np.int64(7),
        flops=1_000,
        train_seconds=0.5,
        seconds=0.75,
    )


def train_trial(config: object, dataset: Dataset, thresholds: Sequence[float], **rest: object) -> TrialRecord:
    """A record of a run of a trial, which is better the nearer its learning rate is to that of its encoding."""
    best = {"none": 1e-3, "rope": 4e-3}[config.position]
    end = 0.9 - 0.2 * abs(np.log10(config.learning_rate / best)) - 0.01 * (config.weight_decay - 0.1) ** 2
    metrics = []
    for epoch in range(1, config.epochs + 1):
        metrics.append(EpochMetrics(epoch, 1e-3 / epoch, 2.0, 1.5, float(end) * epoch / config.epochs, 0.25, 1000.0))
        rest["on_epoch"](metrics[-1])
        if epoch < config.epochs and is_pruned(thresholds, [each.validation_accuracy for each in metrics]):
            break
    facts = {"config": config, "metrics": metrics, "parameters": 7, "flops": 1_000 * len(metrics)}
    return trial_record(config.epochs, train_seconds=0.5, seconds=0.75, **facts)


def train_with_failures(config: object, dataset: Dataset, **rest: object) -> RunRecord:
    """Fails the runs of seed 1, in two ways."""
    if config.seed == 1 and config.position == "none":
        raise VitabError("the run cannot be trained")
    if config.seed == 1:
        raise ZeroDivisionError("division by zero\nsecond line")
    return train(config, dataset, **rest)


def job(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """A job for child processes: seed 1 kills its process, seed 2 fails, others answer."""
    if task.config.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if task.config.seed == 2:
        raise VitabError("no luck")
    hooks.epoch(EpochMetrics(1, 1e-3, 2.0, 1.5, 0.5, 0.25, 1000.0))
    return Finished("test 50.0%", 0.1)


def job_that_dies_once(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Seed 0 kills its process the first time, seed 1 hangs always; others answer."""
    mark = settings.runs / f"mark.{task.config.seed}"
    if task.config.seed == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if task.config.seed == 1:
        time.sleep(600)
    return Finished("test 50.0%", 0.1)


def job_that_runs_out_of_memory_once(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Seed 0 does, the first time; every run writes down its process."""
    mark = settings.runs / f"pid.{task.config.seed}"
    again = mark.exists()
    mark.with_name(f"{mark.name}.again" if again else mark.name).write_text(str(os.getpid()))
    if task.config.seed == 0 and not again:
        raise MemoryError
    return Finished("test 50.0%", 0.1)


def job_that_does_not_fit(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """As on a machine without the data."""
    raise UnfitError("cifar10 is not here")


def job_that_is_silent(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """For longer than a test's patience, until a moment after its parent was halted."""
    time.sleep(6)
    return Finished("test 50.0%", 0.1)


def job_that_asks(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Takes steps until it is asked to stop."""
    hooks.epoch(EpochMetrics(1, 1e-3, 2.0, 1.5, 0.5, 0.25, 1000.0))
    while not hooks.stop():
        time.sleep(0.01)
    raise KeyboardInterrupt


def job_that_tells_its_gpu(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Writes down which GPU it sees. Seeds 0 and 1 wait for each other; then seed 1 dies once while 0 is at work."""
    seed, gpu = task.config.seed, os.environ["CUDA_VISIBLE_DEVICES"]
    marks = [settings.runs / f"gpu.{name}" for name in (0, 1, "dead", "again")]
    if seed < 2:
        if marks[2].exists() and seed == 1:
            marks[3].write_text(gpu)
            return Finished("test 50.0%", 0.1)
        marks[seed].write_text(gpu)
        while not (marks[0].exists() and marks[1].exists()):
            time.sleep(0.01)
        if seed == 1:
            marks[2].write_text(gpu)
            os.kill(os.getpid(), signal.SIGKILL)
        while not marks[3].exists():
            time.sleep(0.01)
    return Finished("test 50.0%", 0.1)


def job_that_counts_others(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Its accuracy says how many runs were at work in the same folder at the same moment, itself among them."""
    mark = settings.runs / f"at-work.{task.key[:16]}"
    mark.touch()
    count, deadline = 0, time.monotonic() + (3.0 if settings.backend == "numpy" else 0.3)
    while count < 2 and time.monotonic() < deadline:
        count = len(list(settings.runs.glob("at-work.*")))
        time.sleep(0.01)
    mark.unlink()
    return Finished(f"{count} at work", 0.1)
