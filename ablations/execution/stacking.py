"""Stacks: runs that can be trained as one model, and their execution."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ablations.config import FIELDS, RunConfig, remember_sources
from ablations.data.loading import dataset_for
from ablations.errors import StorageError, UnfitError
from ablations.execution.lease import Lease
from ablations.execution.tasks import ExecutionSettings, Finished, Job, RunHooks, RunOutcome, Task
from ablations.execution.worker import RunExecution, checkpointer_for, execute_run, write_run
from ablations.storage import Store, storage_errors

if TYPE_CHECKING:
    from ablations.storage import TrainingRecord
    from ablations.training.stack import StackedRun

VARYING_FIELDS = ("seed", "learning_rate", "weight_decay", "warmup_epochs", "label_smoothing")
"""Fields in which runs of a stack may differ: they change neither an array shape nor the operations of a step."""

shape: Callable[[RunConfig], tuple[Any, ...]] = attrgetter(*(name for name in FIELDS if name not in VARYING_FIELDS))
"""Values that runs must share to be trained as one model."""

without_seed: Callable[[RunConfig], tuple[Any, ...]] = attrgetter(*(name for name in FIELDS if name != "seed"))
"""Values that the runs of one arm share."""

LeasedRuns = Sequence[tuple[Task, Lease]]
"""Runs whose leases this process holds."""


def execute_stack(
    runs: LeasedRuns,
    settings: ExecutionSettings,
    job: Job,
    *,
    epoch: "Callable[[Task, Any], None]",
    on_end: Callable[[Task, RunOutcome], None],
    stop: Callable[[], bool],
    log: Callable[[Task, str], None] = lambda task, line: None,
) -> None:
    """Execute runs of one shape as one model, or a single run by `job`.

    `on_end` is called with the outcome of each run that ended. Raises as `execute_run` does; runs without a call of
    `on_end` are then unfinished.
    """
    for task, _ in runs:
        remember_sources(task.sources)
    if len(runs) == 1:
        ((task, lease),) = runs
        outcome = execute_run(task, lease, settings, job, epoch=partial(epoch, task), stop=stop, log=partial(log, task))
        on_end(task, outcome)
        return
    interrupts: list[KeyboardInterrupt] = []
    with ExitStack() as contexts:
        active: dict[Task, tuple[RunExecution, ExitStack]] = {}
        for task, lease in runs:
            context = contexts.enter_context(ExitStack())
            execution = RunExecution(task, lease, settings, partial(epoch, task), stop, partial(log, task))
            active[task] = context.enter_context(execution), context

        def on_result(task: Task, result: Finished | BaseException) -> None:
            execution, context = active.pop(task)
            outcome: RunOutcome
            try:
                outcome = execution.handle_error(result) if isinstance(result, BaseException) else result
            except KeyboardInterrupt as interrupt:
                interrupts.append(interrupt)
                return
            context.close()
            with storage_errors("cannot write the output"):  # not an error of another run
                on_end(task, outcome)

        try:
            hooks = {task: execution.hooks for task, (execution, _) in active.items()}
            train_and_store_together(hooks, settings, on_result)
        except (StorageError, UnfitError, KeyboardInterrupt):
            raise
        except Exception as error:  # raised by what the runs share
            for task in list(active):
                on_result(task, error)
    if interrupts:
        raise interrupts[0]


def train_and_store_together(
    hooks: dict[Task, RunHooks],
    settings: ExecutionSettings,
    on_result: Callable[[Task, Finished | BaseException], None],
) -> None:
    """Train runs of one shape as one model and write each to the store, as `worker.train_and_store` does for one."""
    from ablations.training.stack import StackedRun
    from ablations.training.trainer import train_together

    def heartbeat() -> None:
        for one in hooks.values():
            one.heartbeat()

    store, dataset = Store(settings.runs), dataset_for(next(iter(hooks)).config, settings.data_dir, heartbeat)
    tasks: dict[StackedRun, Task] = {}
    for task, own in hooks.items():
        try:
            member = StackedRun(task.config, dataset, checkpointer_for(task, settings, own), own.epoch, task.thresholds)
            tasks[member] = task
        except Exception as error:
            on_result(task, error)

    def on_end(member: "StackedRun", outcome: "TrainingRecord | BaseException") -> None:
        task = tasks[member]
        result: Finished | BaseException
        try:
            result = (
                outcome
                if isinstance(outcome, BaseException)
                else write_run(store, task, outcome, dataset, settings, hooks[task])
            )
        except StorageError:
            raise
        except Exception as error:
            result = error
        on_result(task, result)

    if tasks:
        train_together(list(tasks), dataset, on_end, backend=settings.backend, threads=settings.threads)
