"""One run carried out, as an attempt that this process holds; and runs one after another in this process."""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ablations.attempts import BEAT, EXPIRY, Attempt
from ablations.config import RunConfig, vit_config
from ablations.errors import StorageError, VitabError
from ablations.snapshot import INTERVAL, Keeper
from ablations.store import Store

if TYPE_CHECKING:
    from ablations.data import Dataset
    from ablations.trainer import EpochMetrics, RunRecord


@dataclass(frozen=True)
class Task:
    """A run to carry out; `label` is how people are told of it, `weight` its expected share of the work."""

    key: str
    config: RunConfig
    label: str
    weight: float = 1.0
    failed_before: int = 0
    """The last attempt that failed when the study was begun; a later one is not repeated."""
    stack: int = 1
    """Runs of its shape that may be trained as one model, itself included."""


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
    devices: tuple[str, ...] = ()
    """GPUs for children to share, one each while there are enough; each a value of CUDA_VISIBLE_DEVICES."""


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
    from ablations.trainer import train

    dataset, keeper = dataset_for(task.config, setting.data_dir), keeper_of(task, setting, watch)
    record = train(
        task.config, dataset, backend=setting.backend, threads=setting.threads, on_epoch=watch.epoch, keeper=keeper
    )
    return write(Store(setting.runs), task, record, dataset, setting, watch)


def keeper_of(task: Task, setting: Setting, watch: Watch) -> Keeper:
    """Keeps the snapshots of a run in the store."""
    from ablations.environment import code_digest

    identity = {"key": task.key, "code": code_digest(), "backend": setting.backend}
    return Keeper(Store(setting.runs).snapshot(task.key), identity, interval=setting.snapshot_every, stop=watch.stop)


def write(
    store: Store, task: Task, record: "RunRecord", dataset: "Dataset", setting: Setting, watch: Watch
) -> Finished:
    """Write a trained run to the store. Raises TakenOverError when it is no longer this process's to write."""
    from ablations.environment import describe

    environment = describe(backend=setting.backend, threads=setting.threads)
    environment |= {"stack": record.stack, "data_sha256": dataset.fingerprint}
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
    with Carried(task, attempt, setting, epoch, stop) as carried:
        try:
            return job(task, setting, carried.watch)
        except (Exception, KeyboardInterrupt) as error:
            return carried.explain(error)


class Carried:
    """A run that this process is at, within the context: signs of life, and what becomes of an error."""

    def __init__(
        self,
        task: Task,
        attempt: Attempt,
        setting: Setting,
        epoch: "Callable[[EpochMetrics], None]",
        stop: Callable[[], bool],
    ) -> None:
        self.task, self.attempt, self.setting, self.tell = task, attempt, setting, epoch
        self.beat = attempt.beating(setting.beat)
        self.watch = Watch(self.epoch, lambda: stop() or self.beat.lost, attempt.held)
        self.begun = self.noted = time.monotonic()
        self.epochs_before: int | None = None

    def __enter__(self) -> "Carried":
        self.beat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.beat.__exit__(*error)

    def epoch(self, metrics: "EpochMetrics") -> None:
        """Tell of an epoch, here and now and then in the attempt's file."""
        if self.epochs_before is None:
            self.epochs_before = metrics.epoch - 1
        now, epochs = time.monotonic(), self.task.config.epochs
        if now - self.noted >= self.setting.beat:
            left = (now - self.begun) * (epochs - metrics.epoch) / (metrics.epoch - self.epochs_before)
            self.attempt.note(epoch=metrics.epoch, epochs=epochs, seconds_left=round(left))
            self.noted = now
        self.tell(metrics)

    def explain(self, error: BaseException) -> str | None:
        """The reason of a failure, once it is in the store; None when another process has taken the run over.

        Raises the error itself when it is not the run's own: a store that cannot be written, a wish to stop.
        """
        if isinstance(error, StorageError | TakenOverError | KeyboardInterrupt):
            if isinstance(error, TakenOverError) or self.beat.lost:
                return None
            raise error
        if not self.attempt.held():
            return None
        task, store = self.task, Store(self.setting.runs)
        line = str(error).strip().partition("\n")[0]
        reason = line if isinstance(error, VitabError) else f"{type(error).__name__}: {line}".rstrip(": ")
        details = "".join(traceback.format_exception(error))
        store.fail(task.key, task.config, reason, details, self.attempt.number)
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
    from ablations.stacks import carry_out_together
    from ablations.waiting import PAUSE, Waiting

    waiting = Waiting(tasks, setting, listener)
    held: dict[Task, Attempt] = {}

    def end(task: Task, outcome: Finished | str | None) -> None:
        held.pop(task).release()
        if outcome is None:
            waiting.put_back(task)
        else:
            tell(listener, task, outcome)

    try:
        while True:
            held |= waiting.take(os.getpid())
            if stop():
                raise KeyboardInterrupt
            if not held and not waiting:
                return
            if not held:
                time.sleep(PAUSE)
                continue
            for task in held:
                listener.started(task)
            carry_out_together(list(held.items()), setting, job, epoch=listener.epoch, end=end, stop=stop)
    finally:
        for attempt in held.values():
            attempt.release()


def tell(listener: Listener, task: Task, outcome: Finished | str) -> None:
    """Pass on how a run ended."""
    if isinstance(outcome, str):
        listener.failed(task, outcome)
    else:
        listener.finished(task, outcome)
