"""Commands on the runs of a study: train them, watch them, try the failed again, look at the finished again."""

import contextlib
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablations.commands.base import FAILED, INTERRUPTED, Backend, DataDir, Quiet, Runs, Stack, Study, Workers, stop
from ablations.commands.base import console as make_console

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.cluster.client import Cluster
    from ablations.scheduling.workers import Setting, Task
    from ablations.store import Store, StudyPlan

WATCH_EVERY = 2.0
"""Seconds between two looks of `vitab status --watch`."""
WATCH_NOBODY = 30.0
"""Seconds without a run at work after which it ends."""


def train(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    tasks: "Sequence[Task]",
    *,
    setting: "Setting",
    crew: int,
    quiet: bool,
    last: bool = True,
    cluster: "Cluster | None" = None,
) -> None:
    """Carry out the tasks of a plan and say how it went; ends the program with exit code 1 or 130 if not well.

    Says what to do next when these were the `last` tasks.
    """
    from ablations import display, study
    from ablations.progress import LiveProgress, Progress
    from ablations.reporting.mixture import other_code
    from ablations.scheduling.interrupt import Interrupt

    store.check_writable()
    left_out = len(plan.keys) - len(tasks)
    done = [key for key in plan.keys if store.done(key)] if left_out else []
    store.tidy(done)
    skipped = len(done)
    kept = f", {skipped} finished before and kept" if skipped else ""
    display.say(console, f"study {plan.study}: {study.count(len(plan.keys), 'run')}, {len(tasks)} to do{kept}")
    if store.plan_differs(plan):
        display.say(
            console, f"study {plan.study} was planned otherwise before: its plan is replaced, its runs are kept"
        )
    if tasks and (warning := other_code(store, plan)):
        typer.echo(f"warning: {warning}", err=True)
    live = console.is_terminal and not quiet
    listener = (LiveProgress if live else Progress)(console, tasks, skipped=skipped)
    try:
        with Interrupt() as stop_asked, listener:
            if cluster is not None:
                cluster.say = listener.line
            outcome = study.run(
                plan, store, tasks, setting=setting, workers=crew, listener=listener, stop=stop_asked, cluster=cluster
            )
    except KeyboardInterrupt:
        stop(f"interrupted after {listener.count} of {len(plan.keys)} runs; the same command resumes", INTERRUPTED)
    if outcome.failed:
        for run_label, reason in outcome.failed.items():
            typer.echo(f"failed: {run_label}: {reason}", err=True)
        typer.echo(
            f"{len(outcome.failed)} of {len(plan.keys)} runs failed; the same command tries them again", err=True
        )
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
    setting: "Setting",
    access: tuple[str, bool],
    quiet: bool,
    last: bool = True,
) -> None:
    """The same on the Dask cluster with that address of its scheduler, where no encryption may be needed."""
    from dataclasses import replace

    from ablations import display
    from ablations.cluster.client import Cluster, connect

    address, insecure = access
    with connect(address, insecure=insecure) as client:
        store.check_writable()
        cluster = Cluster(client, store.root, say=lambda line: display.say(console, line), insecure=insecure)
        with cluster.watched():
            setting = replace(setting, backend=cluster.choose_backend(setting.backend))
            display.say(console, cluster.describe())
            train(console, store, plan, tasks, setting=setting, crew=1, quiet=quiet, last=last, cluster=cluster)


def status(
    study: Study = None,
    runs: Runs = Path("runs"),
    verify: Annotated[bool, typer.Option("--verify", help="Also read every file and compare checksums.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every two seconds until all is over, or nobody is at work.")
    ] = False,
) -> None:
    """Say which runs are done, running (where, how far), failed (why) and still to do."""
    from ablations import display
    from ablations.store import Store

    store = Store(runs)
    if study is not None:
        store.read_study(study)
    elif not store.studies():
        typer.echo(store.describe_studies())
        return
    if watch:
        from rich.live import Live

        worked = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt), Live(console=make_console(), auto_refresh=False) as live:
            while True:
                view, to_do, running = display.view_studies(store, study)
                live.update(view, refresh=True)
                worked = time.monotonic() if running else worked
                if not (to_do or running) or time.monotonic() - worked >= WATCH_NOBODY:
                    break
                time.sleep(WATCH_EVERY)
        return
    if not display.show_studies(make_console(), store, study, verify=verify):
        raise typer.Exit(FAILED)


