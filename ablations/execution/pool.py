"""Pool of worker processes: a crash or hang loses at most one checkpoint interval."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from ablations.errors import StorageError, UnfitError
from ablations.execution.lease import Lease
from ablations.execution.queue import POLL_INTERVAL, RunQueue
from ablations.execution.stacking import execute_stack
from ablations.execution.tasks import ExecutionSettings, Job, Listener, Task, TransientFailure
from ablations.execution.worker import train_and_store
from ablations.machine import least_used_gpu

ALIVE_INTERVAL = 2.0
"""Maximum seconds between two messages of a worker process that makes progress."""


def run_in_pool(
    tasks: Sequence[Task],
    settings: ExecutionSettings,
    listener: Listener,
    *,
    workers: int,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
    idle: "list[WorkerProcess] | None" = None,
) -> None:
    """Execute the runs in up to `workers` worker processes, in order.

    A worker process that is killed or hangs is replaced and its run tried once more; a run that fails by its own error
    is not. Worker processes ignore SIGINT and SIGTERM: this process asks them to stop, and they exit when it does. They
    do not import the main module of the program, unless the job is defined there.
    Processes in `idle`, started for the same settings and job, are used first; idle processes are returned there.
    Raises KeyboardInterrupt, after the checkpoints are saved, when `stop` returns True.
    """
    pool = WorkerPool(RunQueue(tasks, settings, listener), settings, listener, workers, job, idle)
    try:
        while pool.busy or pool.queue:
            if stop():
                pool.request_stop()
            if pool.stopping and not pool.busy:
                raise KeyboardInterrupt
            pool.assign_runs()
            pool.process_messages()
    finally:
        pool.shut_down()


class WorkerPool:
    """Worker processes and the runs assigned to them."""

    def __init__(
        self,
        queue: RunQueue,
        settings: ExecutionSettings,
        listener: Listener,
        max_workers: int,
        job: Job,
        idle: "list[WorkerProcess] | None" = None,
    ) -> None:
        self.queue, self.settings, self.listener, self.job = queue, settings, listener, job
        self.max_workers, self.idle = max_workers, idle
        self.workers: list[WorkerProcess] = []
        self.stopping = False
        self.last_poll = time.monotonic()

    @property
    def busy(self) -> "list[WorkerProcess]":
        """Worker processes with at least one run."""
        return [worker for worker in self.workers if worker.leases]

    def assign_runs(self) -> None:
        """Assign free runs to idle worker processes, starting new ones up to the limit."""
        while not self.stopping:
            worker = next((worker for worker in self.workers if not worker.leases), None)
            if worker is None and len(self.workers) >= self.max_workers:
                return
            task = self.queue.next_free()
            if task is None:
                if not self.busy:
                    self.queue.report_waiting()
                return
            if worker is None:
                worker = self.start_worker()
                self.workers.append(worker)
            pid = worker.process.pid or 0
            lease = self.queue.claim(task, pid)
            if lease is not None:
                share = -(-(len(self.queue) + 1) // (self.max_workers - len(self.busy)))  # of an idle worker
                leases = {task: lease} | self.queue.claim_stackable(task, pid, min(task.stack, share) - 1)
                for claimed in leases:
                    self.listener.started(claimed)
                worker.assign(leases)

    def start_worker(self) -> "WorkerProcess":
        """Return an idle worker process that is alive, or start one."""
        while self.idle:
            try:
                worker = self.idle.pop()
            except IndexError:  # another thread took the last
                break
            if worker.process.is_alive():
                return worker
            worker.wait_for_exit()
        device = least_used_gpu(self.settings.devices, [worker.device for worker in self.workers])
        return WorkerProcess(self.settings, self.job, device)

    def process_messages(self) -> None:
        """Process messages that arrive within POLL_INTERVAL, and kill worker processes that hang."""
        for connection in wait([worker.connection for worker in self.workers], timeout=POLL_INTERVAL):
            worker = next(worker for worker in self.workers if worker.connection is connection)
            try:
                kind, content = worker.connection.recv()
            except (EOFError, OSError):
                self.handle_lost_worker(worker, worker.wait_for_exit())
            else:
                self.handle_message(worker, kind, content)
        previous, self.last_poll = self.last_poll, time.monotonic()
        for worker in self.busy:
            if self.last_poll - previous > self.settings.hang_timeout / 2:
                worker.last_message = self.last_poll  # this process was suspended, and perhaps the workers with it
            if self.last_poll - worker.last_message > self.settings.hang_timeout:
                worker.wait_for_exit(kill=True)
                reason = f"its worker process did not respond for {self.settings.hang_timeout:g} s and was killed"
                self.handle_lost_worker(worker, reason)

    def handle_message(self, worker: "WorkerProcess", kind: str, content: Any) -> None:
        """Handle one message of a busy worker process."""
        worker.last_message = time.monotonic()
        if kind == "error":
            raise content
        if kind == "epoch":
            self.listener.epoch(*content)
        elif kind == "note":
            self.listener.note(*content)
        elif kind == "interrupted":
            for task in list(worker.leases):
                worker.release(task)
                self.queue.requeue(task)
        elif kind == "outcome":
            task, outcome = content
            self.queue.finish(task, worker.leases.pop(task), outcome)
            worker.retired = worker.retired or isinstance(outcome, TransientFailure)
            if worker.retired and not worker.leases:
                self.workers.remove(worker)
                worker.shut_down()

    def handle_lost_worker(self, worker: "WorkerProcess", reason: str) -> None:
        """Remove a worker process that exited; retry its runs if it was killed, fail them otherwise."""
        self.workers.remove(worker)
        for task, lease in list(worker.leases.items()):
            if self.stopping or not lease.held():
                worker.release(task)
                self.queue.requeue(task)
            else:
                self.queue.retry_or_fail(
                    task, worker.leases.pop(task), TransientFailure(reason, ""), retry=worker.was_killed
                )

    def request_stop(self) -> None:
        """Ask every worker process to save its checkpoints and end its runs."""
        if not self.stopping:
            self.stopping = True
            for worker in self.busy:
                worker.send("stop")

    def shut_down(self) -> None:
        """Shut down the worker processes, or return idle ones to `idle`; kill those with a run."""
        for worker in self.workers:
            if not worker.leases and self.idle is not None and not self.stopping:
                self.idle.append(worker)
            elif not worker.leases:
                worker.shut_down()
            else:
                worker.wait_for_exit(kill=True)
                for task in list(worker.leases):
                    worker.release(task)


class WorkerProcess:
    """Worker process and the leases of the runs that it trains, seen from the process that started it."""

    NAME = "vitab run"
    process: BaseProcess

    def __init__(self, settings: ExecutionSettings, job: Job, device: str | None) -> None:
        import vit.backend.numba_cache  # noqa: F401  worker processes inherit its choice through the environment

        context = multiprocessing.get_context("spawn")
        self.device = device
        self.leases: dict[Task, Lease] = {}
        self.retired = False  # gets no more runs after a transient failure
        self.last_message = time.monotonic()
        self.connection, remote = context.Pipe()
        self.process = context.Process(
            target=_worker_main, args=(remote, settings, job, device), name=self.NAME, daemon=True
        )
        with contextlib.nullcontext() if job.__module__ == "__main__" else _main_module_hidden():
            if threading.current_thread() is not threading.main_thread():
                self.process.start()
            else:
                previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
                try:
                    self.process.start()
                finally:
                    signal.signal(signal.SIGINT, previous)
        remote.close()

    def send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # the process is dead, and the next recv raises
            self.connection.send(message)

    def assign(self, leases: dict[Task, Lease]) -> None:
        """Send the runs to the process, to be trained as one model if there are several."""
        self.leases, self.last_message = leases, time.monotonic()
        self.send(list(leases.items()))

    def release(self, task: Task) -> None:
        """Release the lease of a run."""
        self.leases.pop(task).release()

    def shut_down(self) -> None:
        """Let the idle process exit, and wait for it."""
        self.connection.close()
        self.process.join()

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended the process."""
        return (self.process.exitcode or 0) < 0

    def wait_for_exit(self, kill: bool = False) -> str:
        """Wait until the process exits and return the reason."""
        if kill:
            self.process.kill()
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        if code < 0:
            hint = " (possibly out of memory)" if -code == signal.SIGKILL else ""
            return f"its worker process was killed by {signal.Signals(-code).name}{hint}"
        return f"its worker process exited with code {code}"


