"""Which runs can be trained as one model, and stacks of them carried out."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ablations.config import FIELDS, RunConfig
from ablations.errors import StorageError, UnfitError
from ablations.files import or_say
from ablations.scheduling.attempts import Attempt
from ablations.scheduling.workers import (
    Carried,
    Finished,
    Job,
    Outcome,
    Setting,
    Task,
    Watch,
    carry_out,
    dataset_for,
    keeper_of,
    write,
)
from ablations.store import Store

if TYPE_CHECKING:
    from ablations.stack import Member
    from ablations.trainer import RunRecord

OWN = ("seed", "learning_rate", "weight_decay", "warmup_epochs", "label_smoothing")
"""Fields in which runs of a stack may differ: they change neither a shape nor which operations a step is made of."""

shape: Callable[[RunConfig], tuple[Any, ...]] = attrgetter(*(name for name in FIELDS if name not in OWN))
"""What runs must have in common to be trained as one model."""

but_seed: Callable[[RunConfig], tuple[Any, ...]] = attrgetter(*(name for name in FIELDS if name != "seed"))
"""What runs of one arm have in common."""

Held = Sequence[tuple[Task, Attempt]]
"""Runs that this process holds."""


def carry_out_together(
    held: Held,
    setting: Setting,
    job: Job,
    *,
    epoch: "Callable[[Task, Any], None]",
    end: Callable[[Task, Outcome], None],
    stop: Callable[[], bool],
    say: Callable[[Task, str], None] = lambda task, line: None,
) -> None:
    """Carry out runs of one shape as one model, or a single one by `job`.

    `end` is told of each when it is over, and how. Raises as `carry_out` does; runs that were not told of are not over.
    """
    if len(held) == 1:
        ((task, attempt),) = held
        outcome = carry_out(task, attempt, setting, job, epoch=partial(epoch, task), stop=stop, say=partial(say, task))
        end(task, outcome)
        return
    stopped: list[KeyboardInterrupt] = []
    with ExitStack() as contexts:
        left: dict[Task, tuple[Carried, ExitStack]] = {}
        for task, attempt in held:
            context = contexts.enter_context(ExitStack())
            carried = Carried(task, attempt, setting, partial(epoch, task), stop, partial(say, task))
            left[task] = context.enter_context(carried), context

        def on_end(task: Task, result: Finished | BaseException) -> None:
            carried, context = left.pop(task)
            outcome: Outcome
            try:
                outcome = carried.explain(result) if isinstance(result, BaseException) else result
            except KeyboardInterrupt as asked:
                stopped.append(asked)
                return
            context.close()
            with or_say("the output could not be written"):  # which is no other run's error
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
    watches: dict[Task, Watch], setting: Setting, on_end: Callable[[Task, Finished | BaseException], None]
) -> None:
    """`workers.train_and_store` for runs of one shape, as one model."""
    from ablations.stack import Member
    from ablations.trainer import train_together

    together = Watch(lambda metrics: None, alive=lambda: [watch.alive() for watch in watches.values()])
    store, dataset = Store(setting.runs), dataset_for(next(iter(watches)).config, setting.data_dir, together)
    tasks: dict[Member, Task] = {}
    for task, watch in watches.items():
        try:
            tasks[Member(task.config, dataset, keeper_of(task, setting, watch), watch.epoch)] = task
        except Exception as error:
            on_end(task, error)

    def told(member: "Member", outcome: "RunRecord | BaseException") -> None:
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
