"""`vitab retry`: retrain failed or stale runs."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.base import console as make_console
from ablations.commands.base import echo
from ablations.commands.options import Backend, DataDir, Quiet, Runs, Stack, Track, Workers
from ablations.commands.track import live_tracking


def retry(
    context: typer.Context,
    study: Annotated[str | None, typer.Argument(help="Name of the study. Default: the last one planned.")] = None,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale",
            help="Retrain finished runs that were trained with different code, instead of failed runs. Each result is "
            "kept until the new one is complete.",
        ),
    ] = False,
    data_dir: DataDir = None,
    backend: Backend = "auto",
    workers: Workers = "auto",
    stack: Stack = "auto",
    runs: Runs = Path("runs"),
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Retrain the failed or stale runs of a study: of its trials first, then of the comparison.

    Failed evaluations are tried again by `vitab evaluate`.
    """
    from ablations.commands.data_notes import decoding_shown, say_about_data
    from ablations.commands.execute import allocate, train
    from ablations.errors import UsageError
    from ablations.execution.plan import check_planned_data, survey, tasks_of, trial_tasks
    from ablations.execution.resources import resolve_backend
    from ablations.execution.tasks import ExecutionSettings
    from ablations.storage import Store, TrialStore, stale_runs, stale_trials
    from ablations.training.precision import check_runs

    console, store = make_console(), Store(runs)
    name = study or next(iter(store.studies()), None)
    if name is None:
        raise UsageError(store.describe_studies())
    plan = store.read_study(name)
    tracking = context.with_resource(live_tracking(track, store, name, console))
    trials = TrialStore.beside(store)
    tried = {run.key for run in plan.trials}
    old = set(stale_trials(store, plan)) if stale else {key for key in tried if trials.failure(key) is not None}
    again = set(stale_runs(store, plan)) if stale else {key for key in plan.keys if store.failure(key) is not None}
    if not again and not old:
        echo(f"study {name} has no {'stale' if stale else 'failed'} run")
        return
    with decoding_shown(console):
        check_planned_data(plan, store, data_dir)
    if old:  # before the runs, whose values they choose
        plan = replace(plan, keys=(), configs=())
        with decoding_shown(console):
            tasks = [task for task in trial_tasks(plan, store, data_dir, old) if task.key in old]
    else:
        to_train = {key: config for key, config in plan.runs.items() if key in again}
        part = replace(plan, keys=tuple(to_train), configs=tuple(to_train.values()))
        with decoding_shown(console):
            tasks = tasks_of(part, survey(part, store, data_dir=data_dir), store, again)
    say_about_data([task.config for task in tasks], data_dir)
    chosen = resolve_backend(backend)
    check_runs((task.config for task in tasks), chosen)
    resources = allocate(console, tasks, workers=workers, stack=stack, backend=chosen, data_dir=data_dir)
    train(console, store, plan, resources, ExecutionSettings(runs, data_dir, chosen), quiet=quiet, tracking=tracking)
    if old:
        echo(f"to continue the study: {plan.command}")