_hiding = threading.Lock()


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Return a context in which processes start without the main module: a script would start its runs in each."""
    with _hiding:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


class _ParentConnection:
    """Connection of a worker process to the process that started it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.stopping = False
        self.last_sent = time.monotonic()

    def send(self, kind: str, content: Any = None) -> None:
        """Send a message. A parent that is gone is detected by `stop`."""
        self.last_sent = time.monotonic()
        with contextlib.suppress(OSError):
            self.connection.send((kind, content))

    def stop(self) -> bool:
        """Return whether the parent asked to stop or is gone. Called after every step, it also reports progress."""
        if time.monotonic() - self.last_sent >= ALIVE_INTERVAL:
            self.send("alive")
        if not self.stopping and self.connection.poll():
            with contextlib.suppress(EOFError, OSError):
                self.connection.recv()
            self.stopping = True
        return self.stopping


def _worker_main(connection: Connection, settings: ExecutionSettings, job: Job, device: str | None) -> None:
    """Receive runs or stacks, execute them, and send epochs and outcomes, until asked to stop."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # CUDA reads it when it is first used
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = _ParentConnection(connection)
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
                settings,
                job,
                epoch=lambda task, metrics: parent.send("epoch", (task, metrics)),
                on_end=lambda task, outcome: parent.send("outcome", (task, outcome)),
                stop=parent.stop,
                log=lambda task, line: parent.send("note", (task, line)),
            )
        except (StorageError, UnfitError) as error:
            parent.send("error", error)
        except KeyboardInterrupt:
            for _, lease in message:
                lease.release()  # the parent may be gone, and another machine could not tell that this process ended
            parent.send("interrupted")
