"""Execution of a plan: in this process, in a worker pool, or on a Dask cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ablations.execution.inline import run_inline
from ablations.execution.pool import run_in_pool
from ablations.execution.tasks import ExecutionSettings, Finished, Job, Listener, Task
from ablations.execution.worker import train_and_store
from ablations.storage import Store, StudyPlan, TrialStore

if TYPE_CHECKING:
    from ablations.execution.dask.client import Cluster
    from ablations.training.trainer import EpochMetrics


@dataclass
class StudyOutcome:
    """Keys of the runs of a study by how they ended."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    finished_elsewhere: list[str] = field(default_factory=list)  # by another process, during this execution
    failed: dict[str, str] = field(default_factory=dict)  # reasons by label
    diverged: list[str] = field(default_factory=list)  # labels of those of the finished runs that diverged


def execute_plan(
    plan: StudyPlan,
    store: Store,
    tasks: Sequence[Task],
    *,
    settings: ExecutionSettings,
    workers: int,
    listener: Listener,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
    cluster: "Cluster | None" = None,
) -> StudyOutcome:
    """Write the plan and execute its tasks, here or on a cluster. A run that fails stops no other.

    They are runs of its trials while it is `searching`.

    Raises KeyboardInterrupt, after the checkpoints are saved, when `stop` returns True.
    """
    store.write_study(plan)
    if plan.searching:
        settings = replace(settings, runs=TrialStore.beside(store).root)
    outcome = execute_tasks(
        tasks, settings=settings, workers=workers, listener=listener, job=job, stop=stop, cluster=cluster
    )
    to_do = {task.key for task in tasks}
    return replace(outcome, skipped=[key for key in plan.keys if key not in to_do])


def execute_tasks(
    tasks: Sequence[Task],
    *,
    settings: ExecutionSettings,
    workers: int,
    listener: Listener,
    job: Job,
    stop: Callable[[], bool] = lambda: False,
    cluster: "Cluster | None" = None,
) -> StudyOutcome:
    """Execute tasks, here by `job` or on a cluster, and return how they ended."""
    recorder = OutcomeRecorder(listener)
    if cluster is not None:
        from ablations.execution.dask.runs import run_on_cluster

        run_on_cluster(tasks, settings, recorder, cluster, stop)
    elif workers > 1:
        run_in_pool(tasks, settings, recorder, workers=workers, job=job, stop=stop)
    else:
        run_inline(tasks, settings, recorder, job=job, stop=stop)
    return recorder.outcome


class OutcomeRecorder:
    """Listener that records the outcome and forwards every event to another listener."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.outcome = StudyOutcome()
        self.started = listener.started
        self.retrying, self.waiting, self.note = listener.retrying, listener.waiting, listener.note
        self.epoch: Callable[[Task, EpochMetrics], None] = listener.epoch

    def finished(self, task: Task, result: Finished) -> None:
        self.outcome.finished.append(task.key)
        self._note_divergence(task, result)
        self.listener.finished(task, result)

    def failed(self, task: Task, reason: str) -> None:
        self.outcome.failed[task.label] = reason
        self.listener.failed(task, reason)

    def finished_elsewhere(self, task: Task, result: Finished) -> None:
        self.outcome.finished_elsewhere.append(task.key)
        self._note_divergence(task, result)
        self.listener.finished_elsewhere(task, result)

    def _note_divergence(self, task: Task, result: Finished) -> None:
        if result.diverged:
            self.outcome.diverged.append(task.label)