def retry(
    study: Annotated[str | None, typer.Argument(help="Name of the study; default: the last one planned.")] = None,
    data_dir: DataDir = None,
    backend: Backend = "auto",
    workers: Workers = "auto",
    stack: Stack = "auto",
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Train the failed runs of a study once more, and only those."""
    from ablations import display
    from ablations import study as studies
    from ablations.errors import UsageError
    from ablations.precision import check_runs
    from ablations.scheduling import crew
    from ablations.scheduling.workers import Setting
    from ablations.store import Store

    console, store = make_console(), Store(runs)
    name = study or next(iter(store.studies()), None)
    if name is None:
        raise UsageError(store.describe_studies())
    plan = store.read_study(name)
    arms = studies.survey(plan, store, data_dir=data_dir)
    tasks = [task for task in studies.tasks_of(plan, arms, store) if store.failure(task.key) is not None]
    if not tasks:
        typer.echo(f"study {name} has no failed run")
        return
    chosen = studies.resolve_backend(backend)
    check_runs((task.config for task in tasks), chosen)
    sharing = crew.resolve(tasks, workers=workers, stack=stack, backend=chosen, data_dir=data_dir)
    setting = Setting(runs, data_dir, chosen, sharing.threads, devices=sharing.devices)
    for line in sharing.lines:
        display.say(console, line)
    train(console, store, plan, sharing.tasks, setting=setting, crew=sharing.workers, quiet=quiet)


def verify(study: Study = None, runs: Runs = Path("runs")) -> None:
    """Compare every checksum of the finished runs, and read every file."""
    from ablations.store import Store
    from ablations.verification import finished_keys, problems

    store = Store(runs)
    keys, unreadable = finished_keys(store)
    if study is not None:
        planned = set(store.read_study(study).keys)
        folders = {store.folder(key) for key in planned}
        keys, unreadable = [key for key in keys if key in planned], [path for path in unreadable if path in folders]
    bad = {store.folder(key): found for key in keys if (found := problems(store, key))}
    bad |= {path: ["DONE.json is damaged"] for path in unreadable}
    for path, found in bad.items():
        typer.echo(f"{path}: {'; '.join(found)}")
    if bad:
        stop(f"{len(bad)} of {len(keys) + len(unreadable)} finished runs are damaged: delete their folders", FAILED)
    typer.echo(f"all files of {len(keys)} finished runs are as they were written, and can be read")


def reproduce(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A finished run: how the name of its folder begins.")],
    data_dir: DataDir = None,
    backend: Backend = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Train a finished run again and compare: bit for bit where it was trained, by its accuracy elsewhere."""
    from ablations.environment import available_cores
    from ablations.store import Store
    from ablations.study import resolve_backend
    from ablations.verification import find_key, reproduce

    store = Store(runs)
    found = find_key(store, key)
    chosen = resolve_backend(backend)
    again = reproduce(store, found, data_dir=data_dir, backend=chosen, threads=available_cores())
    bits = "the same bits" if again.same_bits else "other bits"
    where = "with the same code, packages and processor" if again.same_place else "in another environment"
    typer.echo(
        f"run {found[:16]}, {where}: {bits}; test accuracy {again.accuracy:.2%}, before {again.accuracy_before:.2%} "
        f"(two standard errors: {again.tolerance:.2%})"
    )
    if not again.good:
        stop("the run was not reproduced", FAILED)
