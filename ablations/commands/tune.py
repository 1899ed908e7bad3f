"""What `vitab run` and `ablations.run` print about the trials of a tuned study."""

from typing import TYPE_CHECKING

from ablations.commands import display
from ablations.config import count, level_text
from ablations.config.tuning import shown_value, space_text
from ablations.execution.plan import shown_axes
from ablations.storage import Store, StudyPlan, TrialStore, load_trials
from ablations.tuning import accuracies, trials_of, winners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ablations.execution.plan import Arm
    from ablations.execution.resources import ResourcePlan

SAVED = 0.3
"""Expected share of the training that pruning saves in the rounds after the first."""


def print_search(
    console: "Console", store: Store, plan: StudyPlan, arms: "Sequence[Arm]", resources: "ResourcePlan"
) -> None:
    """Print the cost of the trials of a plan, and of both phases. `arms` are those of its comparison."""
    design, trials = plan.tuning, TrialStore.beside(store)
    assert design is not None
    done = sum(map(trials.done, {run.key for run in plan.trials}))
    to_do, each = plan.all_trial_runs - done, design.trials * design.seeds
    share = to_do / plan.all_trial_runs
    flops = share * each * sum(arm.flops for arm in arms)
    space = ", ".join(f"{field.replace('_', ' ')} {space_text(space)}" for field, space in design.space.items())
    console.print()
    display.say(console, f"before them, {count(design.trials, 'trial')} of each arm{_at_each(plan)}: {space}")
    display.say(
        console, f"{count(plan.all_trial_runs, 'trial run')}, {to_do} to do: {display.magnitude(flops)} training FLOPs"
    )
    times = [arm.seconds for arm in arms]
    if None in times:
        return
    seconds = share * each * sum(filter(None, times))
    pruned = seconds * (1 - SAVED * (1 - design.rounds[0] / design.trials) if design.prunes else 1)
    both = pruned + sum(arm.to_do * (arm.seconds or 0.0) for arm in arms)
    workers = count(resources.workers, "worker")
    line = f"about {display.duration(pruned / resources.workers)} with {workers}"
    if design.prunes:
        line += f" (without pruning {display.duration(seconds / resources.workers)})"
    display.say(console, line)
    display.say(
        console,
        f"in all about {display.duration(both / resources.workers)} with {workers}, "
        f"{display.machine_hours(both, resources)}",
    )


def _at_each(plan: StudyPlan) -> str:
    assert plan.tuning is not None
    return " at each setting" if plan.tuning.per == "setting" and len(shown_axes(plan)) > 1 else ""


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
            str(trial.number + 1),
        )
    display.say(console, f"tuned by {len(found)} trial runs:")
    console.print(rows)
