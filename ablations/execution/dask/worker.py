"""Worker's side of `vitab run --dask`, executed inside a Dask worker.

Each run is trained in a child process, so that the Dask worker's own heartbeat continues. If the worker shares the
client's folder of runs, the child claims the run and writes there like any other process. Otherwise the child writes to
a spool folder of this machine, from which a killed run resumes and a repeated request is answered, and the files are
returned as bytes.
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
from ablations.errors import StorageError, UnfitError, UsageError, VitabError
from ablations.evaluation import protocol
from ablations.execution.evaluation import evaluate_and_store
from ablations.execution.pool import WorkerProcess, run_in_pool
from ablations.execution.tasks import Evaluation, ExecutionSettings, Finished, Job, RunHooks, Task
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
from ablations.storage import Store, read_json, trial_key
from ablations.training import memory
from vit.caches import user_cache, writable_cache

if TYPE_CHECKING:
    from distributed import Worker

    from ablations.training.trainer import EpochMetrics

TOPIC = "vitab"
"""Topic of the events by which workers report progress to the clients."""
EPOCH_INTERVAL = 0.5
"""Minimum seconds between two epoch events of one run."""
IDLE_TIMEOUT = 60.0
"""Seconds after which idle worker processes are shut down."""
AUTHORIZATION_TIMEOUT = 5.0
"""Seconds to wait until a client authorizes this worker."""
RESCHEDULE_DELAY = 1.0
"""Seconds before a run that cannot be executed here is rescheduled, so that other workers take it first."""


@dataclass
class StopRequest:
    """Request of a client to stop a run: after a checkpoint (`stop`), or at once (`now`)."""

    stop: bool = False
    now: bool = False


@dataclass
class _State:
    """State of this Dask worker."""

    authorized: dict[str, tuple[bool, int]] = field(default_factory=dict)  # by folder: is it shared, threads per run
    unfit: set[tuple[str, bool]] = field(
        default_factory=set
    )  # folders whose runs cannot be trained (or evaluated) here
    stop_requests: dict[str, StopRequest] = field(default_factory=dict)  # of the active runs, by key of the Dask task
    idle: dict[tuple[ExecutionSettings, Job], list[WorkerProcess]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    timer: threading.Timer | None = None


_state = _State()


def describe_worker(runs: str, probe: str, token: str) -> dict[str, Any]:
    """Return host, cores, packages and GPU of this worker, and whether it shares the folder `runs`."""
    return {
        "host": platform.node(),
        "cores": available_cores(),
        "packages": {"python": platform.python_version()} | versions((*PACKAGES, *CUDA_PACKAGES)),
        "cupy": has_cupy() and bool(describe_gpus()),
        "shared": shares_folder(Path(runs), probe, token),
    }


def shares_folder(runs: Path, probe: str, token: str) -> bool:
    """Return whether this machine can read the client's token in the folder, and can write there."""
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


def authorize(folder: str, shares: dict[str, tuple[bool, int]], dask_worker: "Worker") -> bool:
    """Authorize this worker to execute runs of a folder. `shares` has the values of `_State.authorized` by worker."""
    _state.authorized[folder] = shares[dask_worker.address]
    _state.unfit -= {(folder, False), (folder, True)}
    return True


def request_stop(keys: list[str], now: bool) -> None:
    """Stop runs after a checkpoint, or `now`."""
    for key in keys:
        if key in _state.stop_requests:
            _state.stop_requests[key].stop = True
            _state.stop_requests[key].now = now


def delete_spooled_run(key: str) -> None:
    """Delete the files of a finished run from the spool folder, after the client has received them."""
    shutil.rmtree(Store(spool_folder()).folder(key), ignore_errors=True)


def spool_folder() -> Path:
    """Return the folder of runs on this machine, used for clients whose folder this machine does not share."""
    return (writable_cache() or user_cache()) / "cluster"


