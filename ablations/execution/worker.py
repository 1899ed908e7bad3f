"""Execution of one run: training, the write to the store, the heartbeat, and the handling of errors."""

import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ablations.config import vit_config
from ablations.data.loading import dataset_for
from ablations.errors import StorageError, TakenOverError, UnfitError, VitabError
from ablations.execution.lease import Lease
from ablations.execution.tasks import (
    ExecutionSettings,
    Finished,
    Job,
    RunHooks,
    RunOutcome,
    Task,
    TransientFailure,
    training_summary,
    trial_summary,
)
from ablations.storage import RunRecord, Store, TrialRecord, TrialStore, storage_errors
from ablations.training.checkpoint import Checkpointer

if TYPE_CHECKING:
    from ablations.data import Dataset
    from ablations.storage import TrainingRecord
    from ablations.training.trainer import EpochMetrics


def train_and_store(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Train one run, from its checkpoint if it has one, and write it to the store."""
    from ablations.training.trainer import train, train_trial

    dataset = dataset_for(task.config, settings.data_dir, hooks.heartbeat)
    how: Any = {
        "backend": settings.backend,
        "threads": settings.threads,
        "on_epoch": hooks.epoch,
        "checkpointer": checkpointer_for(task, settings, hooks),
    }
    record: TrainingRecord
    if task.thresholds is None:
        record = train(task.config, dataset, **how)
    else:
        record = train_trial(task.config, dataset, task.thresholds, **how)
    return write_run(Store(settings.runs), task, record, dataset, settings, hooks)


def checkpointer_for(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Checkpointer:
    """Return a Checkpointer that keeps the checkpoint of a run in the store."""
    from ablations.storage.code_version import checkpoint_digest
    from ablations.storage.provenance import place

    code = checkpoint_digest(task.config.position, settings.backend)
    identity = {"key": task.key, "code": code, "backend": settings.backend}
    return Checkpointer(
        Store(settings.runs).snapshot(task.key),
        identity,
        interval=settings.checkpoint_every,
        stop=hooks.stop,
        heartbeat=hooks.heartbeat,
        holds_lease=hooks.holds_lease,
        log=hooks.log,
        place=place(task.config.position, settings.backend),
    )


def write_run(
    store: Store, task: Task, record: "TrainingRecord", dataset: "Dataset", settings: ExecutionSettings, hooks: RunHooks
) -> Finished:
    """Write a trained run to the store. Raises TakenOverError when another process has taken the run over.

    A run of a trial is written to the trials: `settings.runs` is their folder.
    """
    from ablations.data.description import describe_dataset
    from ablations.models.gallery import stored_mistakes
    from ablations.storage.provenance import describe

    environment = describe(position=task.config.position, backend=settings.backend, threads=settings.threads)
    environment |= {"stack": record.stack, "data_sha256": dataset.fingerprint}
    environment["dataset"] = describe_dataset(dataset, settings.data_dir, task.config)
    if len(record.places) > 1:
        environment["places"] = list(record.places)
    if isinstance(record, TrialRecord):
        trials, thresholds = TrialStore(store.root), task.thresholds or ()
        trials.write_trial(task.key, record, thresholds, environment, hooks.holds_lease, task.replaces)
        summary = trial_summary(float(record.validation_accuracy), record.pruned)
        return Finished(summary, float(record.seconds), record.diverged)
    assert isinstance(record, RunRecord)
    model = vit_config(task.config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    mistakes = None if record.diverged else stored_mistakes(record.predictions, dataset.test_images)
    store.write(task.key, record, environment, model, hooks.holds_lease, task.replaces, mistakes)
    summary = training_summary(float(record.test_accuracy), float(record.validation_accuracy))
    return Finished(summary, float(record.seconds), record.diverged)


def execute_run(
    task: Task,
    lease: Lease,
    settings: ExecutionSettings,
    job: Job,
    *,
    epoch: "Callable[[EpochMetrics], None]",
    stop: Callable[[], bool],
    log: Callable[[str], None] = lambda line: None,
) -> RunOutcome:
    """Execute a run whose lease this process holds.

    Raises StorageError when the store cannot be written, UnfitError when this machine cannot execute the run, and
    KeyboardInterrupt when `stop` returned True.
    """
    with RunExecution(task, lease, settings, epoch, stop, log) as execution:
        try:
            return job(task, settings, execution.hooks)
        except (Exception, KeyboardInterrupt) as error:
            return execution.handle_error(error)


class RunExecution:
    """Context of a run in progress: its heartbeat, its hooks, and the handling of its errors."""

    def __init__(
        self,
        task: Task,
        lease: Lease,
        settings: ExecutionSettings,
        on_epoch: "Callable[[EpochMetrics], None]",
        stop_requested: Callable[[], bool],
        on_log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.task, self.lease, self.settings = task, lease, settings
        self.on_epoch, self.stop_requested, self.on_log = on_epoch, stop_requested, on_log
        self.heartbeat = lease.heartbeat(settings.heartbeat_interval, settings.hang_timeout)
        self.hooks = RunHooks(self.epoch, self.stop, lease.held, self.stop, self.log)
        self.progress = ProgressRecorder(lease, task.config.epochs, settings.heartbeat_interval)

    def __enter__(self) -> "RunExecution":
        self.heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.heartbeat.__exit__(*error)

    def stop(self) -> bool:
        """Record progress and return whether the run has to end."""
        self.heartbeat.record_progress()
        return self.stop_requested() or self.heartbeat.lost

    def epoch(self, metrics: "EpochMetrics") -> None:
        """Report an epoch to the caller and, at intervals, in the lease file."""
        self.heartbeat.record_progress()
        self.progress.epoch(metrics.epoch)
        with storage_errors("cannot write the output"):  # not an error of the run
            self.on_epoch(metrics)

    def log(self, line: str) -> None:
        """Pass a message for the user to the caller."""
        with storage_errors("cannot write the output"):
            self.on_log(line)

    def handle_error(self, error: BaseException) -> TransientFailure | str | None:
        """Return the outcome of a run that raised `error`, and write a failure to the store.

        Raises the error again when it affects every run on this machine or asks to stop.
        """
        if isinstance(error, StorageError | UnfitError | TakenOverError | KeyboardInterrupt):
            if isinstance(error, TakenOverError) or self.heartbeat.lost:
                return None
            raise error
        if not self.lease.held():
            return None
        task, store = self.task, Store(self.settings.runs)
        line = str(error).strip().partition("\n")[0]
        reason = line if isinstance(error, VitabError) else f"{type(error).__name__}: {line}".rstrip(": ")
        details = "".join(traceback.format_exception(error))
        if not is_permanent(error):
            return TransientFailure(reason, details)
        store.fail(task.key, task.config, reason, details, self.lease.number)
        store.snapshot(task.key).unlink(missing_ok=True)  # resuming would fail again
        return reason


class ProgressRecorder:
    """Writer of a run's progress to its lease file, at most once per `interval` seconds."""

    def __init__(self, lease: Lease, epochs: int, interval: float, **facts: str) -> None:
        self.lease, self.epochs, self.interval, self.facts = lease, epochs, interval, facts
        self.start_time = self.last_written = time.monotonic()
        self.epochs_before: int | None = None  # trained before this execution

    def epoch(self, epoch: int) -> None:
        """Record the end of an epoch, counted from 1."""
        if self.epochs_before is None:
            self.epochs_before = epoch - 1
        now = time.monotonic()
        if now - self.last_written >= self.interval:
            left = (now - self.start_time) * (self.epochs - epoch) / (epoch - self.epochs_before)
            self.lease.update(epoch=epoch, epochs=self.epochs, seconds_left=round(left), **self.facts)
            self.last_written = now


def is_permanent(error: BaseException) -> bool:
    """Return whether the run would fail with this error again: False for errors of memory, a disk or a GPU."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    of_gpu = modules & {"cupy", "cupy_backends", "cuda"} or type(error).__name__ == "CublasError"
    return not (of_gpu or isinstance(error, MemoryError | OSError))
