"""Training of one run or a stack: from a RunConfig to a RunRecord, with the test set used once, at the end.

Trials of a tuning end before it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ablations.config import RunConfig
from ablations.data import Dataset
from ablations.storage import EpochMetrics, RunRecord, TrainingRecord, TrialRecord
from ablations.training.checkpoint import Checkpointer
from ablations.training.stack import Stack, StackedRun

__all__ = ["EpochMetrics", "RunRecord", "TrialRecord", "make_stack", "train", "train_together", "train_trial"]


def train(
    config: RunConfig,
    dataset: Dataset,
    *,
    backend: str = "numpy",
    threads: int | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    checkpointer: Checkpointer | None = None,
) -> RunRecord:
    """Train one run from its seed, or from its checkpoint if `checkpointer` has one.

    The same config and data give bitwise identical results for any number of threads and interruptions.
    A run whose loss is not finite ends at once; its record says that it `diverged`. Raises KeyboardInterrupt when
    `checkpointer` is asked to stop.
    """
    record = _train_alone(StackedRun(config, dataset, checkpointer, on_epoch), dataset, backend, threads)
    assert isinstance(record, RunRecord)
    return record


def train_trial(
    config: RunConfig,
    dataset: Dataset,
    thresholds: Sequence[float],
    *,
    backend: str = "numpy",
    threads: int | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    checkpointer: Checkpointer | None = None,
) -> TrialRecord:
    """Train one run of a trial, as `train`, without the test.

    It ends after the first epoch at which its best validation accuracy so far is below the threshold of that epoch; no
    thresholds mean that it is trained to the last epoch.
    """
    record = _train_alone(StackedRun(config, dataset, checkpointer, on_epoch, thresholds), dataset, backend, threads)
    assert isinstance(record, TrialRecord)
    return record


def _train_alone(member: StackedRun, dataset: Dataset, backend: str, threads: int | None) -> TrainingRecord:
    outcomes: list[TrainingRecord | BaseException] = []
    train_together([member], dataset, lambda _, outcome: outcomes.append(outcome), backend=backend, threads=threads)
    (outcome,) = outcomes
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def train_together(
    members: Sequence[StackedRun],
    dataset: Dataset,
    on_end: Callable[[StackedRun, TrainingRecord | BaseException], None],
    *,
    backend: str = "numpy",
    threads: int | None = None,
) -> None:
    """Train runs of one shape as one model, each to the record that it would have alone.

    `on_end` is called when a run ends, with its record, its error, or KeyboardInterrupt if its checkpointer was asked
    to stop; the others continue. Runs whose checkpoints are at different steps are trained one group after another.
    Runs that do not fit into memory together resume from their checkpoints in two halves.
    """
    paces: dict[tuple[int, ...], list[StackedRun]] = {}
    for member in members:
        paces.setdefault(member.resume_point, []).append(member)
    for i, group in enumerate(paces.values()):
        for member in group if i else ():
            if member.checkpointer.stop():
                member.over = True
                on_end(member, KeyboardInterrupt())
        going = [member for member in group if not member.over]
        left = _train_stack(going, dataset, on_end, backend, threads) if going else []
        for half in (left[::2], left[1::2]) if left else ():
            for member in half:
                member.rewind()
            train_together(half, dataset, on_end, backend=backend, threads=threads)


def make_stack(
    members: Sequence[StackedRun],
    dataset: Dataset,
    backend: str,
    threads: int | None,
    on_end: Callable[[StackedRun, TrainingRecord | BaseException], None] = lambda member, outcome: None,
) -> Stack:
    """Return the stack of these runs on a backend."""
    if backend == "cupy":
        from ablations.training.gpu_stack import DeviceStack

        return DeviceStack(members, dataset, backend, threads, on_end)
    return Stack(members, dataset, backend, threads, on_end)


def _train_stack(
    members: Sequence[StackedRun],
    dataset: Dataset,
    on_end: Callable[[StackedRun, TrainingRecord | BaseException], None],
    backend: str,
    threads: int | None,
) -> list[StackedRun]:
    """Train runs of one resume_point; return those that are left if there was too little memory for all of them."""
    stack = None
    try:
        stack = make_stack(members, dataset, backend, threads, on_end)
        while stack.live and (done := len(stack.live[0][1].metrics)) < stack.config.epochs:
            stack.epoch(done + 1)
        stack.keep_before_test()
        probabilities = stack.test_probabilities() if stack.live else np.empty(0)
        for r, member in stack.live:
            with stack.isolated(member):
                record = stack.record(r, probabilities[r])
            if not member.over:
                member.over = True
                on_end(member, record)
    except MemoryError:
        if len(members) == 1:
            raise
    finally:
        if stack is not None:
            stack.close()
    return [member for member in members if not member.over]
