"""The rounds of a sequential study (`vitab run --until-decided`): its first plan, and the runs of the next round.

The design is stored in the study's file from the first round on; everything else follows from its runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from ablations.config import Grid, SequentialDesign, level_text
from ablations.errors import UsageError
from ablations.statistics.analysis import Analysis
from ablations.statistics.sequential.progress import planned_seeds, seeds_to_add

if TYPE_CHECKING:
    from ablations.storage import Store, StudyPlan

MAXIMUM = 4
"""Default maximum number of seeds, in multiples of those of the first round."""

Planner = Callable[[Grid], "StudyPlan"]


def stored_plan(store: Store, name: str) -> StudyPlan | None:
    """Return the stored plan of this name; None if there is none that can be read."""
    try:
        return store.read_study(name)
    except UsageError:
        return None


def require_fixed(store: Store, name: str) -> None:
    """Raise UsageError if the stored study is sequential: a fixed plan would ignore its interim analyses."""
    plan = stored_plan(store, name)
    if plan is not None and plan.design is not None:
        raise UsageError(
            f"study {name} was started with --until-decided: choose another --study, or continue with: {plan.command}"
        )


def first_or_stored_plan(
    grid: Grid, store: Store, name: str, plan_of: Planner, maximum: int | None = None
) -> StudyPlan:
    """Return the plan to continue with: the stored one, or that of the first round.

    Raises UsageError if nothing is compared, if the maximum does not exceed the first round, or if the study was
    started with another design, other runs or other data.
    """
    if len(grid.levels) < 2:
        raise UsageError("--until-decided needs two levels to compare, such as --position a,b")
    first = len(grid.seeds)
    before = stored_plan(store, name)
    if before is not None and before.design is not None and maximum is None and before.design.first == first:
        maximum = before.design.maximum
    design = SequentialDesign(first, MAXIMUM * first if maximum is None else maximum)
    if design.maximum <= first:
        raise UsageError(f"--max-seeds must be above the {first} seeds of the first round, got {design.maximum}")
    plan = replace(plan_of(grid), design=design)
    if before is None or before.design is None or before.searching:
        return plan
    if before.design != design:
        design_options = f"--seeds {before.design.first} --max-seeds {before.design.maximum}"
        raise UsageError(
            f"study {name} was started with {design_options}, which cannot be changed; choose another --study"
        )
    if before.axes != plan.axes or before.tuning != plan.tuning or not set(plan.keys) <= set(before.keys):
        raise UsageError(f"study {name} was started with other runs or other data; choose another --study")
    return before


def plan_to_continue(
    grid: Grid, store: Store, name: str, plan_of: Planner, *, grows: bool, maximum: int | None = None
) -> StudyPlan:
    """Return the plan of a study as far as its finished trials allow: that of a study that `grows`, or a fixed one.

    Raises UsageError as `first_or_stored_plan` or `require_fixed`.
    """
    if grows:
        return first_or_stored_plan(grid, store, name, plan_of, maximum)
    require_fixed(store, name)
    return plan_of(grid)


def next_round(plan: StudyPlan, grid: Grid, analysis: Analysis, plan_of: Planner) -> StudyPlan | None:
    """Return the plan with the runs of the next round added; None if every contrast is decided or has all its seeds."""
    if analysis.growth is None:
        return None
    targets = seeds_to_add(analysis.looked, analysis.growth, analysis.open_arms)
    if not targets:
        return None
    seeds = planned_seeds(plan, grid.compared)
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
    """Return the grid with this number of seeds: its own, then the smallest numbers that are not among them."""
    more = (seed for seed in count() if seed not in grid.seeds)
    seeds = [*grid.seeds, *(next(more) for _ in range(number - len(grid.seeds)))]
    return replace(grid, seeds=tuple(seeds))
