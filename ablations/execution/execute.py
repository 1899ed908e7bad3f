"""Execute the runs of a plan: in this process, in a worker pool, or on a Dask cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ablations.execution.inline import run_inline
from ablations.execution.pool import run_in_pool
from ablations.execution.tasks import ExecutionSettings, Finished, Job, Listener, Task
from ablations.execution.worker import train_and_store
from ablations.storage import Store, StudyPlan

if TYPE_CHECKING:
    from ablations.execution.dask.client import Cluster
    from ablations.training.trainer import EpochMetrics


@dataclass
class StudyOutcome:
    """How a study ended."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)  # finished by another process meanwhile
    failed: dict[str, str] = field(default_factory=dict)  # reasons by label


def run(
    plan: StudyPlan,
    store: Store,
    tasks: Sequence[Task],
    *,
    setting: ExecutionSettings,
    workers: int,
    listener: Listener,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
    cluster: "Cluster | None" = None,
) -> StudyOutcome:
    """Write the plan and carry out its tasks, here or on a cluster; a run that fails stops no other.

    Raises KeyboardInterrupt after `stop` has said yes, when the runs at work are written down.
    """
    store.write_study(plan)
    to_do = {task.key for task in tasks}
    notes = OutcomeRecorder(listener, StudyOutcome(skipped=[key for key in plan.keys if key not in to_do]))
    if cluster is not None:
        from ablations.execution.dask.runs import run_on_cluster

        run_on_cluster(tasks, setting, notes, cluster, stop)
    elif workers > 1:
        run_in_pool(tasks, setting, notes, workers=workers, job=job, stop=stop)
    else:
        run_inline(tasks, setting, notes, job=job, stop=stop)
    return notes.outcome


class OutcomeRecorder:
    """Passes on what happens, and keeps the outcome."""

    def __init__(self, listener: Listener, outcome: StudyOutcome) -> None:
        self.listener = listener
        self.outcome = outcome
        self.started = listener.started
        self.again, self.waiting, self.note = listener.again, listener.waiting, listener.note
        self.epoch: Callable[[Task, EpochMetrics], None] = listener.epoch

    def finished(self, task: Task, result: Finished) -> None:
        self.outcome.finished.append(task.key)
        self.listener.finished(task, result)

    def failed(self, task: Task, reason: str) -> None:
        self.outcome.failed[task.label] = reason
        self.listener.failed(task, reason)

    def elsewhere(self, task: Task, result: Finished) -> None:
        self.outcome.elsewhere.append(task.key)
        self.listener.elsewhere(task, result)
