"""`vitab run`: the runs of a grid, planned, shared out and trained."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablations.commands.base import console as make_console
from ablations.commands.base import echo
from ablations.commands.execute import train, train_on_cluster
from ablations.commands.options import Backend, DataDir, Precision, Quiet, Runs, Stack, Workers
from ablations.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.config import Grid
    from ablations.execution.resources import ResourcePlan
    from ablations.execution.tasks import ExecutionSettings, Task
    from ablations.storage import Store, StudyPlan


def run(
    context: typer.Context,
    grid: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="A grid of `vitab grids`, or a TOML file of your own.")
    ],
    data: Annotated[str | None, typer.Option(metavar="NAME", help="A data set of `vitab data`.")] = None,
    data_dir: DataDir = None,
    labels: Annotated[str | None, typer.Option(metavar="fine|coarse", help="cifar100: 100 or 20 classes.")] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="N|a,b", help="Only the first N classes, or the classes named.")
    ] = None,
    per_class: Annotated[
        str | None, typer.Option(metavar="N", help="Only so many training images of each class.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="light|strong", help="Training fields for photographs, as a bundle.")
    ] = None,
    position: Annotated[
        str | None, typer.Option(metavar="a,b", help="Positional encodings instead of the grid's.")
    ] = None,
    depth: Annotated[str | None, typer.Option(metavar="2,4", help="Depths instead of the grid's.")] = None,
    patch: Annotated[
        str | None, typer.Option(metavar="2,4", help="Patch sizes in pixels instead of the grid's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Run the seeds 0 to N - 1. More seeds, more certain answers.")
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(metavar="N", help="Passes over the training images; few shorten the warm-up.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of a run; may be repeated."),
    ] = None,
    backend: Backend = "auto",
    precision: Precision = None,
    workers: Workers = "auto",
    stack: Stack = "auto",
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Train on the Dask cluster with this scheduler.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="With --dask: do without encryption on the way to another machine.")
    ] = False,
    checkpoint: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="Between two checkpoints of a run: what a kill can cost.")
    ] = 60.0,
    runs: Runs = Path("runs"),
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the study; default: the grid's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would run and how long it takes; write nothing.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A small version of the grid, to try it: one seed, two epochs.")
    ] = False,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="Add seeds in rounds, only to arms not yet better, worse or equivalent."),
    ] = False,
    max_seeds: Annotated[
        int | None, typer.Option(metavar="N", help="With --until-decided: the most seeds; default: four times --seeds.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train the runs of a grid that are not finished yet.

    Finished runs are kept and never trained again. After an interruption or a failure, the same command goes on
    with what is left. Exit code: 0 all is well, 1 some runs failed, 2 bad input, 130 interrupted.
    """
    from ablations.config import check_name, override, parse_axes, parse_settings, recipes, shrink
    from ablations.config import grid_files as grids
    from ablations.storage import Store

    fields = {"data": data, "labels": labels, "classes": classes, "per_class": per_class, "epochs": epochs}
    axes = {"position": position, "depth": depth, "patch": patch}
    chosen = grids.find_grid(grid)
    given = parse_settings(fields, settings or [])
    bundle = recipes.find_recipe(recipe) if recipe is not None else {}
    chosen = override(chosen, settings=bundle)
    chosen = shrink(chosen) if smoke else chosen
    chosen = override(chosen, axes=parse_axes(axes), settings=given, seeds=seeds)
    name = check_name("--study", study) if study is not None else chosen.name
    if max_seeds is not None and not until_decided:
        raise UsageError("--max-seeds goes with --until-decided only; --seeds N says how many a fixed study has")
    if dask is not None and (workers != "auto" or stack != "auto"):
        raise UsageError("--workers and --stack are for this machine; with --dask there are as many as the cluster has")
    _Campaign(
        study=name,
        store=Store(runs),
        console=make_console(),
        data_dir=data_dir,
        backend=backend,
        precision=precision,
        workers=workers,
        stack=stack,
        dask=None if dry_run else dask,
        insecure=insecure,
        checkpoint=checkpoint,
        quiet=quiet,
        arguments=context.obj,
    ).execute_run(chosen, until_decided=until_decided, max_seeds=max_seeds, dry_run=dry_run)


