"""`vitab run --until-decided`: which runs the next round of a study takes, until every contrast is decided.

The rounds and their maximum stand in the study's file from the first round on; all else follows from its runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from ablations.config import Grid, SequentialDesign, level_text
from ablations.errors import UsageError
from ablations.statistics.analysis import Analysis
from ablations.statistics.sequential.growth import asked, seeds_to_add

if TYPE_CHECKING:
    from ablations.storage import Store, StudyPlan

MAXIMUM = 4
"""Times the seeds of the first round, where nothing else is said."""

Planner = Callable[[Grid], "StudyPlan"]


def recorded(store: Store, name: str) -> StudyPlan | None:
    """The plan that is written down under this name; None where there is none that can be read."""
    try:
        return store.read_study(name)
    except UsageError:
        return None


def refuse_fixed(store: Store, name: str) -> None:
    """UsageError when the study of this name grows in rounds: a fixed plan would forget how often it was looked at."""
    plan = recorded(store, name)
    if plan is not None and plan.design is not None:
        raise UsageError(
            f"study {name} was begun with --until-decided: give --study another name, or go on with: {plan.command}"
        )


def begin(grid: Grid, store: Store, name: str, plan_of: Planner, maximum: int | None = None) -> StudyPlan:
    """The plan to go on with: the one written down, or the first round's.

    UsageError where nothing is compared, the maximum is no more than the first round, or the study was begun with
    other rounds or other runs.
    """
    if len(grid.levels) < 2:
        raise UsageError("--until-decided needs something to compare: give an axis two levels, such as --position a,b")
    first = len(grid.seeds)
    before = recorded(store, name)
    if before is not None and before.design is not None and maximum is None and before.design.first == first:
        maximum = before.design.maximum
    design = SequentialDesign(first, MAXIMUM * first if maximum is None else maximum)
    if design.maximum <= first:
        raise UsageError(f"--max-seeds must be above the {first} seeds of the first round, got {design.maximum}")
    plan = replace(plan_of(grid), design=design)
    if before is None or before.design is None:
        return plan
    if before.design != design:
        begun = f"--seeds {before.design.first} --max-seeds {before.design.maximum}"
        raise UsageError(f"study {name} was begun with {begun}: its rounds are settled; give --study another name")
    if before.axes != plan.axes or not set(plan.keys) <= set(before.keys):
        raise UsageError(f"study {name} was begun with other runs or other data; give --study another name")
    return before


def next_round(plan: StudyPlan, grid: Grid, analysis: Analysis, plan_of: Planner) -> StudyPlan | None:
    """The plan with the runs of the next round added; None when every contrast is decided, or can grow no more."""
    if analysis.growth is None:
        return None
    targets = seeds_to_add(analysis.looked, analysis.growth, analysis.open_arms)
    if not targets:
        return None
    seeds = asked(plan, grid.compared)
    seeds |= {level_text(level): n for level, n in targets.items() if n > seeds[level_text(level)]}
    whole = plan_of(with_seeds(grid, max(max(seeds.values()), len(plan.seeds))))
    place = {seed: i for i, seed in enumerate(whole.seeds)}
    kept = {
        key: config
        for key, config in whole.runs.items()
        if place[config.seed] < seeds[level_text(getattr(config, grid.compared))]
    }
    return replace(plan, seeds=whole.seeds, keys=tuple(kept), configs=tuple(kept.values()))


def with_seeds(grid: Grid, number: int) -> Grid:
    """The grid with so many seeds: its own first, then the least numbers that are not among them."""
    more = (seed for seed in count() if seed not in grid.seeds)
    seeds = [*grid.seeds, *(next(more) for _ in range(number - len(grid.seeds)))]
    return replace(grid, seeds=tuple(seeds))
