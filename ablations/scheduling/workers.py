"""One run carried out, as an attempt that this process holds."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ablations.config import RunConfig, vit_config
from ablations.errors import StorageError, TakenOverError, UnfitError, VitabError
from ablations.files import or_say
from ablations.scheduling.attempts import BEAT, EXPIRY, PATIENCE, Attempt
from ablations.signs import told_to
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
    patience: float = PATIENCE
    devices: tuple[str, ...] = ()
    """GPUs for children to share, one each while there are enough; each a value of CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True)
class Finished:
    """What is told of a finished run at once; the store has the rest."""

    test_accuracy: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class CutShort:
    """A run was ended by no fault of its own: memory, a device or a disk failed it. Its snapshot is kept."""

    reason: str
    details: str


Outcome = Finished | CutShort | str | None
"""How a run ended: its result; what has cut it short; the reason why it failed, which is in the store; or None when
another process has it."""


class Listener(Protocol):
    """Who is told how runs get on; called in the process and thread that asked for the runs."""

    def started(self, task: Task) -> None: ...

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None: ...

    def finished(self, task: Task, result: Finished) -> None: ...

    def failed(self, task: Task, reason: str) -> None: ...

    def again(self, task: Task, reason: str) -> None: ...

    def elsewhere(self, task: Task, result: Finished) -> None: ...

    def waiting(self, runs: int) -> None: ...

    def note(self, task: Task, line: str) -> None: ...


@dataclass(frozen=True)
class Watch:
    """What a run at work tells, and what it asks."""

    epoch: "Callable[[EpochMetrics], None]"
    stop: Callable[[], bool] = lambda: False
    """Asked after every step: whether to keep a snapshot and end."""
    held: Callable[[], bool] = lambda: True
    """Asked before anything is written: whether no other process has taken the run over."""
    alive: Callable[[], object] = lambda: None
    """Called where a run gets on and cannot stop."""
    say: Callable[[str], None] = lambda line: None
    """Takes a line for people."""


Job = Callable[[Task, Setting, Watch], Finished]


def train_and_store(task: Task, setting: Setting, watch: Watch) -> Finished:
    """Train one run, from its snapshot if it has one, and write it to the store."""
    from ablations.trainer import train

    dataset, keeper = dataset_for(task.config, setting.data_dir, watch), keeper_of(task, setting, watch)
    record = train(
        task.config, dataset, backend=setting.backend, threads=setting.threads, on_epoch=watch.epoch, keeper=keeper
    )
    return write(Store(setting.runs), task, record, dataset, setting, watch)


def keeper_of(task: Task, setting: Setting, watch: Watch) -> Keeper:
    """Keeps the snapshots of a run in the store."""
    from ablations.environment import code_digest, place

    identity = {"key": task.key, "code": code_digest(), "backend": setting.backend}
    return Keeper(
        Store(setting.runs).snapshot(task.key),
        identity,
        interval=setting.snapshot_every,
        stop=watch.stop,
        alive=watch.alive,
        held=watch.held,
        say=watch.say,
        place=place(setting.backend),
    )


def write(
    store: Store, task: Task, record: "RunRecord", dataset: "Dataset", setting: Setting, watch: Watch
) -> Finished:
    """Write a trained run to the store. Raises TakenOverError when it is no longer this process's to write."""
    from ablations.environment import describe

    environment = describe(backend=setting.backend, threads=setting.threads)
    environment |= {"stack": record.stack, "data_sha256": dataset.fingerprint}
    if len(record.places) > 1:
        environment["places"] = list(record.places)
    model = vit_config(task.config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    store.write(task.key, record, environment, model, watch.held)
    return Finished(float(record.test_accuracy), float(record.validation_accuracy), float(record.seconds))


def dataset_for(config: RunConfig, data_dir: Path | None, watch: Watch | None = None) -> "Dataset":
    """The data of a run, which gives signs of life while they are read; the last few data sets stay in memory."""
    with told_to(watch.alive if watch else lambda: None):
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
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Carry out a run that this process holds.

    Raises StorageError when the store cannot be written, for then no other run can be either, UnfitError when this
    machine cannot do it, and KeyboardInterrupt when asked to stop.
    """
    with Carried(task, attempt, setting, epoch, stop, say) as carried:
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
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.task, self.attempt, self.setting = task, attempt, setting
        self.tell, self.asked, self.note = epoch, stop, say
        self.beat = attempt.beating(setting.beat, setting.patience)
        self.watch = Watch(self.epoch, self.stop, attempt.held, self.stop, self.say)
        self.news = News(attempt, task.config.epochs, setting.beat)

    def __enter__(self) -> "Carried":
        self.beat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.beat.__exit__(*error)

    def stop(self) -> bool:
        """Whether the run is to end; that this is asked is a sign of life."""
        self.beat.sign()
        return self.asked() or self.beat.lost

    def epoch(self, metrics: "EpochMetrics") -> None:
        """Tell of an epoch, here and now and then in the attempt's file."""
        self.beat.sign()
        self.news.epoch(metrics.epoch)
        with or_say("the output could not be written"):  # which is not the run's own error
            self.tell(metrics)

    def say(self, line: str) -> None:
        """Tell of something else."""
        with or_say("the output could not be written"):
            self.note(line)

    def explain(self, error: BaseException) -> CutShort | str | None:
        """What becomes of a run by an error. Its own failure is written to the store.

        Raises the error itself when other runs cannot go on here either, and when it is a wish to stop.
        """
        if isinstance(error, StorageError | UnfitError | TakenOverError | KeyboardInterrupt):
            if isinstance(error, TakenOverError) or self.beat.lost:
                return None
            raise error
        if not self.attempt.held():
            return None
        task, store = self.task, Store(self.setting.runs)
        line = str(error).strip().partition("\n")[0]
        reason = line if isinstance(error, VitabError) else f"{type(error).__name__}: {line}".rstrip(": ")
        details = "".join(traceback.format_exception(error))
        if not is_own(error):
            return CutShort(reason, details)
        store.fail(task.key, task.config, reason, details, self.attempt.number)
        store.snapshot(task.key).unlink(missing_ok=True)  # it leads to the same failure
        return reason


class News:
    """Writes down in an attempt's file, now and then, how far its run is."""

    def __init__(self, attempt: Attempt, epochs: int, every: float, **facts: str) -> None:
        self.attempt, self.epochs, self.every, self.facts = attempt, epochs, every, facts
        self.begun = self.noted = time.monotonic()
        self.before: int | None = None  # epochs of earlier attempts

    def epoch(self, epoch: int) -> None:
        """An epoch (from 1) is over."""
        if self.before is None:
            self.before = epoch - 1
        now = time.monotonic()
        if now - self.noted >= self.every:
            left = (now - self.begun) * (self.epochs - epoch) / (epoch - self.before)
            self.attempt.note(epoch=epoch, epochs=self.epochs, seconds_left=round(left), **self.facts)
            self.noted = now


def is_own(error: BaseException) -> bool:
    """Whether a run that ends with this error would do so again: not if memory, a disk or a GPU has failed it."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    of_gpu = modules & {"cupy", "cupy_backends", "cuda"} or type(error).__name__ == "CublasError"
    return not (of_gpu or isinstance(error, MemoryError | OSError))
