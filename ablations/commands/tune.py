"""The trials of a tuned study, which `vitab run` and `ablations.run` train before the comparison."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ablations.commands import display
from ablations.config import level_text
from ablations.config.tuning import shown_value
from ablations.execution.plan import shown_axes
from ablations.storage import Store, StudyPlan, TrialStore, load_trials
from ablations.tuning import accuracies, trials_of, winners

if TYPE_CHECKING:
    from rich.console import Console


def train_trials(
    console: "Console",
    store: Store,
    plan: StudyPlan,
    *,
    planned: Callable[[], StudyPlan],
    train: Callable[[StudyPlan], object],
) -> StudyPlan:
    """Train the trials of a tuned plan, round by round, and return the plan with the runs of the comparison.

    `planned()` returns the plan as far as finished trials allow; `train(plan)` trains what it lacks, and does not
    return if a run failed.
    """
    while plan.searching:
        train(plan)
        plan = planned()
    show_choice(console, store, plan)
    return plan


def show_choice(console: "Console", store: Store, plan: StudyPlan) -> None:
    """Print the values that each arm has chosen."""
    design = plan.tuning
    assert design is not None
    found = load_trials(TrialStore.beside(store), plan.trials)
    best = winners(trials_of(design, plan.axes, plan.trials, accuracies(found)))
    names, numbers = design.group_axes(plan.axes), ("validation", "trial")
    shown = [axis for axis in names if axis in shown_axes(plan)]
    fields = [*design.space]
    rows = display.table(
        *(name.replace("_", " ") for name in (*shown, *fields)),
        *numbers,
        right=(*numbers, *(f.replace("_", " ") for f in fields)),
    )
    for group, trial in best.items():
        levels = dict(zip(names, group, strict=True))
        display.add_row(
            rows,
            *(level_text(levels[axis]) for axis in shown),
            *(shown_value(trial.values[field]) for field in fields),
            f"{trial.score:.1%}",
            str(trial.number),
        )
    display.say(console, f"tuned by {len(found)} trial runs:")
    console.print(rows)
