"""The types that the modules of this room exchange: tasks, settings, outcomes, listeners."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ablations.config import RunConfig
from ablations.execution.lease import HEARTBEAT_INTERVAL, LEASE_TIMEOUT, PATIENCE
from ablations.training.checkpoint import INTERVAL

if TYPE_CHECKING:
    from ablations.training.trainer import EpochMetrics


@dataclass(frozen=True)
class Task:
    """A run to carry out; `label` is how people are told of it, `weight` its expected share of the work."""

    key: str
    config: RunConfig
    label: str
    weight: float = 1.0
    failed_before: int = 0
    """The last attempt that failed when the study was begun; a later one is not repeated."""
    stack: int = 1
    """Runs of its shape that may be trained as one model, itself included."""


@dataclass(frozen=True)
class ExecutionSettings:
    """How and where runs are carried out; nothing here changes their results."""

    runs: Path
    data_dir: Path | None = None
    backend: str = "numpy"
    threads: int = 1
    checkpoint_every: float = INTERVAL
    beat: float = HEARTBEAT_INTERVAL
    expiry: float = LEASE_TIMEOUT
    patience: float = PATIENCE
    devices: tuple[str, ...] = ()
    """GPUs for children to share, one each while there are enough; each a value of CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True)
class Finished:
    """What is told of a finished run at once; the store has the rest."""

    test_accuracy: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class TransientFailure:
    """A run was ended by no fault of its own: memory, a device or a disk failed it. Its snapshot is kept."""

    reason: str
    details: str


RunOutcome = Finished | TransientFailure | str | None
"""How a run ended: its result; what has cut it short; the reason why it failed, which is in the store; or None when
another process has it."""


class Listener(Protocol):
    """Who is told how runs get on; called in the process and thread that asked for the runs."""

    def started(self, task: Task) -> None: ...

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None: ...

    def finished(self, task: Task, result: Finished) -> None: ...

    def failed(self, task: Task, reason: str) -> None: ...

    def again(self, task: Task, reason: str) -> None: ...

    def elsewhere(self, task: Task, result: Finished) -> None: ...

    def waiting(self, runs: int) -> None: ...

    def note(self, task: Task, line: str) -> None: ...


@dataclass(frozen=True)
class RunHooks:
    """What a run at work tells, and what it asks."""

    epoch: "Callable[[EpochMetrics], None]"
    stop: Callable[[], bool] = lambda: False
    """Asked after every step: whether to keep a snapshot and end."""
    held: Callable[[], bool] = lambda: True
    """Asked before anything is written: whether no other process has taken the run over."""
    alive: Callable[[], object] = lambda: None
    """Called where a run gets on and cannot stop."""
    say: Callable[[str], None] = lambda line: None
    """Takes a line for people."""


Job = Callable[[Task, ExecutionSettings, RunHooks], Finished]
