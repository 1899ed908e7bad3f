"""One run carried out, as an attempt that this process holds; and runs one after another in this process."""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ablations.attempts import BEAT, EXPIRY, Attempt
from ablations.config import RunConfig, vit_config
from ablations.errors import StorageError, VitabError
from ablations.snapshot import INTERVAL, Keeper
from ablations.store import Store

if TYPE_CHECKING:
    from ablations.data import Dataset
    from ablations.trainer import EpochMetrics


@dataclass(frozen=True)
class Task:
    """A run to carry out; `label` is how people are told of it, `weight` its expected share of the work."""

    key: str
    config: RunConfig
    label: str
    weight: float = 1.0
    failed_before: int = 0
    """The last attempt that failed when the study was begun; a later one is not repeated."""


@dataclass(frozen=True)
class Setting:
    """How and where runs are carried out; nothing here changes their results."""

    runs: Path
    data_dir: Path | None = None
    backend: str = "numpy"
    threads: int = 1
    snapshot_every: float = INTERVAL
    beat: float = BEAT
    expiry: float = EXPIRY
    patience: float = 600.0
    """Seconds without a step after which a child counts as hung. A test on many images is one such silence."""


@dataclass(frozen=True)
class Finished:
    """What is told of a finished run at once; the store has the rest."""

    test_accuracy: float
    validation_accuracy: float
    seconds: float


class Listener(Protocol):
    """Who is told how runs get on; called in the process and thread that asked for the runs."""

    def started(self, task: Task) -> None: ...

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None: ...

    def finished(self, task: Task, result: Finished) -> None: ...

    def failed(self, task: Task, reason: str) -> None: ...

    def again(self, task: Task, reason: str) -> None: ...

    def elsewhere(self, task: Task, result: Finished) -> None: ...

    def waiting(self, runs: int) -> None: ...


@dataclass(frozen=True)
class Watch:
    """What a run at work tells, and what it asks."""

    epoch: "Callable[[EpochMetrics], None]"
    stop: Callable[[], bool] = lambda: False
    """Asked after every step: whether to keep a snapshot and end."""
    held: Callable[[], bool] = lambda: True
    """Asked before results are written: whether no other process has taken the run over."""


class TakenOverError(Exception):
    """Another process has the run; what this one has found is not written."""


Job = Callable[[Task, Setting, Watch], Finished]


def train_and_store(task: Task, setting: Setting, watch: Watch) -> Finished:
    """Train one run, from its snapshot if it has one, and write it to the store."""
    from ablations.environment import code_digest, describe
    from ablations.trainer import train

    store, dataset = Store(setting.runs), dataset_for(task.config, setting.data_dir)
    identity = {"key": task.key, "code": code_digest(), "backend": setting.backend}
    keeper = Keeper(store.snapshot(task.key), identity, interval=setting.snapshot_every, stop=watch.stop)
    record = train(
        task.config, dataset, backend=setting.backend, threads=setting.threads, on_epoch=watch.epoch, keeper=keeper
    )
    environment = describe(backend=setting.backend, threads=setting.threads)
    environment["data_sha256"] = dataset.fingerprint
    model = vit_config(task.config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    if not watch.held():
        raise TakenOverError
    store.write(task.key, record, environment, model)
    return Finished(float(record.test_accuracy), float(record.validation_accuracy), float(record.seconds))


def dataset_for(config: RunConfig, data_dir: Path | None) -> "Dataset":
    """The data of a run; the last few data sets stay in memory."""
    return _read(config.data, config.labels, config.classes, config.per_class, data_dir)


@lru_cache(maxsize=4)
def _read(
    data: str,
    labels: str,
    classes: int | tuple[str, ...] | None,
    per_class: int | None,
    data_dir: Path | None,
) -> "Dataset":
    from ablations.data import load

    return load(data, data_dir=data_dir, labels=labels, classes=classes, per_class=per_class)


def carry_out(
    task: Task,
    attempt: Attempt,
    setting: Setting,
    job: Job,
    *,
    epoch: "Callable[[EpochMetrics], None]",
    stop: Callable[[], bool],
) -> Finished | str | None:
    """Carry out a run that this process holds.

    Returns its result; or the reason why it failed, which is also in the store; or None when another process has
    taken the run over. Raises StorageError when the store cannot be written, for then no other run can be either,
    and KeyboardInterrupt when asked to stop.
    """
    begun = last = time.monotonic()
    first: list[int] = []

    def note(metrics: "EpochMetrics") -> None:
        nonlocal last
        first.append(metrics.epoch - 1)
        now, epochs = time.monotonic(), task.config.epochs
        if now - last >= setting.beat:
            left = (now - begun) * (epochs - metrics.epoch) / (metrics.epoch - first[0])
            attempt.note(epoch=metrics.epoch, epochs=epochs, seconds_left=round(left))
            last = now
        epoch(metrics)

    store = Store(setting.runs)
    with attempt.beating(setting.beat) as beat:
        try:
            return job(task, setting, Watch(note, lambda: stop() or beat.lost, attempt.held))
        except (StorageError, TakenOverError, KeyboardInterrupt) as error:
            if isinstance(error, TakenOverError) or beat.lost:
                return None
            raise
        except Exception as error:
            if not attempt.held():
                return None
            line = str(error).strip().partition("\n")[0]
            reason = line if isinstance(error, VitabError) else f"{type(error).__name__}: {line}".rstrip(": ")
            store.fail(task.key, task.config, reason, traceback.format_exc(), attempt.number)
            store.snapshot(task.key).unlink(missing_ok=True)  # it leads to the same failure
            return reason


def in_this_process(
    tasks: Sequence[Task],
    setting: Setting,
    listener: Listener,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Carry out the runs one after another, those that no other process is at first."""
    from ablations.waiting import PAUSE, Waiting

    waiting = Waiting(tasks, setting, listener)
    while True:
        taken = waiting.take(os.getpid())
        if stop():
            if taken is not None:
                taken[1].release()
            raise KeyboardInterrupt
        if taken is None:
            if not waiting:
                return
            time.sleep(PAUSE)
            continue
        task, attempt = taken
        listener.started(task)
        try:
            outcome = carry_out(task, attempt, setting, job, epoch=partial(listener.epoch, task), stop=stop)
        finally:
            attempt.release()
        if outcome is None:
            waiting.put_back(task)
        else:
            tell(listener, task, outcome)


def tell(listener: Listener, task: Task, outcome: Finished | str) -> None:
    """Pass on how a run ended."""
    if isinstance(outcome, str):
        listener.failed(task, outcome)
    else:
        listener.finished(task, outcome)
