"""Client's side of `vitab run --dask ADDRESS`: submits runs to a Dask cluster and collects their results.

Each run is one Dask task, named after the run's key, so the cluster executes it once even if several clients submit
it. Workers that share the folder of runs claim the run and write to the folder themselves. For the others, the client
claims the run, publishes its result on the scheduler so that it survives the client, and writes the returned files.
"""

import contextlib
import hashlib
import json
import os
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ablations.data.loading import dataset_for
from ablations.errors import StorageError, TakenOverError, VitabError
from ablations.execution.dask.client import CONNECTION_ERRORS, Cluster
from ablations.execution.dask.worker import TOPIC
from ablations.execution.lease import Lease
from ablations.execution.queue import POLL_INTERVAL, RunQueue
from ablations.execution.stacking import shape
from ablations.execution.tasks import ExecutionSettings, Finished, Listener, Task
from ablations.execution.worker import ProgressRecorder
from ablations.machine import format_bytes
from ablations.storage import Store, TrialStore
from ablations.training.memory import estimate_memory

if TYPE_CHECKING:
    from distributed import Client, Future

STOP_INTERVAL = 0.5
"""Seconds between two requests to stop."""
TRANSFER_TIMEOUT = 30.0
"""Seconds to wait for the transfer of a result, whose worker may just have died."""


def run_on_cluster(
    tasks: Sequence[Task], settings: ExecutionSettings, listener: Listener, cluster: Cluster, stop: Callable[[], bool]
) -> None:
    """Execute the runs on a cluster.

    A run whose process or worker is killed is tried once more; a run that fails by its own error is not. Raises
    KeyboardInterrupt, after the checkpoints are saved, when `stop` returns True; StorageError if a worker cannot write
    the folder of runs; VitabError if the scheduler is lost or no worker can execute the runs.
    """
    runs = ClusterRuns(RunQueue(tasks, settings, listener), settings, listener, cluster)
    try:
        while runs.submitted or runs.queue:
            if stop():
                runs.request_stop()
            if runs.stopping and not runs.submitted:
                raise KeyboardInterrupt
            cluster.refresh_if_due()
            runs.submit_free_runs()
            runs.process_events()
    finally:
        runs.shut_down()


@dataclass
class SubmittedRun:
    """Run that was submitted to the cluster."""

    task: Task
    future: "Future"
    worker: str | None = None  # address of the worker that has started it
    lease: Lease | None = None  # held by this process for a worker that does not share the folder
    heartbeat: ExitStack = field(default_factory=ExitStack)  # of this lease
    progress: ProgressRecorder | None = None  # of this lease


