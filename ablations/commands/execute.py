"""Execute runs or evaluations with progress; shared by `vitab run`, `retry` and `evaluate`, and `ablations.run`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ablations.commands import display
from ablations.commands.base import FAILED, INTERRUPTED, echo, runs_option, stop
from ablations.commands.progress import LiveProgress, Progress
from ablations.config import count
from ablations.execution.interrupt import Interrupt

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.execution.dask.client import Cluster
    from ablations.execution.execute import StudyOutcome
    from ablations.execution.resources import ResourcePlan
    from ablations.execution.tasks import ExecutionSettings, Task
    from ablations.storage import Store, StudyPlan
    from ablations.tracking.live import LiveTracking


def allocate(
    console: "Console", tasks: "Sequence[Task]", *, workers: str, stack: str, backend: str, data_dir: Path | None
) -> "ResourcePlan":
    """Return the resources for runs. Prints limits set by memory, and compiles the CPU kernels if they are needed."""
    from ablations.execution.resources import plan_resources

    resources = plan_resources(tasks, workers=workers, stack=stack, backend=backend, data_dir=data_dir)
    for line in resources.lines:
        display.say(console, line)
    if tasks and backend == "numpy":
        from ablations.machine.compilation import compile_kernels

        compile_kernels(lambda: display.say(console, "compiling the CPU kernels, once on this machine"))
    return resources


def train(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    resources: "ResourcePlan",
    settings: "ExecutionSettings",
    *,
    quiet: bool,
    last: bool = True,
    tracking: "LiveTracking | None" = None,
) -> None:
    """Train tasks of a plan on this machine; of its trials while it is `searching`.

    Ends the program with exit code 1 if a run failed, or 130 if interrupted. Prints the next step if these were the
    `last` tasks of the plan. `tracking` copies the runs to a tracker.
    """
    store.check_writable()
    settings = replace(settings, threads=resources.threads, devices=resources.devices)
    _train(
        console,
        store,
        plan,
        resources.tasks,
        settings,
        workers=resources.workers,
        quiet=quiet,
        last=last,
        tracking=tracking,
    )


def train_on_cluster(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    tasks: "Sequence[Task]",
    settings: "ExecutionSettings",
    *,
    address: str,
    insecure: bool,
    quiet: bool,
    last: bool = True,
    tracking: "LiveTracking | None" = None,
) -> None:
    """Train tasks of a plan on the Dask cluster whose scheduler has this address; otherwise as `train`."""
    with on_cluster(console, store, settings, address, insecure=insecure) as (cluster, settings):
        _train(console, store, plan, tasks, settings, quiet=quiet, last=last, cluster=cluster, tracking=tracking)


def _train(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    tasks: "Sequence[Task]",
    settings: "ExecutionSettings",
    *,
    workers: int = 1,
    quiet: bool,
    last: bool,
    cluster: "Cluster | None" = None,
    tracking: "LiveTracking | None" = None,
) -> None:
    from ablations.execution.execute import execute_plan

    done = begin(console, store, plan, tasks, warn, settings.data_dir)
    execute(
        console,
        store,
        plan,
        tasks,
        partial(execute_plan, plan, store, tasks, settings=settings, workers=workers),
        noun=noun_of(plan),
        total=done + len(tasks) if plan.searching else len(plan.keys),
        done=done,
        interrupt=Interrupt(),
        quiet=quiet,
        last=last and not plan.searching,
        cluster=cluster,
        tracking=None if plan.searching else tracking,
    )


def noun_of(plan: "StudyPlan") -> str:
    """Return what messages call a task of a plan."""
    return "trial run" if plan.searching else "run"


def begin(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    tasks: "Sequence[Task]",
    warn: Callable[[str], None],
    data_dir: Path | None,
) -> int:
    """Print what a study has to do, warn of runs trained with other code, and return the number of finished runs."""
    from ablations.execution.plan import changed_data
    from ablations.storage import TrialStore, stale_runs, stale_runs_warning, stale_trials

    to_do = {task.key for task in tasks}
    keys: Sequence[str] = plan.keys
    place = store
    if plan.searching:
        keys, place = list(dict.fromkeys(run.key for run in plan.trials)), TrialStore.beside(store)
        place.check_writable()
    finished = [key for key in keys if key not in to_do and place.done(key)]
    place.tidy(finished)
    announce(console, plan, noun_of(plan), total=len(keys), to_do=len(tasks), done=len(finished))
    if store.plan_differs(plan):
        changed = changed_data(plan, store, data_dir)
        why = f": the data have changed{changed}" if changed is not None else ""
        display.say(
            console,
            f"study {plan.study} already exists with a different plan{why}; replacing it (finished runs are kept)",
        )
    if tasks and (warning := stale_runs_warning(plan, stale_runs(store, plan))):
        warn(warning)
    if tasks and (warning := stale_runs_warning(plan, stale_trials(store, plan), "trial run")):
        warn(warning)
    return len(finished)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    echo(f"warning: {text}", err=True)


@contextmanager
def on_cluster(
    console: "Console", store: "Store", settings: "ExecutionSettings", address: str, *, insecure: bool
) -> "Iterator[tuple[Cluster, ExecutionSettings]]":
    """Return a context with the Dask cluster whose scheduler has this address, and with settings for its workers.

    Prints the number of workers.
    """
    from ablations.execution.dask.client import Cluster, connect

    with connect(address, insecure=insecure) as client:
        store.check_writable()
        cluster = Cluster(client, store.root, log=lambda line: display.say(console, line), insecure=insecure)
        with cluster.folder_probe():
            settings = replace(settings, backend=cluster.choose_backend(settings.backend))
            display.say(console, cluster.describe())
            yield cluster, settings


def announce(console: "Console", plan: "StudyPlan", noun: str, *, total: int, to_do: int, done: int) -> None:
    """Print how many runs or evaluations, named by `noun`, a study has, and how many of them are to do."""
    kept = f", {done} already finished" if done else ""
    display.say(console, f"study {plan.study}: {round_of(plan)}{count(total, noun)}, {to_do} to do{kept}")


def round_of(plan: "StudyPlan") -> str:
    """Return the round of a search in a phrase before its trial runs; nothing for a plan that is not `searching`."""
    if not plan.searching:
        return ""
    assert plan.tuning is not None
    rounds = len(plan.tuning.rounds)
    return "tuning, " + (f"round {plan.trials[-1].round + 1} of {rounds}, " if rounds > 1 else "")


def execute(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    tasks: "Sequence[Task]",
    start: "Callable[..., StudyOutcome]",
    *,
    noun: str,
    total: int,
    done: int,
    interrupt: Interrupt,
    quiet: bool,
    last: bool = True,
    cluster: "Cluster | None" = None,
    tracking: "LiveTracking | None" = None,
) -> None:
    """Execute tasks of a study by `start` with progress on the terminal, and print how they ended.

    `start` is called with `listener`, `stop` and `cluster`, as in `execute_tasks`. `noun`, run or evaluation, names a
    task in messages; `total` of them belong to the study, of which `done` were finished before. Ends the program with
    exit code 1 if a task failed, or 130 if interrupted. Prints the next step if these were the `last` tasks.
    """
    live = console.is_terminal and not quiet
    listener = (LiveProgress if live else Progress)(console, tasks, skipped=done)
    try:
        with interrupt, listener:
            if cluster is not None:
                cluster.log = listener.line
            watched = listener if tracking is None else tracking.listener(plan, listener)
            outcome = start(listener=watched, stop=interrupt, cluster=cluster)
    except KeyboardInterrupt:
        stop(
            f"interrupted after {listener.count} of {total} {noun}s; run the same command again to resume", INTERRUPTED
        )
    if outcome.diverged and plan.searching:
        display.say(console, f"{len(outcome.diverged)} of {count(len(tasks), noun)} diverged, which score chance")
    elif outcome.diverged:
        warn(diverged_warning(outcome, len(tasks)))
    if outcome.failed:
        for label, reason in outcome.failed.items():
            echo(f"failed: {label}: {reason}", err=True)
        echo(f"{len(outcome.failed)} of {total} {noun}s failed; run the same command again to retry them", err=True)
        raise typer.Exit(FAILED)
    if last and done + len(tasks) < total:
        display.say(console, f"{count(len(tasks), noun)} finished; vitab status shows the remaining {noun}s")
    elif last and total:
        display.say(
            console, f"all {total} {noun}s are finished; next: vitab report {plan.study}{runs_option(store.root)}"
        )


def diverged_warning(outcome: "StudyOutcome", runs: int) -> str:
    """Return a warning about those of the runs that diverged."""
    return (
        f"{len(outcome.diverged)} of {count(runs, 'run')} diverged; the report counts a diverged run as finished, with "
        f"chance accuracy: {'; '.join(outcome.diverged)}"
    )
