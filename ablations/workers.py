"""Runs carried out: one after another in this process, or side by side in child processes."""

import contextlib
import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ablations.config import RunConfig, vit_config
from ablations.errors import VitabError
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


@dataclass(frozen=True)
class Setting:
    """How and where runs are carried out; nothing here changes their results."""

    runs: Path
    data_dir: Path | None = None
    backend: str = "numpy"
    threads: int = 1


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


Job = Callable[[Task, Setting, "Callable[[EpochMetrics], None]"], Finished]


def train_and_store(task: Task, setting: Setting, on_epoch: "Callable[[EpochMetrics], None]") -> Finished:
    """Train one run and write it to the store."""
    from ablations.environment import describe
    from ablations.trainer import train

    dataset = dataset_for(task.config, setting.data_dir)
    record = train(task.config, dataset, backend=setting.backend, threads=setting.threads, on_epoch=on_epoch)
    environment = describe(backend=setting.backend, threads=setting.threads)
    environment["data_sha256"] = dataset.fingerprint
    model = vit_config(task.config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    Store(setting.runs).write(task.key, record, environment, model)
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


def attempt(task: Task, setting: Setting, on_epoch: "Callable[[EpochMetrics], None]", job: Job) -> Finished | str:
    """Carry out a run: its result, or the reason why it failed, which is also written to the store.

    Raises VitabError when that reason cannot be written: then no other run can be written either.
    """
    try:
        return job(task, setting, on_epoch)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        reason = first if isinstance(error, VitabError) else f"{type(error).__name__}: {first}".rstrip(": ")
        Store(setting.runs).fail(task.key, task.config, reason, traceback.format_exc())
        return reason


def in_this_process(tasks: Sequence[Task], setting: Setting, listener: Listener, job: Job = train_and_store) -> None:
    """Carry out the runs one after another, in order."""
    for task in tasks:
        listener.started(task)
        _tell(listener, task, attempt(task, setting, lambda m, task=task: listener.epoch(task, m), job))  # type: ignore[misc]


def in_processes(
    tasks: Sequence[Task],
    setting: Setting,
    listener: Listener,
    *,
    workers: int,
    job: Job = train_and_store,
) -> None:
    """Carry out the runs in up to `workers` children, in order as children become free.

    A child that dies fails the run it had, and a new child takes its place. Children ignore the signals that
    end the parent, which ends them; a run cut short leaves nothing that looks finished.
    """
    waiting = deque(tasks)
    crew: dict[Connection, _Child] = {}
    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                child = _Child(setting, job)
                crew[child.connection] = child
                child.give(waiting.popleft(), listener)
            for connection in wait(list(crew)):
                child = crew[connection]  # type: ignore[index]
                try:
                    kind, content = child.connection.recv()
                except (EOFError, OSError):
                    del crew[child.connection]
                    reason = child.bury()
                    Store(setting.runs).fail(child.task.key, child.task.config, reason)
                    listener.failed(child.task, reason)
                    continue
                if kind == "epoch":
                    listener.epoch(child.task, content)
                elif kind == "stop":
                    raise VitabError(content)
                else:
                    _tell(listener, child.task, content)
                    if waiting:
                        child.give(waiting.popleft(), listener)
                    else:
                        del crew[child.connection]
                        child.dismiss()
    finally:
        for child in crew.values():
            child.bury(kill=True)


def _tell(listener: Listener, task: Task, outcome: Finished | str) -> None:
    if isinstance(outcome, str):
        listener.failed(task, outcome)
    else:
        listener.finished(task, outcome)


class _Child:
    """A child process and the run it is at."""

    task: Task
    process: BaseProcess

    def __init__(self, setting: Setting, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, setting, job), daemon=True)
        if threading.current_thread() is not threading.main_thread():
            self.process.start()
        else:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self.process.start()
            finally:
                signal.signal(signal.SIGINT, before)
        theirs.close()

    def give(self, task: Task, listener: Listener) -> None:
        self.task = task
        listener.started(task)
        with contextlib.suppress(OSError):  # of a dead child; the next recv says so
            self.connection.send(task)

    def dismiss(self) -> None:
        """Let it end: it leaves when the connection closes."""
        self.connection.close()
        self.process.join()

    def bury(self, kill: bool = False) -> str:
        """Wait for its end, and say how it ended."""
        if kill:
            self.process.kill()
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        if code < 0:
            hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-code).name}{hint}"
        return f"its process ended with exit code {code}"


def _serve(connection: Connection, setting: Setting, job: Job) -> None:
    """The life of a child: take a run, tell of its epochs and its outcome, take the next."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def send(kind: str, content: Any) -> None:
        try:
            connection.send((kind, content))
        except OSError:
            raise SystemExit(1) from None  # the parent is gone

    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            outcome = attempt(task, setting, lambda metrics: send("epoch", metrics), job)
        except VitabError as error:
            send("stop", str(error))
        else:
            send("outcome", outcome)
