"""The worker's side of `vitab run --dask`, inside a process of a Dask worker.

A run is trained in a child of that process, so that the worker's own heartbeat goes on. Where the worker sees the
client's folder of runs, the child writes there, by the same claims as everybody. Where it does not, the child writes to
a folder of runs of this machine's own, from which a killed run resumes and a repeated request is answered, and the
files go back as bytes.
"""

import contextlib
import multiprocessing
import os
import platform
import shutil
import threading
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.config import RunConfig, run_key
from ablations.data.loading import dataset_for
from ablations.errors import StorageError, UnfitError, VitabError
from ablations.execution.pool import Child, run_in_pool
from ablations.execution.tasks import ExecutionSettings, Finished, Job, RunHooks, Task
from ablations.execution.worker import train_and_store
from ablations.machine import (
    CUDA_PACKAGES,
    PACKAGES,
    available_cores,
    available_memory,
    describe_gpus,
    has_cupy,
    versions,
)
from ablations.storage import Store, read_json
from ablations.training import memory
from vit.caches import user_cache, writable_cache

if TYPE_CHECKING:
    from distributed import Worker

    from ablations.training.trainer import EpochMetrics

TOPIC = "vitab"
"""Of the events by which workers tell clients how runs get on."""
EPOCH_EVERY = 0.5
"""Seconds between two of them about the epochs of one run."""
IDLE = 60.0
"""Seconds after which children without work are ended."""
PATIENCE = 5.0
"""Seconds to wait for a client's word that this worker may take its runs."""
OTHERS_FIRST = 1.0
"""Seconds before a run goes back that cannot be done here: others are not as quick to be free."""


@dataclass
class Request:
    """What a client wants of a run at work."""

    stop: bool = False
    now: bool = False