class ClusterRuns:
    """Runs submitted to the cluster, and the events about them."""

    def __init__(self, run_queue: RunQueue, settings: ExecutionSettings, listener: Listener, cluster: Cluster) -> None:
        self.queue, self.settings, self.listener, self.cluster = run_queue, settings, listener, cluster
        self.client: Client = cluster.client
        self.store = Store(settings.runs)
        self.submitted: dict[str, SubmittedRun] = {}  # by key of the Dask task
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.retried: set[str] = set()  # keys of runs with a transient failure
        self.stopping = False
        self.cancelled: list[str] = []  # tasks that a worker may have started before they were cancelled
        self.last_stop_request = -float("inf")
        self.submissions: dict[str, int] = {}  # number of the next submission, by task key without that number
        self.memory: dict[tuple[Any, ...], int] = {}  # bytes per run, by shape
        with cluster.scheduler_errors():
            self.client.subscribe_topic(TOPIC, self.events.put)
        self.entry_point = _entry_point()
        self.key_prefix = f"vitab-{hashlib.sha256(cluster.folder.encode()).hexdigest()[:8]}-"
        with cluster.scheduler_errors():
            self.review_published_results()

    def review_published_results(self) -> None:
        """Delete results of earlier clients that are in the store, and count the others as submissions."""
        from ablations.execution.dask.worker import delete_spooled_run

        for name in map(str, self.client.list_datasets()):
            if not name.startswith(self.key_prefix):
                continue
            prefix, _, number = name.rpartition("-")
            run = prefix.removeprefix(self.key_prefix)[:16]
            if (self.store.folder(run) / "DONE.json").exists():
                self.client.unpublish_dataset(name)
                self.cluster.call_all_workers(delete_spooled_run, run)
            else:
                self.submissions[prefix] = max(int(number), self.submissions.get(prefix, 0))

    # -- submission --

    def submit_free_runs(self) -> None:
        """Submit all runs that are free."""
        requests: dict[str, tuple[Task, dict[str, Any]]] = {}
        while not self.stopping and (task := self.queue.next_free()) is not None:
            request = self.request_for(task)
            requests[request["task"]] = task, request
        if not requests:
            if not self.submitted:
                self.queue.report_waiting()
            return
        with self.cluster.scheduler_errors():
            futures = self.client.map(
                self.entry_point,
                [request for _, request in requests.values()],
                key=list(requests),
                resources={"GPU": 1} if self.settings.backend == "cupy" else None,
            )
        for future in futures:
            self.submitted[future.key] = SubmittedRun(requests[future.key][0], future)
            future.add_done_callback(self.events.put)

    def request_for(self, task: Task) -> dict[str, Any]:
        """Return what a worker needs to execute the run, as JSON values. All clients with one command make the same."""
        data_dir = self.settings.data_dir
        request = {
            "key": task.key,
            "config": task.config.canonical(),
            "sources": task.sources,
            "code": self.cluster.code,
            "folder": self.cluster.folder,
            "runs": str(self.settings.runs.absolute()),
            "evaluation": None if task.evaluation is None else asdict(task.evaluation),
            "thresholds": task.thresholds,
            "replaces": task.replaces,
            "data_dir": None if data_dir is None else str(data_dir.absolute()),
            "backend": self.settings.backend,
            "checkpoint_every": self.settings.checkpoint_every,
        }
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        prefix = f"{self.key_prefix}{task.key[:16]}-{digest[:16]}"
        task_key = f"{prefix}-{self.submissions.setdefault(prefix, 1)}"
        return request | {"task": task_key, "memory": self.bytes_of(task)}

    def bytes_of(self, task: Task) -> int:
        """Return the approximate memory of a worker process that trains the run."""
        run_shape = shape(task.config)
        if run_shape not in self.memory:
            dataset = dataset_for(task.config, self.settings.data_dir)
            self.memory[run_shape] = estimate_memory(task.config, dataset, backend=self.settings.backend).process
        return self.memory[run_shape]

    # -- events --

    def process_events(self) -> None:
        """Process messages of workers and completed tasks that arrive within POLL_INTERVAL."""
        with contextlib.suppress(queue.Empty):
            event = self.events.get(timeout=POLL_INTERVAL)
            while True:
                if isinstance(event, tuple):
                    self.handle_message(event[1])
                elif (run := self.submitted.get(event.key)) is not None and run.future is event:
                    self.handle_completion(run)
                event = self.events.get_nowait()

    def handle_message(self, message: dict[str, Any]) -> None:
        """Handle a progress message, which workers send to all clients."""
        from ablations.training.trainer import EpochMetrics

        if message["kind"] == "unauthorized":
            self.cluster.forget_worker(message["worker"])
            return
        if message["kind"] == "low_memory":
            self.cluster.log_once(
                f"the Dask worker {message['worker']} on {message['host']} has only "
                f"{format_bytes(message['available'])} of free memory, but a run needs "
                f"{format_bytes(message['memory'])}; the run waits"
            )
            return
        run = self.submitted.get(message["task"])
        if run is None or not (message["shared"] or self.claim(run)):
            return
        if message["kind"] == "retrying":
            self.listener.retrying(run.task, message["reason"])
            run.worker = None
        elif run.worker != message["worker"]:
            if run.worker is not None:
                self.listener.retrying(run.task, f"lost the Dask worker {run.worker}")
            run.worker = message["worker"]
            if run.lease is not None:
                where = f"the Dask worker {run.worker} on {message['host']}"
                run.progress = ProgressRecorder(
                    run.lease, run.task.config.epochs, self.settings.heartbeat_interval, where=where
                )
            self.listener.started(run.task)
        if message["kind"] == "epoch":
            metrics = EpochMetrics(**message["metrics"])
            if run.progress is not None:
                run.progress.epoch(metrics.epoch)
            self.listener.epoch(run.task, metrics)
        elif message["kind"] == "note":
            self.listener.note(run.task, message["line"])

    def handle_completion(self, run: SubmittedRun) -> None:
        """Handle a Dask task that has finished, failed or been cancelled."""
        status = run.future.status
        if status == "finished":
            try:
                outcome = run.future.result(timeout=TRANSFER_TIMEOUT)
            except TimeoutError:
                run.future.add_done_callback(self.events.put)
            except Exception as error:
                self.retry_or_fail(run, f"lost its result ({type(error).__name__})")
            else:
                self.handle_outcome(run, outcome)
        elif status == "error":
            with self.cluster.scheduler_errors():
                raised = run.future.exception(timeout=TRANSFER_TIMEOUT)
            if type(raised).__name__ == "KilledWorker":
                self.retry_or_fail(run, "its Dask workers were killed (possibly out of memory)")
            else:
                self.fail(run, f"{type(raised).__name__}: {raised}".partition("\n")[0], "")
        elif self.client.status != "running":
            raise self.cluster.scheduler_lost()
        else:
            self.requeue(run)  # another client has cancelled it

    def handle_outcome(self, run: SubmittedRun, outcome: dict[str, Any]) -> None:
        """Handle the outcome that a worker returned."""
        kind, unshared = outcome["kind"], not outcome["shared"]
        if kind == "storage":
            raise StorageError(outcome["reason"])
        if kind == "stopped":
            self.requeue(run)
        elif kind == "unfit":
            self.requeue(run)
            self.cluster.exclude_worker(outcome["worker"], outcome["reason"])
            return
        elif unshared and not self.claim(run):
            return
        elif kind == "failed":
            self.fail(run, outcome["reason"], outcome.get("details"))
        else:
            if unshared:
                assert run.lease is not None
                store = self.store if run.task.thresholds is None else TrialStore(self.store.root)
                try:
                    store.receive(run.task.key, outcome["files"], outcome["sha256"], run.lease.held, run.task.replaces)
                except StorageError:
                    raise
                except TakenOverError:
                    self.requeue(run)
                    return
                except VitabError as error:
                    self.retry_or_fail(run, str(error))
                    return
            by_another = run.worker is None and not unshared
            self.close(run)
            result = Finished(**outcome["result"])
            (self.listener.finished_elsewhere if by_another else self.listener.finished)(run.task, result)
        if unshared and kind != "stopped":
            from ablations.execution.dask.worker import delete_spooled_run

            self.cluster.call_all_workers(delete_spooled_run, run.task.key)

    def fail(self, run: SubmittedRun, reason: str, details: str | None) -> None:
        """Report a failed run. `details` is None if the worker has written the failure to the store."""
        if details is not None:
            if not self.claim(run):
                return
            assert run.lease is not None
            self.store.fail(run.task.key, run.task.config, reason, details, run.lease.number)
        self.close(run)
        self.listener.failed(run.task, reason)

    def retry_or_fail(self, run: SubmittedRun, reason: str) -> None:
        """Requeue a run with a transient failure; fail it the second time."""
        if run.task.key in self.retried:
            self.fail(run, reason, "")
            return
        self.retried.add(run.task.key)
        self.listener.retrying(run.task, reason)
        self.requeue(run)

    # -- leases --

    def claim(self, run: SubmittedRun) -> bool:
        """Claim the run for a worker that does not share the folder. Closes the run when another process holds it."""
        if run.lease is not None and run.lease.held():
            return True
        run.lease = self.queue.claim(run.task, os.getpid())
        if run.lease is None:
            self.close(run)
            return False
        run.heartbeat.enter_context(run.lease.heartbeat(self.settings.heartbeat_interval))
        if not run.future.done():
            with self.cluster.scheduler_errors():
                self.client.publish_dataset(run.future, name=run.future.key, override=True)
        return True

    def requeue(self, run: SubmittedRun) -> None:
        """Return an unfinished run to the queue, to be submitted with a new task key.

        The scheduler may still return the old result for the old key.
        """
        self.close(run)
        prefix, _, number = run.future.key.rpartition("-")
        self.submissions[prefix] = int(number) + 1
        self.queue.requeue(run.task)

    def close(self, run: SubmittedRun) -> None:
        """Release the lease and the Dask task of a run."""
        self.submitted.pop(run.future.key, None)
        if run.lease is not None:
            with contextlib.suppress(*CONNECTION_ERRORS):
                self.client.unpublish_dataset(run.future.key)
            run.heartbeat.close()
            run.lease.release()
        run.future.release()

    # -- shutdown --

    def request_stop(self) -> None:
        """Cancel the tasks that no worker has started, and ask the others to save checkpoints and end."""
        if not self.stopping:
            self.stopping = True
            not_started = [run for run in self.submitted.values() if run.worker is None]
            with self.cluster.scheduler_errors():
                self.client.cancel([run.future for run in not_started])
            for run in not_started:
                self.cancelled.append(run.future.key)
                self.requeue(run)
        if time.monotonic() - self.last_stop_request >= STOP_INTERVAL:
            self.send_stop(now=False)

    def shut_down(self) -> None:
        """End the submitted runs and release what this client holds on the cluster."""
        with contextlib.suppress(*CONNECTION_ERRORS):
            self.client.unsubscribe_topic(TOPIC)
        if self.submitted or self.cancelled:
            self.send_stop(now=True)
        for run in list(self.submitted.values()):
            self.close(run)
        with contextlib.suppress(*CONNECTION_ERRORS):
            self.review_published_results()  # of killed clients, whose runs this client has finished

    def send_stop(self, *, now: bool) -> None:
        """Send a request to stop to all workers: after a checkpoint, or `now`."""
        from ablations.execution.dask.worker import request_stop

        self.last_stop_request = time.monotonic()
        self.cluster.call_all_workers(request_stop, [*self.submitted, *self.cancelled], now)


def _entry_point() -> Callable[[dict[str, Any]], Any]:
    # Serialized by value, as in `ablations.execution.dask.client`, so that a worker without this version can decline
    def vitab(request: dict[str, Any]) -> Any:
        try:
            from ablations.storage.code_version import package_digest

            fit = package_digest() == request["code"]
        except Exception:
            fit = False
        if fit:
            from ablations.execution.dask.worker import execute_run

            return execute_run(request)
        import time

        from distributed import Reschedule

        time.sleep(1)  # lets workers that fit take the run first, although this one is free sooner
        raise Reschedule

    return vitab
