"""`vitab run --dry-run`: what a plan would run, its cost, and what it can detect."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.commands import display
from ablations.execution.plan import make_plan, survey, tasks_of
from ablations.execution.resources import memory_need
from ablations.execution.stacking import shape
from ablations.statistics import forecast_power, forecast_sequential_power
from ablations.storage import TrialStore
from ablations.training.gpu_fallbacks import gpu_fallbacks
from ablations.training.timing import calibrate

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.config import Grid
    from ablations.execution.resources import ResourcePlan
    from ablations.execution.tasks import Task
    from ablations.storage import Store, StudyPlan


def print_forecast(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    grid: "Grid",
    resources_for: "Callable[[Sequence[Task]], ResourcePlan]",
    *,
    backend: str,
    data_dir: Path | None,
) -> None:
    """Print the arms of a plan, their cost on this machine, and what the study can detect. Nothing is written.

    Runs whose tuned values are not chosen yet are taken to cost as much as with the values of the grid.
    """
    search, finished = plan, store
    if plan.searching:
        bare = make_plan(replace(grid, tuning=None, match=None), study=plan.study, data_dir=data_dir)
        configs = bare.configs if plan.match is None else tuple(map(plan.match.matched, bare.configs))
        plan = replace(bare, configs=configs, match=plan.match, design=plan.design)
        finished = TrialStore.beside(store)  # which has none of these runs
    arms = survey(plan, finished, data_dir=data_dir)
    resources = resources_for(tasks_of(plan, arms, finished))
    stacks = {shape(task.config): task.stack for task in resources.tasks}
    with console.status("timing a few steps of each arm"):
        arms = survey(
            plan,
            finished,
            data_dir=data_dir,
            measure=lambda config, dataset: calibrate(
                config, dataset, backend=backend, threads=resources.threads, stack=stacks[shape(config)]
            ),
        )
    needs = [memory_need(arm.config, data_dir, runs=1, workers=resources.workers, backend=backend) for arm in arms]
    display.show_plan(console, plan, arms, needs, resources)
    if search.searching:
        from ablations.commands.tune import print_search

        print_search(console, store, search, grid.base, arms, resources)
    lines: list[str] = []
    if plan.design:
        from ablations.commands.until_decided import print_rounds

        print_rounds(console, plan, arms, resources)
        lines = forecast_sequential_power(grid, plan.design)
    elif len(grid.levels) > 1:
        lines = forecast_power(grid)
    if backend == "cupy":
        lines += gpu_fallbacks([arm.config for arm in arms], data_dir)
    for line in lines:
        display.say(console, line)