def execute_run(request: dict[str, Any], job: Job | None = None) -> dict[str, Any]:
    """Execute the requested run and return its outcome, with its files if the client's folder is not shared."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    if request["folder"] not in _state.authorized:
        worker.log_event(TOPIC, {"kind": "unauthorized", "worker": worker.address})
    authorization = _wait_for_authorization(request["folder"])
    if authorization is None:
        raise Reschedule
    purpose = request["folder"], request["evaluation"] is not None
    if purpose in _state.unfit:
        time.sleep(RESCHEDULE_DELAY)
        raise Reschedule
    shared, threads = authorization
    runs = Path(request["runs"]) if shared else spool_folder()
    data_dir = None if request["data_dir"] is None else Path(request["data_dir"])
    settings = ExecutionSettings(runs, data_dir, request["backend"], threads, request["checkpoint_every"])
    config, key, store = RunConfig.from_mapping(request["config"]), request["key"], Store(runs)
    sources = tuple(request["sources"])
    evaluation = None if request["evaluation"] is None else Evaluation(**request["evaluation"])
    before = store.failed_attempt(key)
    task = Task(
        key,
        config,
        key[:16],
        failed_before=before,
        sources=sources,
        evaluation=evaluation,
        thresholds=None if request["thresholds"] is None else tuple(request["thresholds"]),
        replaces=request["replaces"] if shared else None,  # the spool folder has no earlier result
    )
    notifier = ClientNotifier(worker, request["task"], shared)
    if (free := _insufficient_memory(request["memory"])) is not None:
        notifier.send("low_memory", memory=request["memory"], available=free)
        time.sleep(RESCHEDULE_DELAY)
        raise Reschedule
    if not shared and store.done(key) and store.verify(key):
        delete_spooled_run(key)
    stop_request = _state.stop_requests.setdefault(request["task"], StopRequest())

    def unfit(error: VitabError) -> dict[str, Any]:
        _state.unfit.add(purpose)
        return notifier.message("unfit", reason=f"{error} (on {platform.node()})")

    def stop() -> bool:
        if stop_request.now:
            raise KeyboardInterrupt
        return stop_request.stop or worker.status.name not in ("running", "paused")

    if evaluation is not None and not shared:
        return unfit(UnfitError(f"evaluations need access to the folder of runs {Path(request['runs']).parent}"))
    job = job or (check_data_and_train if evaluation is None else check_data_and_evaluate)
    multiprocessing.current_process().daemon = False  # set by the nanny; a daemon process may not have children
    idle = _state.idle.setdefault((settings, job), [])
    shut_down_idle(keep=(settings, job))
    try:
        run_in_pool([task], settings, notifier, workers=1, job=job, stop=stop, idle=idle)
    except KeyboardInterrupt:
        return notifier.message("stopped")
    except StorageError as error:
        return notifier.message("storage", reason=f"{error} (on {platform.node()})") if shared else unfit(error)
    except UnfitError as error:
        return unfit(error)
    finally:
        _state.stop_requests.pop(request["task"], None)
        _schedule_shut_down()
    if "reason" in notifier.outcome and not shared:
        notifier.outcome["details"] = (read_json(store.folder(key) / "failure.json") or {}).get("details", "")
    elif not shared:
        try:
            notifier.outcome["files"], notifier.outcome["sha256"] = store.contents(key)
        except VitabError as error:
            return unfit(error)
    return notifier.outcome


def _insufficient_memory(needed: int) -> int | None:
    """Return the available memory if a run that needs `needed` bytes does not fit, even after idle processes ended."""
    for last in (False, True):
        free = available_memory()
        if free is None or needed <= memory.USABLE * free:
            return None
        if not last:
            shut_down_idle()
    return free


def check_data_and_train(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Train one run. Raises UnfitError as `check_data` does."""
    check_data(task, task.key, settings, hooks)
    return train_and_store(task, settings, hooks)


