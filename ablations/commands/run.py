"""`vitab run`: plan the runs of a grid, choose resources, and train."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablations.commands.base import console as make_console
from ablations.commands.base import echo
from ablations.commands.data_notes import decoding_shown, say_about_data
from ablations.commands.evaluate import evaluate, standard_protocols
from ablations.commands.options import (
    Backend,
    Columns,
    Dask,
    DataDir,
    GroupPattern,
    Insecure,
    Precision,
    ProtocolList,
    Quiet,
    Runs,
    SkipUnreadable,
    Stack,
    Track,
    Workers,
)
from ablations.commands.track import live_tracking
from ablations.errors import UsageError

if TYPE_CHECKING:
    from ablations.config import Grid
    from ablations.execution.resources import ResourcePlan
    from ablations.execution.tasks import Task
    from ablations.storage import StudyPlan


def run(
    context: typer.Context,
    grid: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="Name of a grid (see `vitab grids`), or a TOML file.")
    ],
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Name of a dataset (see `vitab data`).")] = None,
    data_dir: DataDir = None,
    columns: Columns = None,
    group_pattern: GroupPattern = None,
    skip_unreadable: SkipUnreadable = False,
    labels: Annotated[
        str | None, typer.Option(metavar="fine|coarse", help="For cifar100: 100 fine or 20 coarse classes.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="N|a,b", help="Use the first N classes, or the named ones.")
    ] = None,
    per_class: Annotated[str | None, typer.Option(metavar="N", help="Training images to keep per class.")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="light|strong", help="Preset of training fields for photographs.")
    ] = None,
    position: Annotated[
        str | None, typer.Option(metavar="a,b", help="Comma-separated positional encodings; replace those of the grid.")
    ] = None,
    depth: Annotated[
        str | None, typer.Option(metavar="2,4", help="Comma-separated depths; replace those of the grid.")
    ] = None,
    patch: Annotated[
        str | None,
        typer.Option(metavar="2,4", help="Comma-separated patch sizes in pixels; replace those of the grid."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of seeds; runs use seeds 0 to N - 1. Choose it before you see results; "
            "--until-decided can add seeds later.",
        ),
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(metavar="N", help="Training epochs. Warm-up is shortened when there are few.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of a run. Can be repeated."),
    ] = None,
    backend: Backend = "auto",
    precision: Precision = None,
    workers: Workers = "auto",
    stack: Stack = "auto",
    dask: Dask = None,
    insecure: Insecure = False,
    checkpoint: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="Seconds between checkpoints; at most this much work is lost if a run is killed.",
        ),
    ] = 60.0,
    runs: Runs = Path("runs"),
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the study. Default: the name of the grid.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the runs, their estimated cost and the statistical power; train nothing and write nothing.",
        ),
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Run a small version of the grid for a quick test: one seed, two epochs.")
    ] = False,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            "--tune",
            metavar="FIELD=SPACE",
            help="Choose a training field for each arm by trials before the comparison. SPACE is LOW:HIGH, "
            "LOW:HIGH:log or a,b. Can be repeated.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="With --tune: trials of each arm at each setting. Default: 12.")
    ] = None,
    tune_seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --tune: seeds of each trial; runs of the comparison have others. Default: 1."
        ),
    ] = None,
    tune_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="With --tune: epochs of a trial, if the comparison has more (with --match: of the baseline arm). "
            "Warm-up is shortened in proportion.",
        ),
    ] = None,
    tune_sampler: Annotated[
        str | None,
        typer.Option(
            metavar="qmc|tpe",
            help="With --tune: qmc, quasi-random trials, the same for every arm; or tpe, a tree-structured Parzen "
            "estimator. Default: qmc.",
        ),
    ] = None,
    tune_per: Annotated[
        str | None,
        typer.Option(
            metavar="setting|arm",
            help="With --tune: choose for each arm at each setting, or once for each arm. Default: setting.",
        ),
    ] = None,
    prune: Annotated[
        bool | None,
        typer.Option("--prune/--no-prune", help="With --tune: end trials that are below the median of earlier ones."),
    ] = None,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Compare at the values of the grid, without the trials of a tuned grid.")
    ] = False,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided", help="Add seeds in rounds to arms that are not yet better, worse or equivalent."
        ),
    ] = False,
    max_seeds: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --until-decided: maximum number of seeds. Default: four times --seeds."),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="flops|seconds",
            help="Give every arm the training FLOPs, or the measured training time, of the baseline arm instead of its "
            "epochs.",
        ),
    ] = None,
    protocol: ProtocolList = None,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Train the runs of a grid that are not finished yet.

    Finished runs are kept and never trained again. After an interruption or a failure, the same command resumes.
    Exit codes: 0 success, 1 some runs failed, 2 bad input, 130 interrupted.
    """
    from ablations.commands import display
    from ablations.commands.execute import allocate, train, train_on_cluster, warn
    from ablations.config import (
        check_match,
        check_name,
        count,
        find_grid,
        find_recipe,
        override,
        parse_axes,
        parse_settings,
        parse_spaces,
        pruning_warning,
        shrink,
        with_tuning,
        without_tuning,
    )
    from ablations.data.registry import check_is_name
    from ablations.execution.paired_times import PairedTimes
    from ablations.execution.plan import plan_study, unfinished_tasks
    from ablations.execution.resources import parse_stack, resolve_backend, resolve_workers
    from ablations.execution.tasks import ExecutionSettings
    from ablations.machine import unused_gpu
    from ablations.statistics import power_warning
    from ablations.statistics.sequential.rounds import plan_to_continue, with_seeds
    from ablations.storage import Store
    from ablations.training.precision import choose
    from vit.options import split

    fields = {
        "data": data,
        "columns": columns,
        "group_pattern": group_pattern,
        "skip_unreadable": "true" if skip_unreadable else None,
        "labels": labels,
        "classes": classes,
        "per_class": per_class,
        "epochs": epochs,
    }
    check_is_name(data)
    axes = {"position": position, "depth": depth, "patch": patch}
    chosen = override(find_grid(grid), settings=find_recipe(recipe) if recipe is not None else {})
    chosen = shrink(chosen) if smoke else chosen
    given = parse_settings(fields, settings or [])
    chosen = override(chosen, axes=parse_axes(axes), settings=given, seeds=seeds)
    pruner = None if prune is None else "median" if prune else "none"
    options = {
        "trials": trials,
        "seeds": tune_seeds,
        "epochs": tune_epochs,
        "sampler": tune_sampler,
        "per": tune_per,
        "prune": pruner,
    }
    if no_tune:
        chosen = without_tuning(chosen, tune or [], options)
    else:
        chosen = with_tuning(chosen, parse_spaces(tune or []), options, given)
    name = check_name("--study", study) if study is not None else chosen.name
    if max_seeds is not None and not until_decided:
        raise UsageError("--max-seeds requires --until-decided; without it, --seeds N sets the number of seeds")
    if dask is not None and (workers != "auto" or stack != "auto"):
        raise UsageError("--workers and --stack are for this machine and cannot be combined with --dask")

    here = dask is None or dry_run
    used = resolve_backend(backend, here=here)
    resolve_workers(workers, runs=1, backend=used)
    parse_stack(stack)
    if here and backend != used == "numpy" and (line := unused_gpu()):
        echo(f"note: {line}", err=True)
    chosen = choose(chosen, precision, used if here else None)
    command = rerun_command(context.obj, chosen.base.precision)
    console, store = make_console(), Store(runs)
    context.with_resource(decoding_shown(console))
    tracking = context.with_resource(live_tracking(track, store, name, console))
    asked = list(chosen.protocols) if protocol is None else split(protocol, ",")
    if asked:
        chosen = replace(chosen, protocols=tuple(standard_protocols(asked)))
    if match is not None:
        chosen = replace(chosen, match=check_match(match))
    times = PairedTimes(
        store,
        name,
        data_dir,
        used,
        workers,
        stack,
        len(chosen.seeds),
        say=lambda line: display.say(console, line),
        keep=not dry_run,
        here=dask is None,
    )

    def plan_of(grid: "Grid") -> "StudyPlan":
        return plan_study(grid, store, study=name, data_dir=data_dir, command=command, times=times)

    def resources_for(tasks: "Sequence[Task]") -> "ResourcePlan":
        return allocate(console, tasks, workers=workers, stack=stack, backend=used, data_dir=data_dir)

    def execute(plan: "StudyPlan", tried: frozenset[str]) -> None:
        """Train the unfinished runs of a plan, except those tried before."""
        tasks = [task for task in unfinished_tasks(plan, store, data_dir) if task.key not in tried]
        execution = ExecutionSettings(runs, data_dir, used, checkpoint_every=checkpoint)
        last = plan.design is None and not chosen.protocols
        if tasks and dask is not None:
            train_on_cluster(
                console,
                store,
                plan,
                tasks,
                execution,
                address=dask,
                insecure=insecure,
                quiet=quiet,
                last=last,
                tracking=tracking,
            )
        else:
            train(console, store, plan, resources_for(tasks), execution, quiet=quiet, last=last, tracking=tracking)

    planned = partial(plan_to_continue, chosen, store, name, plan_of, grows=until_decided, maximum=max_seeds)
    plan = planned()
    for line in display.describe_match(plan):
        display.say(console, line)
    say_about_data(plan.all_configs, data_dir)
    if warning := power_warning(with_seeds(chosen, plan.design.maximum) if plan.design else chosen):
        warn(warning)
    if plan.searching and (warning := pruning_warning(plan.tuning)):
        warn(warning)
    if dry_run:
        from ablations.commands.dry_run import print_forecast

        print_forecast(console, store, plan, chosen, resources_for, backend=used, data_dir=data_dir)
        if chosen.protocols:
            from ablations.evaluation import protocol_label

            number = count(plan.all_runs * len(chosen.protocols), "evaluation")
            display.say(console, f"then {number}, by {', '.join(map(protocol_label, chosen.protocols))}")
    else:
        from ablations.commands.phases import train_in_phases

        train_in_phases(console, store, plan, chosen, planned=planned, plan_of=plan_of, train=execute)
    if chosen.protocols and not dry_run:
        evaluate(name, ",".join(asked), data_dir, backend, workers, dask, insecure, runs, False, quiet)


LOCAL = ("--runs", "--data-dir", "--workers", "--stack", "--backend", "--dask", "--checkpoint", "--track")
"""Options that concern one machine and do not change results."""
FLAGS = ("-q", "--quiet", "--insecure")
"""Such options without a value."""


def rerun_command(arguments: list[str], precision: str = "float32") -> str:
    """Return the command that runs the same study anywhere.

    Options that concern this machine are left out; a precision that this machine has chosen is added.
    """
    kept: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument in LOCAL:
            next(remaining, None)
        elif argument not in FLAGS and not argument.startswith(tuple(f"{name}=" for name in LOCAL)):
            kept.append(argument)
    precision_options = ("--precision", "--set=precision", "precision=")
    if precision != "float32" and not any(argument.startswith(precision_options) for argument in kept):
        kept += ["--precision", precision]
    return shlex.join(["vitab", *kept])