@dataclass
class _State:
    """What this process knows of clients, and its children without work."""

    admitted: dict[str, tuple[bool, int]] = field(default_factory=dict)  # by folder: is it seen here, threads a run
    unfit: set[str] = field(default_factory=set)  # folders whose runs cannot be done here
    active_lease: dict[str, Request] = field(default_factory=dict)  # by key of the Dask task
    idle: dict[tuple[ExecutionSettings, Job], list[Child]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    timer: threading.Timer | None = None


_state = _State()


def greet(runs: str, probe: str, token: str) -> dict[str, Any]:
    """What the client should know of this worker; whether it sees `runs` is tried with the client's probe file."""
    return {
        "host": platform.node(),
        "cores": available_cores(),
        "packages": {"python": platform.python_version()} | versions((*PACKAGES, *CUDA_PACKAGES)),
        "cupy": has_cupy() and bool(describe_gpus()),
        "shared": sees(Path(runs), probe, token),
    }


def sees(runs: Path, probe: str, token: str) -> bool:
    """Whether this machine reads the client's random token in that folder, and can write there."""
    found = read_json(runs / probe)
    if not isinstance(found, dict) or found.get("token") != token:
        return False
    try:
        answer = runs / f"{probe}.{platform.node()}.{os.getpid()}"
        answer.touch()
        answer.unlink()
    except OSError:
        return False
    return True


def admit(folder: str, places: dict[str, tuple[bool, int]], dask_worker: "Worker") -> bool:
    """Let this worker take runs of a folder; `places` has for each worker whether it sees it, and threads a run."""
    _state.admitted[folder] = places[dask_worker.address]
    _state.unfit.discard(folder)
    return True


def ask_to_stop(keys: list[str], now: bool) -> None:
    """Have runs keep a snapshot and end; or end `now`."""
    for key in keys:
        if key in _state.active_lease:
            _state.active_lease[key].stop = True
            _state.active_lease[key].now = now


def forget(key: str) -> None:
    """The client has the files of this finished run, and this machine need not keep them."""
    shutil.rmtree(Store(spool()).folder(key), ignore_errors=True)


def spool() -> Path:
    """The folder of runs of this machine's own, for clients whose folder it does not see."""
    return (writable_cache() or user_cache()) / "cluster"


def execute_run(order: dict[str, Any], job: Job | None = None) -> dict[str, Any]:
    """Carry out the run of an order; what became of it, with its files where the client's folder is not seen."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    if order["folder"] not in _state.admitted:
        worker.log_event(TOPIC, {"kind": "stranger", "worker": worker.address})
    place = _wait_for(order["folder"])
    if place is None:
        raise Reschedule
    if order["folder"] in _state.unfit:
        time.sleep(OTHERS_FIRST)
        raise Reschedule
    shared, threads = place
    runs = Path(order["runs"]) if shared else spool()
    data_dir = None if order["data_dir"] is None else Path(order["data_dir"])
    setting = ExecutionSettings(runs, data_dir, order["backend"], threads, order["checkpoint_every"])
    config, key, store = RunConfig.from_mapping(order["config"]), order["key"], Store(runs)
    task = Task(key, config, key[:16], failed_before=store.failed_attempt(key))
    teller = ClientNotifier(worker, order["task"], shared)
    if (free := _too_little_memory(order["memory"])) is not None:
        teller.tell("full", memory=order["memory"], available=free)
        time.sleep(OTHERS_FIRST)
        raise Reschedule
    if not shared and store.done(key) and store.verify(key):
        forget(key)
    request = _state.active_lease.setdefault(order["task"], Request())

    def unfit(error: VitabError) -> dict[str, Any]:
        _state.unfit.add(order["folder"])
        return teller.about("unfit", reason=f"{error} (on {platform.node()})")

    def stop() -> bool:
        if request.now:
            raise KeyboardInterrupt
        return request.stop or worker.status.name not in ("running", "paused")

    job = job or train_there
    multiprocessing.current_process().daemon = False  # the nanny's mark, with which a process may have no children
    idle = _state.idle.setdefault((setting, job), [])
    dismiss(keep=(setting, job))
    try:
        run_in_pool([task], setting, teller, workers=1, job=job, stop=stop, idle=idle)
    except KeyboardInterrupt:
        return teller.about("stopped")
    except StorageError as error:
        return teller.about("storage", reason=f"{error} (on {platform.node()})") if shared else unfit(error)
    except UnfitError as error:
        return unfit(error)
    finally:
        _state.active_lease.pop(order["task"], None)
        _dismiss_later()
    if "reason" in teller.outcome and not shared:
        teller.outcome["details"] = (read_json(store.folder(key) / "failure.json") or {}).get("details", "")
    elif not shared:
        try:
            teller.outcome["files"], teller.outcome["sha256"] = store.contents(key)
        except VitabError as error:
            return unfit(error)
    return teller.outcome


def _too_little_memory(bytes_of_run: int) -> int | None:
    """The memory there is, when that is too little for a run even without the children that wait for work."""
    for last in (False, True):
        free = available_memory()
        if free is None or bytes_of_run <= memory.USABLE * free:
            return None
        if not last:
            dismiss()
    return free


def train_there(task: Task, setting: ExecutionSettings, watch: RunHooks) -> Finished:
    """Train one run, once this machine's data are found to be those of the client."""
    try:
        fingerprint = dataset_for(task.config, setting.data_dir, watch.alive).fingerprint
    except VitabError as error:
        raise UnfitError(str(error)) from error
    if run_key(task.config, fingerprint) != task.key:
        raise UnfitError(f"the data {task.config.data} are others than those of the study")
    return train_and_store(task, setting, watch)


class ClientNotifier:
    """Tells all clients how the run gets on, and keeps how it ended."""

    def __init__(self, worker: "Worker", task: str, shared: bool) -> None:
        self.worker = worker
        self.common = {"task": task, "shared": shared, "worker": worker.address, "host": platform.node()}
        self.outcome: dict[str, Any] = self.about("stopped")
        self.last = -float("inf")

    def about(self, kind: str, **facts: Any) -> dict[str, Any]:
        return {"kind": kind, **self.common, **facts}

    def tell(self, kind: str, **facts: Any) -> None:
        self.worker.log_event(TOPIC, self.about(kind, **facts))

    def started(self, task: Task) -> None:
        self.tell("started")

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None:
        if time.monotonic() - self.last >= EPOCH_EVERY:
            self.last = time.monotonic()
            plain = {name: float(value) for name, value in asdict(metrics).items()} | {"epoch": int(metrics.epoch)}
            self.tell("epoch", metrics=plain)

    def again(self, task: Task, reason: str) -> None:
        self.tell("again", reason=f"{reason} (on {platform.node()})")

    def finished(self, task: Task, result: Finished) -> None:
        self.outcome = self.about("finished", result=asdict(result))

    def elsewhere(self, task: Task, result: Finished) -> None:
        self.finished(task, result)

    def failed(self, task: Task, reason: str) -> None:
        self.outcome = self.about("failed", reason=reason)

    def waiting(self, runs: int) -> None: ...

    def note(self, task: Task, line: str) -> None:
        self.tell("note", line=f"{line} (on {platform.node()})")


def _wait_for(folder: str) -> tuple[bool, int] | None:
    """What a client has said of its folder, as soon as it has; None when none does."""
    until = time.monotonic() + PATIENCE
    while folder not in _state.admitted and time.monotonic() < until:
        time.sleep(0.05)
    return _state.admitted.get(folder)


def _dismiss_later() -> None:
    with _state.lock:
        if _state.timer is not None:
            _state.timer.cancel()
        _state.timer = threading.Timer(IDLE, dismiss)
        _state.timer.daemon = True
        _state.timer.start()


def dismiss(keep: tuple[ExecutionSettings, Job] | None = None) -> None:
    """End the children without work, but those for the setting and job to `keep`."""
    children = []
    for purpose, idle in list(_state.idle.items()):
        while purpose != keep and idle:
            with contextlib.suppress(IndexError):  # another thread took the last
                children.append(idle.pop())
    for child in children:
        child.connection.close()
    for child in children:
        child.process.join()


def _end_children() -> None:
    """Before this process ends, which would wait for children that ignore its SIGTERM."""
    for process in multiprocessing.active_children():
        if process.name == Child.NAME:
            process.kill()


Finalize(None, _end_children, exitpriority=100)
