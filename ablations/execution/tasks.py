"""Types shared by the modules of this room: tasks, settings, outcomes, listeners."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ablations.config import RunConfig
from ablations.execution.lease import HANG_TIMEOUT, HEARTBEAT_INTERVAL, LEASE_TIMEOUT
from ablations.training.checkpoint import INTERVAL

if TYPE_CHECKING:
    from ablations.training.trainer import EpochMetrics


@dataclass(frozen=True)
class Evaluation:
    """A protocol to apply to a finished run."""

    run: str
    """Key of the run."""
    protocol: str
    """In its standard spelling."""


@dataclass(frozen=True)
class Task:
    """A run to train, or to evaluate."""

    key: str
    config: RunConfig
    label: str
    """Name of the run in messages."""
    weight: float = 1.0
    """Expected share of the work."""
    failed_before: int = 0
    """Number of the last failed attempt when the study was started. A run that fails after it is not repeated."""
    stack: int = 1
    """Maximum number of runs of this shape, itself included, that may be trained as one model."""
    sources: tuple[str, ...] = ()
    """Sources of its encodings in files, which the process that trains it uses instead of the files."""
    evaluation: "Evaluation | None" = None
    """What to measure of a finished run; None to train it."""
    thresholds: tuple[float, ...] | None = None
    """Of a run of a trial, by which it may be pruned; it ends without the test. None for any other run."""
    replaces: str | None = None
    """Digest of the stale result that this run replaces, by `Store.result_digest`; None if it is not finished."""


@dataclass(frozen=True)
class ExecutionSettings:
    """How and where runs are executed. Nothing here changes their results."""

    runs: Path
    data_dir: Path | None = None
    backend: str = "numpy"
    threads: int = 1
    checkpoint_every: float = INTERVAL
    heartbeat_interval: float = HEARTBEAT_INTERVAL
    lease_timeout: float = LEASE_TIMEOUT
    hang_timeout: float = HANG_TIMEOUT
    devices: tuple[str, ...] = ()
    """GPUs shared by the worker processes, as values of CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True)
class Finished:
    """Summary of a finished task. The store has the rest."""

    summary: str
    """Result in a phrase, such as "test 93.1%, validation 92.0%"."""
    seconds: float
    diverged: int | None = None
    """Epoch, counted from 1, in which the loss was not finite; None for a run that was trained to the end."""


@dataclass(frozen=True)
class TransientFailure:
    """A run ended by memory, a device or a disk, not by its own error. Its checkpoint is kept."""

    reason: str
    details: str


def finished_from(result: Mapping[str, Any]) -> Finished:
    """Return the summary of a result.json: of a run, of a run of a trial, or of an evaluation, which has it."""
    if "summary" in result:
        return Finished(str(result["summary"]), float(result["seconds"]))
    accuracy = float(result["validation_accuracy"])
    if "test_accuracy" in result:
        summary = training_summary(float(result["test_accuracy"]), accuracy)
    else:
        summary = trial_summary(accuracy, result.get("pruned"))
    return Finished(summary, float(result["seconds"]), result.get("diverged"))


def training_summary(test_accuracy: float, validation_accuracy: float) -> str:
    """Return the result of a training in a phrase."""
    return f"test {test_accuracy:.1%}, validation {validation_accuracy:.1%}"


def trial_summary(validation_accuracy: float, pruned: int | None) -> str:
    """Return the result of a run of a trial in a phrase."""
    return f"validation {validation_accuracy:.1%}" + (f", pruned after epoch {pruned}" if pruned else "")


RunOutcome = Finished | TransientFailure | str | None
"""How a run ended: its result, a transient failure, the reason of a failure that is in the store, or None when another
process took the run over."""


class Listener(Protocol):
    """Receiver of progress events, called in the process and thread that execute the plan."""

    def started(self, task: Task) -> None: ...

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None: ...

    def finished(self, task: Task, result: Finished) -> None: ...

    def failed(self, task: Task, reason: str) -> None: ...

    def retrying(self, task: Task, reason: str) -> None: ...

    def finished_elsewhere(self, task: Task, result: Finished) -> None: ...

    def waiting(self, runs: int) -> None: ...

    def note(self, task: Task, line: str) -> None: ...


@dataclass(frozen=True)
class RunHooks:
    """Callbacks of a run in progress."""

    epoch: "Callable[[EpochMetrics], None]"
    """Called after every epoch."""
    stop: Callable[[], bool] = lambda: False
    """Called after every step. When it returns True, the run saves a checkpoint and ends."""
    holds_lease: Callable[[], bool] = lambda: True
    """Called before every write. Returns False when another process has taken the run over."""
    heartbeat: Callable[[], object] = lambda: None
    """Called to report progress where the run cannot stop."""
    log: Callable[[str], None] = lambda line: None
    """Called with a message for the user."""


Job = Callable[[Task, ExecutionSettings, RunHooks], Finished]
"""Function that executes one run whose lease this process holds."""
