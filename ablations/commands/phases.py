"""The phases of a study that `vitab run` and `ablations.run` train: trials, then runs, in rounds if it grows."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ablations.storage import Store, StudyPlan

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.config import Grid
    from ablations.statistics.sequential.rounds import Planner


def train_in_phases(
    console: "Console",
    store: Store,
    plan: StudyPlan,
    grid: "Grid",
    *,
    planned: Callable[[], StudyPlan],
    plan_of: "Planner",
    train: Callable[[StudyPlan, frozenset[str]], None],
) -> StudyPlan:
    """Train the trials of a plan round by round, print the choice, and train its runs; return the last plan.

    `planned()` is the plan as far as finished trials allow. `train(plan, tried)` trains the unfinished runs of a plan
    except those tried before.
    """
    while plan.searching:
        train(plan, frozenset())
        plan = planned()
    if plan.tuning is not None:
        from ablations.commands.tune import show_choice

        show_choice(console, store, plan)
    if plan.design is None:
        train(plan, frozenset())
        return plan
    from ablations.commands.until_decided import train_in_rounds

    train_in_rounds(console, store, plan, grid, plan_of=plan_of, train=train)
    return store.read_study(plan.study)
