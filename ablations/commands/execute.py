"""Train the runs of a plan, with progress on the terminal; shared by `vitab run` and `vitab retry`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ablations.commands.base import FAILED, INTERRUPTED, echo, stop

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.execution.dask.client import Cluster
    from ablations.execution.tasks import ExecutionSettings, Task
    from ablations.storage import Store, StudyPlan


def train(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    tasks: "Sequence[Task]",
    *,
    setting: "ExecutionSettings",
    crew: int,
    quiet: bool,
    last: bool = True,
    cluster: "Cluster | None" = None,
) -> None:
    """Carry out the tasks of a plan and say how it went; ends the program with exit code 1 or 130 if not well.

    Says what to do next when these were the `last` tasks.
    """
    from ablations.commands import display
    from ablations.commands.progress import LiveProgress, Progress
    from ablations.config import count
    from ablations.execution.execute import execute_plan
    from ablations.execution.interrupt import Interrupt
    from ablations.storage import stale_runs_warning

    store.check_writable()
    left_out = len(plan.keys) - len(tasks)
    done = [key for key in plan.keys if store.done(key)] if left_out else []
    store.tidy(done)
    skipped = len(done)
    kept = f", {skipped} finished before and kept" if skipped else ""
    display.say(console, f"study {plan.study}: {count(len(plan.keys), 'run')}, {len(tasks)} to do{kept}")
    if store.plan_differs(plan):
        display.say(
            console, f"study {plan.study} was planned otherwise before: its plan is replaced, its runs are kept"
        )
    if tasks and (warning := stale_runs_warning(store, plan)):
        echo(f"warning: {warning}", err=True)
    live = console.is_terminal and not quiet
    listener = (LiveProgress if live else Progress)(console, tasks, skipped=skipped)
    try:
        with Interrupt() as stop_asked, listener:
            if cluster is not None:
                cluster.log = listener.line
            outcome = execute_plan(
                plan, store, tasks, settings=setting, workers=crew, listener=listener, stop=stop_asked, cluster=cluster
            )
    except KeyboardInterrupt:
        stop(f"interrupted after {listener.count} of {len(plan.keys)} runs; the same command resumes", INTERRUPTED)
    if outcome.failed:
        for run_label, reason in outcome.failed.items():
            echo(f"failed: {run_label}: {reason}", err=True)
        echo(f"{len(outcome.failed)} of {len(plan.keys)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(FAILED)
    if not last:
        return
    elsewhere = "" if store.root == Path("runs") else f" --runs {shlex.quote(str(store.root))}"
    if skipped < left_out:
        display.say(console, f"{len(tasks)} runs are finished now; vitab status tells which are still to do")
        return
    display.say(console, f"all {len(plan.keys)} runs are finished; next: vitab report {plan.study}{elsewhere}")


def train_on_cluster(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    tasks: "Sequence[Task]",
    *,
    setting: "ExecutionSettings",
    access: tuple[str, bool],
    quiet: bool,
    last: bool = True,
) -> None:
    """The same on the Dask cluster with that address of its scheduler, where no encryption may be needed."""
    from dataclasses import replace

    from ablations.commands import display
    from ablations.execution.dask.client import Cluster, connect

    address, insecure = access
    with connect(address, insecure=insecure) as client:
        store.check_writable()
        cluster = Cluster(client, store.root, log=lambda line: display.say(console, line), insecure=insecure)
        with cluster.folder_probe():
            setting = replace(setting, backend=cluster.choose_backend(setting.backend))
            display.say(console, cluster.describe())
            train(console, store, plan, tasks, setting=setting, crew=1, quiet=quiet, last=last, cluster=cluster)