@dataclass
class _Campaign:
    """How and where the runs of a study are trained, as `vitab run` was asked."""

    study: str
    store: "Store"
    console: "Console"
    data_dir: Path | None
    backend: str
    precision: str | None
    workers: str
    stack: str
    dask: str | None
    insecure: bool
    checkpoint: float
    quiet: bool
    arguments: list[str]

    def execute_run(self, grid: "Grid", *, until_decided: bool, max_seeds: int | None, dry_run: bool) -> None:
        """Plan and train, in one go or in rounds; or only say what that would be."""
        from ablations.statistics import power_warning
        from ablations.statistics.sequential import rounds as growing

        grid = self.settle(grid)
        plan = (
            growing.first_or_stored_plan(grid, self.store, self.study, self.plan, max_seeds)
            if until_decided
            else self.plan(grid)
        )
        if not until_decided:
            growing.require_fixed(self.store, self.study)
        largest = growing.with_seeds(grid, plan.design.maximum) if plan.design else grid
        if warning := power_warning(largest):
            echo(f"warning: {warning}", err=True)
        if dry_run:
            self.foresee(plan, grid)
        elif plan.design:
            from ablations.commands.until_decided import train_in_rounds

            train_in_rounds(self.console, self.store, plan, grid, plan_of=self.plan, train=self.train)
        else:
            self.train(plan)

    def settle(self, grid: "Grid") -> "Grid":
        """Check what was asked for against what this machine has; the grid with its precision chosen."""
        from ablations.execution import resources as crew
        from ablations.execution.resources import resolve_backend, resolve_workers
        from ablations.machine import unused_gpu
        from ablations.training.precision import choose

        asked, here = self.backend, self.dask is None
        self.backend = resolve_backend(asked, here=here)
        resolve_workers(self.workers, runs=1, backend=self.backend)
        crew.parse_stack(self.stack)
        if here and asked != self.backend == "numpy" and (line := unused_gpu()):
            echo(f"note: {line}", err=True)
        return choose(grid, self.precision, self.backend if here else None)

    def plan(self, grid: "Grid") -> "StudyPlan":
        """The plan of the study with this grid, and the command that anybody would type for it."""
        from ablations.execution.plan import make_plan

        command = rerun_command(self.arguments, grid.base.precision)
        return make_plan(grid, study=self.study, data_dir=self.data_dir, command=command)

    def train(self, plan: "StudyPlan", tried: frozenset[str] = frozenset()) -> None:
        """Train what is missing of a plan, but for the runs tried before."""
        from ablations.execution import plan as study

        arms = study.survey(plan, self.store, data_dir=self.data_dir)
        tasks = [task for task in study.tasks_of(plan, arms, self.store) if task.key not in tried]
        console, store, last = self.console, self.store, plan.design is None
        if tasks and self.dask is not None:
            setting, access = self.setting(threads=1), (self.dask, self.insecure)
            train_on_cluster(console, store, plan, tasks, setting=setting, access=access, quiet=self.quiet, last=last)
            return
        sharing, setting = self.share_out(tasks)
        train(console, store, plan, sharing.tasks, setting=setting, crew=sharing.workers, quiet=self.quiet, last=last)

    def setting(self, threads: int, devices: tuple[str, ...] = ()) -> "ExecutionSettings":
        from ablations.execution.tasks import ExecutionSettings

        return ExecutionSettings(
            self.store.root, self.data_dir, self.backend, threads, checkpoint_every=self.checkpoint, devices=devices
        )

    def share_out(self, tasks: "Sequence[Task]") -> "tuple[ResourcePlan, ExecutionSettings]":
        """Processes and stacks for the runs, as cores and memory allow; the kernels are compiled before they begin."""
        from ablations.commands import display
        from ablations.execution import resources as crew

        sharing = crew.plan_resources(
            tasks, workers=self.workers, stack=self.stack, backend=self.backend, data_dir=self.data_dir
        )
        for line in sharing.lines:
            display.say(self.console, line)
        if tasks and self.backend == "numpy":
            from ablations.machine.compilation import compile_kernels

            compile_kernels(lambda: display.say(self.console, "compiling the CPU kernels, once on this machine"))
        return sharing, self.setting(sharing.threads, sharing.devices)

    def foresee(self, plan: "StudyPlan", grid: "Grid") -> None:
        """Say what would run, what it takes, and what it can find."""
        from ablations.commands import display
        from ablations.execution import plan as study
        from ablations.execution import resources as crew
        from ablations.execution.stacking import shape
        from ablations.statistics import forecast_power, forecast_sequential_power, least_p
        from ablations.training.gpu_fallbacks import gpu_fallbacks
        from ablations.training.trainer import calibrate

        arms = study.survey(plan, self.store, data_dir=self.data_dir)
        sharing, setting = self.share_out(study.tasks_of(plan, arms, self.store))
        stacks = {shape(task.config): task.stack for task in sharing.tasks}
        with self.console.status("timing a few steps of each arm"):
            arms = study.survey(
                plan,
                self.store,
                data_dir=self.data_dir,
                measure=lambda config, dataset: calibrate(
                    config, dataset, backend=self.backend, threads=setting.threads, stack=stacks[shape(config)]
                ),
            )
        needs = [
            crew.memory_need(arm.config, self.data_dir, runs=1, workers=sharing.workers, backend=self.backend)
            for arm in arms
        ]
        display.show_plan(self.console, plan, arms, needs, sharing)
        if plan.design:
            from ablations.commands.until_decided import foresee_rounds

            foresee_rounds(self.console, plan, arms, sharing)
            lines = forecast_sequential_power(grid, plan.design)
        elif len(grid.levels) > 1:
            display.say(self.console, f"smallest two-sided p it can give, after Holm: {least_p(grid):.2g}")
            lines = forecast_power(grid)
        else:
            lines = []
        if self.backend == "cupy":
            lines += gpu_fallbacks([arm.config for arm in arms], self.data_dir)
        for line in lines:
            display.say(self.console, line)


LOCAL = ("--runs", "--data-dir", "--workers", "--stack", "--backend", "--dask", "--checkpoint")
"""Options that say where and how, on one machine, and change no result."""
FLAGS = ("-q", "--quiet", "--insecure")
"""The same without a value."""


def rerun_command(arguments: list[str], precision: str = "float32") -> str:
    """The command that anybody would type for the same study: without what concerns this machine alone, and with the
    precision that this machine has chosen where that is not everybody's."""
    kept: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument in LOCAL:
            next(left, None)
        elif argument not in FLAGS and not argument.startswith(tuple(f"{name}=" for name in LOCAL)):
            kept.append(argument)
    said = ("--precision", "--set=precision", "precision=")
    if precision != "float32" and not any(argument.startswith(said) for argument in kept):
        kept += ["--precision", precision]
    return shlex.join(["vitab", *kept])