def check_data_and_evaluate(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Evaluate one run. Raises UnfitError as `check_data` does, and if the protocol cannot be loaded here."""
    assert task.evaluation is not None
    check_data(task, task.evaluation.run, settings, hooks)
    try:
        protocol(task.evaluation.protocol)
    except UsageError as error:
        raise UnfitError(str(error)) from error
    return evaluate_and_store(task, settings, hooks)


def check_data(task: Task, run: str, settings: ExecutionSettings, hooks: RunHooks) -> None:
    """Raise UnfitError if the dataset of a run, or the package of its encoding, is missing here or differs."""
    from vit import ConfigError
    from vit.positions import encoding

    try:
        encoding(task.config.position)
    except ConfigError as error:
        raise UnfitError(str(error)) from error
    try:
        fingerprint = dataset_for(task.config, settings.data_dir, hooks.heartbeat).fingerprint
    except VitabError as error:
        raise UnfitError(str(error)) from error
    thresholds = task.thresholds
    here = run_key(task.config, fingerprint) if thresholds is None else trial_key(task.config, fingerprint, thresholds)
    if here != run:
        raise UnfitError(f"the dataset {task.config.data} must be that of the study, got different data")


class ClientNotifier:
    """Listener that sends the progress of a run to all clients and records its outcome."""

    def __init__(self, worker: "Worker", task: str, shared: bool) -> None:
        self.worker = worker
        self.common = {"task": task, "shared": shared, "worker": worker.address, "host": platform.node()}
        self.outcome: dict[str, Any] = self.message("stopped")
        self.last_epoch_event = -float("inf")

    def message(self, kind: str, **facts: Any) -> dict[str, Any]:
        return {"kind": kind, **self.common, **facts}

    def send(self, kind: str, **facts: Any) -> None:
        self.worker.log_event(TOPIC, self.message(kind, **facts))

    def started(self, task: Task) -> None:
        self.send("started")

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None:
        if time.monotonic() - self.last_epoch_event >= EPOCH_INTERVAL:
            self.last_epoch_event = time.monotonic()
            plain = {name: float(value) for name, value in asdict(metrics).items()} | {"epoch": int(metrics.epoch)}
            self.send("epoch", metrics=plain)

    def retrying(self, task: Task, reason: str) -> None:
        self.send("retrying", reason=f"{reason} (on {platform.node()})")

    def finished(self, task: Task, result: Finished) -> None:
        self.outcome = self.message("finished", result=asdict(result))

    def finished_elsewhere(self, task: Task, result: Finished) -> None:
        self.finished(task, result)

    def failed(self, task: Task, reason: str) -> None:
        self.outcome = self.message("failed", reason=reason)

    def waiting(self, runs: int) -> None: ...

    def note(self, task: Task, line: str) -> None:
        self.send("note", line=f"{line} (on {platform.node()})")


def _wait_for_authorization(folder: str) -> tuple[bool, int] | None:
    """Return the authorization for a folder, or None if no client gives it within AUTHORIZATION_TIMEOUT."""
    deadline = time.monotonic() + AUTHORIZATION_TIMEOUT
    while folder not in _state.authorized and time.monotonic() < deadline:
        time.sleep(0.05)
    return _state.authorized.get(folder)


def _schedule_shut_down() -> None:
    with _state.lock:
        if _state.timer is not None:
            _state.timer.cancel()
        _state.timer = threading.Timer(IDLE_TIMEOUT, shut_down_idle)
        _state.timer.daemon = True
        _state.timer.start()


def shut_down_idle(keep: tuple[ExecutionSettings, Job] | None = None) -> None:
    """Shut down the idle worker processes, except those with the settings and job to `keep`."""
    processes = []
    for purpose, idle in list(_state.idle.items()):
        while purpose != keep and idle:
            with contextlib.suppress(IndexError):  # another thread took the last
                processes.append(idle.pop())
    for process in processes:
        process.connection.close()
    for process in processes:
        process.process.join()


def _kill_worker_processes() -> None:
    """Kill the worker processes at exit, which would otherwise wait for them: they ignore SIGTERM."""
    for process in multiprocessing.active_children():
        if process.name == WorkerProcess.NAME:
            process.kill()


Finalize(None, _kill_worker_processes, exitpriority=100)
