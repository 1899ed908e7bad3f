"""Runs side by side in child processes, which may die or hang without taking more than a moment's work with them."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ablations.errors import StorageError, UnfitError
from ablations.execution.lease import Lease
from ablations.execution.queue import PAUSE, RunQueue
from ablations.execution.stacking import execute_stack
from ablations.execution.tasks import ExecutionSettings, Job, Listener, Task, TransientFailure
from ablations.execution.worker import train_and_store
from ablations.machine import least_used_gpu

SIGN_OF_LIFE = 2.0
"""Seconds between two messages of a child that it is alive."""


def run_in_pool(
    tasks: Sequence[Task],
    setting: ExecutionSettings,
    listener: Listener,
    *,
    workers: int,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
    idle: "list[Child] | None" = None,
) -> None:
    """Carry out the runs in up to `workers` children, in order as children become free.

    A child that is killed or hangs is replaced, and its run tried once more; a run that fails by itself is not.
    Children ignore the signals that end this process: it asks them to stop, and they end with it. Raises
    KeyboardInterrupt, when their snapshots are written, after `stop` has said so. Children of the same setting and job
    that are `idle` get work before new ones are made, and those that are left go there.
    """
    crew = WorkerPool(RunQueue(tasks, setting, listener), setting, listener, workers, job, idle)
    try:
        while crew.busy or crew.waiting:
            if stop():
                crew.ask_to_stop()
            if crew.stopping and not crew.busy:
                raise KeyboardInterrupt
            crew.run_all()
            crew.listen()
    finally:
        crew.dismiss()


class WorkerPool:
    """The children, and who is at what."""

    def __init__(
        self,
        waiting: RunQueue,
        setting: ExecutionSettings,
        listener: Listener,
        workers: int,
        job: Job,
        idle: "list[Child] | None" = None,
    ) -> None:
        self.waiting, self.setting, self.listener, self.workers, self.job = waiting, setting, listener, workers, job
        self.idle = idle
        self.children: list[Child] = []
        self.stopping = False
        self.listened = time.monotonic()

    @property
    def busy(self) -> "list[Child]":
        return [child for child in self.children if child.held]

    def run_all(self) -> None:
        """Give free runs to idle children, and to new ones while there may be more."""
        while not self.stopping:
            child = next((child for child in self.children if not child.held), None)
            if child is None and len(self.children) >= self.workers:
                return
            task = self.waiting.next()
            if task is None:
                if not self.busy:
                    self.waiting.say_waiting()
                return
            if child is None:
                child = self.start_worker()
                self.children.append(child)
            pid = child.process.pid or 0
            attempt = self.waiting.claim(task, pid)
            if attempt is not None:
                share = -(-(len(self.waiting) + 1) // (self.workers - len(self.busy)))  # of an idle worker
                held = {task: attempt} | self.waiting.claim_stackable(task, pid, min(task.stack, share) - 1)
                for one in held:
                    self.listener.started(one)
                child.give(held)

    def start_worker(self) -> "Child":
        """An idle child that is alive, or a new one."""
        while self.idle:
            try:
                child = self.idle.pop()
            except IndexError:  # another thread took the last
                break
            if child.process.is_alive():
                return child
            child.reap()
        device = least_used_gpu(self.setting.devices, [child.device for child in self.children])
        return Child(self.setting, self.job, device)

    def listen(self) -> None:
        """Hear what children say within a moment, and end those that have been silent for too long."""
        for connection in wait([child.connection for child in self.children], timeout=PAUSE):
            child = next(child for child in self.children if child.connection is connection)
            try:
                kind, content = child.connection.recv()
            except (EOFError, OSError):
                self.lose(child, child.reap())
            else:
                self.hear(child, kind, content)
        before, self.listened = self.listened, time.monotonic()
        for child in self.busy:
            if self.listened - before > self.setting.patience / 2:
                child.heard = self.listened  # this process was halted, and its children with it, perhaps
            if self.listened - child.heard > self.setting.patience:
                child.reap(kill=True)
                self.lose(child, f"its process gave no sign of life for {self.setting.patience:g} s and was ended")

    def hear(self, child: "Child", kind: str, content: Any) -> None:
        """One message of a child at work."""
        child.heard = time.monotonic()
        if kind == "unable":
            raise content
        if kind == "epoch":
            self.listener.epoch(*content)
        elif kind == "note":
            self.listener.note(*content)
        elif kind == "interrupted":
            for task in list(child.held):
                child.end(task)
                self.waiting.put_back(task)
        elif kind == "outcome":
            task, outcome = content
            self.waiting.ended(task, child.held.pop(task), outcome)
            child.spent = child.spent or isinstance(outcome, TransientFailure)
            if child.spent and not child.held:
                self.children.remove(child)
                child.dismiss()

    def lose(self, child: "Child", reason: str) -> None:
        """A child is gone: try its runs once more if that was not their own doing."""
        self.children.remove(child)
        for task, attempt in list(child.held.items()):
            if self.stopping or not attempt.held():
                child.end(task)
                self.waiting.put_back(task)
            else:
                self.waiting.transient_failure(
                    task, child.held.pop(task), TransientFailure(reason, ""), again=child.was_killed
                )

    def ask_to_stop(self) -> None:
        """Have every child write its snapshot and end."""
        if not self.stopping:
            self.stopping = True
            for child in self.busy:
                child.send("stop")

    def dismiss(self) -> None:
        """Let children without work end or be idle, and end those that are still at work."""
        for child in self.children:
            if not child.held and self.idle is not None and not self.stopping:
                self.idle.append(child)
            elif not child.held:
                child.dismiss()
            else:
                child.reap(kill=True)
                for task in list(child.held):
                    child.end(task)


class Child:
    """A child process and the runs it is at."""

    NAME = "vitab run"
    process: BaseProcess

    def __init__(self, setting: ExecutionSettings, job: Job, device: str | None) -> None:
        import vit.backend.numba_cache  # noqa: F401  its choice of a folder is inherited through the environment

        context = multiprocessing.get_context("spawn")
        self.device = device
        self.held: dict[Task, Lease] = {}
        self.spent = False  # for want of memory or by a lost GPU: it gets no other run
        self.heard = time.monotonic()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, setting, job, device), name=self.NAME, daemon=True)
        if threading.current_thread() is not threading.main_thread():
            self.process.start()
        else:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self.process.start()
            finally:
                signal.signal(signal.SIGINT, before)
        theirs.close()

    def send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # of a dead child; the next recv says so
            self.connection.send(message)

    def give(self, held: dict[Task, Lease]) -> None:
        self.held, self.heard = held, time.monotonic()
        self.send(list(held.items()))

    def end(self, task: Task) -> None:
        """It is no longer at a run, which any process may take if it is not finished."""
        self.held.pop(task).release()

    def dismiss(self) -> None:
        """Let it end, which has no work."""
        self.connection.close()
        self.process.join()

    @property
    def was_killed(self) -> bool:
        return (self.process.exitcode or 0) < 0

    def reap(self, kill: bool = False) -> str:
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


class _Parent:
    """The other end, as a child sees it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.stopping = False
        self.told = time.monotonic()

    def tell(self, kind: str, content: Any = None) -> None:
        """Send a message; a parent that is gone is found out by `stop`."""
        self.told = time.monotonic()
        with contextlib.suppress(OSError):
            self.connection.send((kind, content))

    def stop(self) -> bool:
        """Whether the parent has asked to stop or is gone; asked after every step, which is the sign of life."""
        if time.monotonic() - self.told >= SIGN_OF_LIFE:
            self.tell("alive")
        if not self.stopping and self.connection.poll():
            with contextlib.suppress(EOFError, OSError):
                self.connection.recv()
            self.stopping = True
        return self.stopping


def _serve(connection: Connection, setting: ExecutionSettings, job: Job, device: str | None) -> None:
    """The life of a child: take a run or a stack, tell of epochs and outcomes, take the next."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # CUDA looks at it when it is first used
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = _Parent(connection)
    while not parent.stopping:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        if message == "stop":
            return
        try:
            execute_stack(
                message,
                setting,
                job,
                epoch=lambda task, metrics: parent.tell("epoch", (task, metrics)),
                end=lambda task, outcome: parent.tell("outcome", (task, outcome)),
                stop=parent.stop,
                say=lambda task, line: parent.tell("note", (task, line)),
            )
        except (StorageError, UnfitError) as error:
            parent.tell("unable", error)
        except KeyboardInterrupt:
            for _, attempt in message:
                attempt.release()  # no one else does where the parent is gone and this machine is not the next to look
            parent.tell("interrupted")
