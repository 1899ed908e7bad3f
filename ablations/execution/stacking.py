"""Which runs can be trained as one model, and stacks of them carried out."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ablations.config import FIELDS, RunConfig
from ablations.data.loading import dataset_for
from ablations.errors import StorageError, UnfitError
from ablations.execution.lease import Lease
from ablations.execution.tasks import ExecutionSettings, Finished, Job, RunHooks, RunOutcome, Task
from ablations.execution.worker import RunExecution, checkpointer_for, execute_run, write
from ablations.storage import Store, storage_errors

if TYPE_CHECKING:
    from ablations.storage import RunRecord
    from ablations.training.stack import StackedRun

OWN = ("seed", "learning_rate", "weight_decay", "warmup_epochs", "label_smoothing")
"""Fields in which runs of a stack may differ: they change neither a shape nor which operations a step is made of."""

shape: Callable[[RunConfig], tuple[Any, ...]] = attrgetter(*(name for name in FIELDS if name not in OWN))
"""What runs must have in common to be trained as one model."""

without_seed: Callable[[RunConfig], tuple[Any, ...]] = attrgetter(*(name for name in FIELDS if name != "seed"))
"""What runs of one arm have in common."""

Held = Sequence[tuple[Task, Lease]]
"""Runs that this process holds."""


def execute_stack(
    held: Held,
    setting: ExecutionSettings,
    job: Job,
    *,
    epoch: "Callable[[Task, Any], None]",
    end: Callable[[Task, RunOutcome], None],
    stop: Callable[[], bool],
    say: Callable[[Task, str], None] = lambda task, line: None,
) -> None:
    """Carry out runs of one shape as one model, or a single one by `job`.

    `end` is told of each when it is over, and how. Raises as `execute_run` does; runs that were not told of are not over.
    """
    if len(held) == 1:
        ((task, attempt),) = held
        outcome = execute_run(
            task, attempt, setting, job, epoch=partial(epoch, task), stop=stop, say=partial(say, task)
        )
        end(task, outcome)
        return
    stopped: list[KeyboardInterrupt] = []
    with ExitStack() as contexts:
        left: dict[Task, tuple[RunExecution, ExitStack]] = {}
        for task, attempt in held:
            context = contexts.enter_context(ExitStack())
            carried = RunExecution(task, attempt, setting, partial(epoch, task), stop, partial(say, task))
            left[task] = context.enter_context(carried), context

        def on_end(task: Task, result: Finished | BaseException) -> None:
            carried, context = left.pop(task)
            outcome: RunOutcome
            try:
                outcome = carried.explain(result) if isinstance(result, BaseException) else result
            except KeyboardInterrupt as asked:
                stopped.append(asked)
                return
            context.close()
            with storage_errors("the output could not be written"):  # which is no other run's error
                end(task, outcome)

        try:
            train_and_store_together({task: carried.watch for task, (carried, _) in left.items()}, setting, on_end)
        except (StorageError, UnfitError, KeyboardInterrupt):
            raise
        except Exception as error:  # of what they share
            for task in list(left):
                on_end(task, error)
    if stopped:
        raise stopped[0]


def train_and_store_together(
    watches: dict[Task, RunHooks], setting: ExecutionSettings, on_end: Callable[[Task, Finished | BaseException], None]
) -> None:
    """`workers.train_and_store` for runs of one shape, as one model."""
    from ablations.training.stack import StackedRun
    from ablations.training.trainer import train_together

    def heartbeat() -> None:
        for watch in watches.values():
            watch.alive()

    store, dataset = Store(setting.runs), dataset_for(next(iter(watches)).config, setting.data_dir, heartbeat)
    tasks: dict[StackedRun, Task] = {}
    for task, watch in watches.items():
        try:
            tasks[StackedRun(task.config, dataset, checkpointer_for(task, setting, watch), watch.epoch)] = task
        except Exception as error:
            on_end(task, error)

    def told(member: "StackedRun", outcome: "RunRecord | BaseException") -> None:
        task = tasks[member]
        result: Finished | BaseException
        try:
            result = (
                outcome
                if isinstance(outcome, BaseException)
                else write(store, task, outcome, dataset, setting, watches[task])
            )
        except StorageError:
            raise
        except Exception as error:
            result = error
        on_end(task, result)

    if tasks:
        train_together(list(tasks), dataset, told, backend=setting.backend, threads=setting.threads)
