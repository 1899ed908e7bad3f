"""Runs of a study on a Dask cluster: `vitab run --dask ADDRESS`, the client's side.

Every run is one Dask task, named by the run's key, so that however often and by however many clients it is asked for,
the cluster has it once. Workers that see the folder of runs claim and write there. For one that does not, the client
claims the run, has the scheduler keep the result even if the client dies, and writes the files that come back.
"""

import contextlib
import hashlib
import json
import os
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ablations.data.loading import dataset_for
from ablations.errors import StorageError, TakenOverError, VitabError
from ablations.execution.dask.client import UNREACHED, Cluster
from ablations.execution.lease import Lease
from ablations.execution.queue import PAUSE, RunQueue
from ablations.execution.stacking import shape
from ablations.execution.tasks import ExecutionSettings, Finished, Listener, Task
from ablations.execution.worker import ProgressNotes
from ablations.machine import format_bytes
from ablations.storage import Store
from ablations.training.memory import need

if TYPE_CHECKING:
    from distributed import Client, Future

ASK_EVERY = 0.5
"""Seconds between two requests to stop."""
TRANSFER = 30.0
"""Seconds to wait for a result whose worker may just have died, before looking at other things."""


def run_on_cluster(
    tasks: Sequence[Task], setting: ExecutionSettings, listener: Listener, cluster: Cluster, stop: Callable[[], bool]
) -> None:
    """Carry out the runs on a cluster.

    A run whose child or worker is killed is tried again, one that fails by itself is not. Raises KeyboardInterrupt,
    when the runs at work are written down, after `stop` has said so; StorageError when a worker cannot write to the
    folder of runs, and VitabError when the scheduler is gone, or no worker is left that can do the runs.
    """
    orders = ClusterRuns(RunQueue(tasks, setting, listener), setting, listener, cluster)
    try:
        while orders.open or orders.waiting:
            if stop():
                orders.ask_to_stop()
            if orders.stopping and not orders.open:
                raise KeyboardInterrupt
            cluster.look_now_and_then()
            orders.place()
            orders.listen()
    finally:
        orders.leave()


@dataclass
class Order:
    """A run that the cluster was asked for."""

    task: Task
    future: "Future"
    worker: str | None = None  # that has begun it
    attempt: Lease | None = None  # held by this process for a worker that does not see the folder
    heartbeat: ExitStack = field(default_factory=ExitStack)
    news: ProgressNotes | None = None  # of the same


