"""Train the runs of a plan, with progress on the terminal; shared by `vitab run` and `vitab retry`."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ablations.commands import display
from ablations.commands.base import FAILED, INTERRUPTED, echo, stop
from ablations.commands.progress import LiveProgress, Progress
from ablations.config import count

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.execution.dask.client import Cluster
    from ablations.execution.resources import ResourcePlan
    from ablations.execution.tasks import ExecutionSettings, Task
    from ablations.storage import Store, StudyPlan


def train(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    resources: "ResourcePlan",
    settings: "ExecutionSettings",
    *,
    quiet: bool,
    last: bool = True,
) -> None:
    """Train tasks of a plan on this machine.

    Ends the program with exit code 1 if a run failed, or 130 if interrupted. Prints the next step if these were the
    `last` tasks of the plan.
    """
    settings = replace(settings, threads=resources.threads, devices=resources.devices)
    _execute(console, store, plan, resources.tasks, settings, workers=resources.workers, quiet=quiet, last=last)


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
) -> None:
    """Train tasks of a plan on the Dask cluster whose scheduler has this address; otherwise as `train`."""
    from ablations.execution.dask.client import Cluster, connect

    with connect(address, insecure=insecure) as client:
        store.check_writable()
        cluster = Cluster(client, store.root, log=lambda line: display.say(console, line), insecure=insecure)
        with cluster.folder_probe():
            settings = replace(settings, backend=cluster.choose_backend(settings.backend))
            display.say(console, cluster.describe())
            _execute(console, store, plan, tasks, settings, workers=1, quiet=quiet, last=last, cluster=cluster)


def _execute(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    tasks: "Sequence[Task]",
    settings: "ExecutionSettings",
    *,
    workers: int,
    quiet: bool,
    last: bool,
    cluster: "Cluster | None" = None,
) -> None:
    from ablations.execution.execute import execute_plan
    from ablations.execution.interrupt import Interrupt
    from ablations.storage import stale_runs, stale_runs_warning

    store.check_writable()
    total, others = len(plan.keys), len(plan.keys) - len(tasks)
    to_do = {task.key for task in tasks}
    finished = [key for key in plan.keys if key not in to_do and store.done(key)] if others else []
    store.tidy(finished)
    kept = f", {len(finished)} already finished" if finished else ""
    display.say(console, f"study {plan.study}: {count(total, 'run')}, {len(tasks)} to do{kept}")
    if store.plan_differs(plan):
        display.say(
            console, f"study {plan.study} already exists with a different plan; replacing it (finished runs are kept)"
        )
    if tasks and (warning := stale_runs_warning(plan, stale_runs(store, plan))):
        echo(f"warning: {warning}", err=True)
    live = console.is_terminal and not quiet
    listener = (LiveProgress if live else Progress)(console, tasks, skipped=len(finished))
    try:
        with Interrupt() as stop_asked, listener:
            if cluster is not None:
                cluster.log = listener.line
            outcome = execute_plan(
                plan,
                store,
                tasks,
                settings=settings,
                workers=workers,
                listener=listener,
                stop=stop_asked,
                cluster=cluster,
            )
    except KeyboardInterrupt:
        stop(f"interrupted after {listener.count} of {total} runs; run the same command again to resume", INTERRUPTED)
    if outcome.diverged:
        number = len(outcome.diverged)
        echo(
            f"warning: {number} of {count(len(tasks), 'run')} diverged; the report counts a diverged run as finished, "
            f"with chance accuracy: {'; '.join(outcome.diverged)}",
            err=True,
        )
    if outcome.failed:
        for run_label, reason in outcome.failed.items():
            echo(f"failed: {run_label}: {reason}", err=True)
        echo(f"{len(outcome.failed)} of {total} runs failed; run the same command again to retry them", err=True)
        raise typer.Exit(FAILED)
    if last and len(finished) < others:
        display.say(console, f"{count(len(tasks), 'run')} finished; vitab status shows the remaining runs")
    elif last:
        elsewhere = "" if store.root == Path("runs") else f" --runs {shlex.quote(str(store.root))}"
        display.say(console, f"all {total} runs are finished; next: vitab report {plan.study}{elsewhere}")
