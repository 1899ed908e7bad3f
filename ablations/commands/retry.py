"""`vitab retry`: train failed runs again."""

from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import console as make_console
from ablations.commands.base import echo
from ablations.commands.execute import train
from ablations.commands.options import Backend, DataDir, Quiet, Runs, Stack, Workers


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
    from ablations.commands import display
    from ablations.errors import UsageError
    from ablations.execution import plan as studies
    from ablations.execution import resources as crew
    from ablations.execution.resources import resolve_backend
    from ablations.execution.tasks import ExecutionSettings
    from ablations.storage import Store
    from ablations.training.precision import check_runs

    console, store = make_console(), Store(runs)
    name = study or next(iter(store.studies()), None)
    if name is None:
        raise UsageError(store.describe_studies())
    plan = store.read_study(name)
    arms = studies.survey(plan, store, data_dir=data_dir)
    tasks = [task for task in studies.tasks_of(plan, arms, store) if store.failure(task.key) is not None]
    if not tasks:
        echo(f"study {name} has no failed run")
        return
    chosen = resolve_backend(backend)
    check_runs((task.config for task in tasks), chosen)
    sharing = crew.plan_resources(tasks, workers=workers, stack=stack, backend=chosen, data_dir=data_dir)
    setting = ExecutionSettings(runs, data_dir, chosen, sharing.threads, devices=sharing.devices)
    for line in sharing.lines:
        display.say(console, line)
    train(console, store, plan, sharing.tasks, setting=setting, crew=sharing.workers, quiet=quiet)