class ClusterRuns:
    """The runs that the cluster was asked for, and what is heard of them."""

    def __init__(self, waiting: RunQueue, setting: ExecutionSettings, listener: Listener, cluster: Cluster) -> None:
        self.waiting, self.setting, self.listener, self.cluster = waiting, setting, listener, cluster
        self.client: Client = cluster.client
        self.store = Store(setting.runs)
        self.open: dict[str, Order] = {}  # by key of the Dask task
        self.news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.killed: set[str] = set()  # keys of the runs that were cut short once by no fault of their own
        self.stopping = False
        self.taken_back: list[str] = []  # tasks that a worker may have begun in the very moment
        self.told = -float("inf")
        self.asked: dict[str, int] = {}  # how often, by the beginning of the task's key
        self.memory: dict[tuple[Any, ...], int] = {}  # bytes that runs take, by their shape
        with cluster.reached():
            self.client.subscribe_topic("vitab", self.news.put)
        self.entry = _entry()
        self.beginning = f"vitab-{hashlib.sha256(cluster.folder.encode()).hexdigest()[:8]}-"
        with cluster.reached():
            self.take_stock()

    def take_stock(self) -> None:
        """Look at the results that earlier clients did not come back for: those in the store are let go."""
        from ablations.execution.dask.worker import forget

        for name in map(str, self.client.list_datasets()):
            if not name.startswith(self.beginning):
                continue
            beginning, _, number = name.rpartition("-")
            run = beginning.removeprefix(self.beginning)[:16]
            if (self.store.folder(run) / "DONE.json").exists():
                self.client.unpublish_dataset(name)
                self.cluster.everywhere(forget, run)
            else:
                self.asked[beginning] = max(int(number), self.asked.get(beginning, 0))

    # -- asking --

    def place(self) -> None:
        """Ask for all runs that are free."""
        orders: dict[str, tuple[Task, dict[str, Any]]] = {}
        while not self.stopping and (task := self.waiting.next()) is not None:
            order = self.order(task)
            orders[order["task"]] = task, order
        if not orders:
            if not self.open:
                self.waiting.say_waiting()
            return
        with self.cluster.reached():
            futures = self.client.map(
                self.entry,
                [order for _, order in orders.values()],
                key=list(orders),
                resources={"GPU": 1} if self.setting.backend == "cupy" else None,
            )
        for future in futures:
            self.open[future.key] = Order(orders[future.key][0], future)
            future.add_done_callback(self.news.put)

    def order(self, task: Task) -> dict[str, Any]:
        """What a worker needs to know, in plain values; the same for all clients with the same command."""
        data_dir = self.setting.data_dir
        order = {
            "key": task.key,
            "config": task.config.canonical(),
            "code": self.cluster.code,
            "folder": self.cluster.folder,
            "runs": str(self.cluster.runs),
            "data_dir": None if data_dir is None else str(data_dir.absolute()),
            "backend": self.setting.backend,
            "checkpoint_every": self.setting.checkpoint_every,
        }
        digest = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
        beginning = f"{self.beginning}{task.key[:16]}-{digest[:16]}"
        task_key = f"{beginning}-{self.asked.setdefault(beginning, 1)}"
        return order | {"task": task_key, "memory": self.bytes_of(task)}

    def bytes_of(self, task: Task) -> int:
        """About how much memory a worker's child takes for the run."""
        like = shape(task.config)
        if like not in self.memory:
            dataset = dataset_for(task.config, self.setting.data_dir)
            self.memory[like] = need(task.config, dataset, backend=self.setting.backend).process
        return self.memory[like]

    # -- hearing --

    def listen(self) -> None:
        """Hear what workers say within a moment, and which tasks are over."""
        with contextlib.suppress(queue.Empty):
            news = self.news.get(timeout=PAUSE)
            while True:
                if isinstance(news, tuple):
                    self.hear(news[1])
                elif (order := self.open.get(news.key)) is not None and order.future is news:
                    self.over(order)
                news = self.news.get_nowait()

    def hear(self, message: dict[str, Any]) -> None:
        """How a run gets on, from any worker to all clients."""
        from ablations.training.trainer import EpochMetrics

        if message["kind"] == "stranger":
            self.cluster.meet_again(message["worker"])
            return
        if message["kind"] == "full":
            self.cluster.say_once(
                f"the Dask worker {message['worker']} on {message['host']} has too little memory just now "
                f"({format_bytes(message['available'])}) for a run that takes {format_bytes(message['memory'])}: the run waits"
            )
            return
        order = self.open.get(message["task"])
        if order is None or not (message["shared"] or self.claim(order)):
            return
        if message["kind"] == "again":
            self.listener.again(order.task, message["reason"])
            order.worker = None
        elif order.worker != message["worker"]:
            if order.worker is not None:
                self.listener.again(order.task, f"the Dask worker {order.worker} is gone")
            order.worker = message["worker"]
            if order.attempt is not None:
                where = f"the Dask worker {order.worker} on {message['host']}"
                order.news = ProgressNotes(order.attempt, order.task.config.epochs, self.setting.beat, where=where)
            self.listener.started(order.task)
        if message["kind"] == "epoch":
            metrics = EpochMetrics(**message["metrics"])
            if order.news is not None:
                order.news.epoch(metrics.epoch)
            self.listener.epoch(order.task, metrics)
        elif message["kind"] == "note":
            self.listener.note(order.task, message["line"])

    def over(self, order: Order) -> None:
        """A task has ended, in one way or another."""
        status = order.future.status
        if status == "finished":
            try:
                outcome = order.future.result(timeout=TRANSFER)
            except TimeoutError:
                order.future.add_done_callback(self.news.put)
            except Exception as error:
                self.transient_failure(order, f"its result is lost ({type(error).__name__})")
            else:
                self.ended(order, outcome)
        elif status == "error":
            with self.cluster.reached():
                raised = order.future.exception(timeout=TRANSFER)
            if type(raised).__name__ == "KilledWorker":
                self.transient_failure(
                    order, "the Dask workers that were at it were killed, perhaps for want of memory"
                )
            else:
                self.failed(order, f"{type(raised).__name__}: {raised}".partition("\n")[0], "")
        elif self.client.status != "running":
            raise self.cluster.gone()
        else:
            self.put_back(order)  # somebody else has cancelled it

    def ended(self, order: Order, outcome: dict[str, Any]) -> None:
        """A worker has said how it went."""
        kind, apart = outcome["kind"], not outcome["shared"]
        if kind == "storage":
            raise StorageError(outcome["reason"])
        if kind == "stopped":
            self.put_back(order)
        elif kind == "unfit":
            self.put_back(order)
            self.cluster.drop(outcome["worker"], outcome["reason"])
            return
        elif apart and not self.claim(order):
            return
        elif kind == "failed":
            self.failed(order, outcome["reason"], outcome.get("details"))
        else:
            if apart:
                assert order.attempt is not None
                try:
                    self.store.receive(order.task.key, outcome["files"], outcome["sha256"], order.attempt.held)
                except StorageError:
                    raise
                except TakenOverError:
                    self.put_back(order)
                    return
                except VitabError as error:
                    self.transient_failure(order, str(error))
                    return
            by_another = order.worker is None and not apart
            self.close(order)
            result = Finished(**outcome["result"])
            (self.listener.elsewhere if by_another else self.listener.finished)(order.task, result)
        if apart and kind != "stopped":
            from ablations.execution.dask.worker import forget

            self.cluster.everywhere(forget, order.task.key)

    def failed(self, order: Order, reason: str, details: str | None) -> None:
        """A run has failed; without `details` that is in the store already."""
        if details is not None:
            if not self.claim(order):
                return
            assert order.attempt is not None
            self.store.fail(order.task.key, order.task.config, reason, details, order.attempt.number)
        self.close(order)
        self.listener.failed(order.task, reason)

    def transient_failure(self, order: Order, reason: str) -> None:
        """Not the run's own doing: once more, and not for ever."""
        if order.task.key in self.killed:
            self.failed(order, reason, "")
            return
        self.killed.add(order.task.key)
        self.listener.again(order.task, reason)
        self.put_back(order)

    # -- holding and letting go --

    def claim(self, order: Order) -> bool:
        """Hold the run in this folder, for a worker that does not see it; when another does, leave it to that."""
        if order.attempt is not None and order.attempt.held():
            return True
        order.attempt = self.waiting.claim(order.task, os.getpid())
        if order.attempt is None:
            self.close(order)
            return False
        order.heartbeat.enter_context(order.attempt.heartbeat(self.setting.beat))
        if not order.future.done():
            with self.cluster.reached():
                self.client.publish_dataset(order.future, name=order.future.key, override=True)
        return True

    def put_back(self, order: Order) -> None:
        """It was not ended. It is asked for by another name, for the old one may give the old answer for a while."""
        self.close(order)
        beginning, _, number = order.future.key.rpartition("-")
        self.asked[beginning] = int(number) + 1
        self.waiting.put_back(order.task)

    def close(self, order: Order) -> None:
        """The cluster need not know of it any longer."""
        self.open.pop(order.future.key, None)
        if order.attempt is not None:
            with contextlib.suppress(*UNREACHED):
                self.client.unpublish_dataset(order.future.key)
            order.heartbeat.close()
            order.attempt.release()
        order.future.release()

    # -- stopping --

    def ask_to_stop(self) -> None:
        """Take back what no worker has begun, and have the rest keep snapshots and end."""
        if not self.stopping:
            self.stopping = True
            unbegun = [order for order in self.open.values() if order.worker is None]
            with self.cluster.reached():
                self.client.cancel([order.future for order in unbegun])
            for order in unbegun:
                self.taken_back.append(order.future.key)
                self.put_back(order)
        if time.monotonic() - self.told >= ASK_EVERY:
            self.tell_workers(now=False)

    def leave(self) -> None:
        """End what is still at work."""
        with contextlib.suppress(*UNREACHED):
            self.client.unsubscribe_topic("vitab")
        if self.open or self.taken_back:
            self.tell_workers(now=True)
        for order in list(self.open.values()):
            self.close(order)
        with contextlib.suppress(*UNREACHED):
            self.take_stock()  # of what clients that were killed had asked for, and this one has had done

    def tell_workers(self, *, now: bool) -> None:
        from ablations.execution.dask.worker import ask_to_stop

        self.told = time.monotonic()
        self.cluster.everywhere(ask_to_stop, [*self.open, *self.taken_back], now)


def _entry() -> Callable[[dict[str, Any]], Any]:
    # sent whole, as in `ablations.execution.dask.client`, so that a worker without vitab or with other code can decline
    def vitab(order: dict[str, Any]) -> Any:
        try:
            from ablations.storage.provenance import code_digest

            fit = code_digest() == order["code"]
        except Exception:
            fit = False
        if fit:
            from ablations.execution.dask.worker import execute_run

            return execute_run(order)
        import time

        from distributed import Reschedule

        time.sleep(1)  # so that runs find their way to other workers, which are not as quick to be free
        raise Reschedule

    return vitab
