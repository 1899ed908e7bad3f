"""One run carried out, as an attempt that this process holds."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.config import vit_config
from ablations.data.loading import dataset_for
from ablations.errors import StorageError, TakenOverError, UnfitError, VitabError
from ablations.execution.lease import Lease
from ablations.execution.tasks import ExecutionSettings, Finished, Job, RunHooks, RunOutcome, Task, TransientFailure
from ablations.storage import Store, storage_errors
from ablations.training.checkpoint import Checkpointer

if TYPE_CHECKING:
    from ablations.data import Dataset
    from ablations.storage import RunRecord
    from ablations.training.trainer import EpochMetrics


def train_and_store(task: Task, setting: ExecutionSettings, watch: RunHooks) -> Finished:
    """Train one run, from its snapshot if it has one, and write it to the store."""
    from ablations.training.trainer import train

    dataset, keeper = dataset_for(task.config, setting.data_dir, watch.alive), checkpointer_for(task, setting, watch)
    record = train(
        task.config, dataset, backend=setting.backend, threads=setting.threads, on_epoch=watch.epoch, keeper=keeper
    )
    return write(Store(setting.runs), task, record, dataset, setting, watch)


def checkpointer_for(task: Task, setting: ExecutionSettings, watch: RunHooks) -> Checkpointer:
    """Keeps the snapshots of a run in the store."""
    from ablations.storage.provenance import code_digest, place

    identity = {"key": task.key, "code": code_digest(), "backend": setting.backend}
    return Checkpointer(
        Store(setting.runs).snapshot(task.key),
        identity,
        interval=setting.checkpoint_every,
        stop=watch.stop,
        alive=watch.alive,
        held=watch.held,
        say=watch.say,
        place=place(setting.backend),
    )


def write(
    store: Store, task: Task, record: "RunRecord", dataset: "Dataset", setting: ExecutionSettings, watch: RunHooks
) -> Finished:
    """Write a trained run to the store. Raises TakenOverError when it is no longer this process's to write."""
    from ablations.storage.provenance import describe

    environment = describe(backend=setting.backend, threads=setting.threads)
    environment |= {"stack": record.stack, "data_sha256": dataset.fingerprint}
    environment["dataset"] = describe_dataset(dataset, setting.data_dir)
    if len(record.places) > 1:
        environment["places"] = list(record.places)
    model = vit_config(task.config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    store.write(task.key, record, environment, model, watch.held)
    return Finished(float(record.test_accuracy), float(record.validation_accuracy), float(record.seconds))


def describe_dataset(dataset: "Dataset", data_dir: Path | None) -> dict[str, str | int]:
    """Return the name and size of the dataset, as loaded for a run; images of a folder are named after the folder."""
    name = data_dir.expanduser().resolve().name if dataset.name == "folder" and data_dir else ""
    return {
        "name": name or dataset.name,
        "train_images": len(dataset.train_labels),
        "test_images": len(dataset.test_labels),
        "classes": dataset.classes,
        "image_size": dataset.image_size,
    }


def execute_run(
    task: Task,
    attempt: Lease,
    setting: ExecutionSettings,
    job: Job,
    *,
    epoch: "Callable[[EpochMetrics], None]",
    stop: Callable[[], bool],
    say: Callable[[str], None] = lambda line: None,
) -> RunOutcome:
    """Carry out a run that this process holds.

    Raises StorageError when the store cannot be written, for then no other run can be either, UnfitError when this
    machine cannot do it, and KeyboardInterrupt when asked to stop.
    """
    with RunExecution(task, attempt, setting, epoch, stop, say) as carried:
        try:
            return job(task, setting, carried.watch)
        except (Exception, KeyboardInterrupt) as error:
            return carried.explain(error)


class RunExecution:
    """A run that this process is at, within the context: signs of life, and what becomes of an error."""

    def __init__(
        self,
        task: Task,
        attempt: Lease,
        setting: ExecutionSettings,
        epoch: "Callable[[EpochMetrics], None]",
        stop: Callable[[], bool],
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.task, self.attempt, self.setting = task, attempt, setting
        self.tell, self.asked, self.note = epoch, stop, say
        self.beat = attempt.heartbeat(setting.beat, setting.patience)
        self.watch = RunHooks(self.epoch, self.stop, attempt.held, self.stop, self.say)
        self.news = ProgressNotes(attempt, task.config.epochs, setting.beat)

    def __enter__(self) -> "RunExecution":
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
        with storage_errors("the output could not be written"):  # which is not the run's own error
            self.tell(metrics)

    def say(self, line: str) -> None:
        """Tell of something else."""
        with storage_errors("the output could not be written"):
            self.note(line)

    def explain(self, error: BaseException) -> TransientFailure | str | None:
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
        if not fails_again(error):
            return TransientFailure(reason, details)
        store.fail(task.key, task.config, reason, details, self.attempt.number)
        store.snapshot(task.key).unlink(missing_ok=True)  # it leads to the same failure
        return reason


class ProgressNotes:
    """Writes down in an attempt's file, now and then, how far its run is."""

    def __init__(self, attempt: Lease, epochs: int, every: float, **facts: str) -> None:
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


def fails_again(error: BaseException) -> bool:
    """Whether a run that ends with this error would do so again: not if memory, a disk or a GPU has failed it."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    of_gpu = modules & {"cupy", "cupy_backends", "cuda"} or type(error).__name__ == "CublasError"
    return not (of_gpu or isinstance(error, MemoryError | OSError))
