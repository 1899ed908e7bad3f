"""What `vitab run` and `ablations.run` print about the trials of a tuned study."""

from typing import TYPE_CHECKING

from ablations.commands import display
from ablations.config import count, level_text
from ablations.config.tuning import shown_value, space_text
from ablations.execution.plan import shown_axes
from ablations.storage import Store, StudyPlan, TrialStore, load_trials, read_json
from ablations.tuning import CHANCE, accuracies, lead, may_be_chance, one_image, trials_of, winners

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from ablations.config import RunConfig
    from ablations.config.tuning import Group
    from ablations.execution.plan import Arm
    from ablations.execution.resources import ResourcePlan
    from ablations.tuning import Trial

SAVED = 0.3
"""Expected share of the training that pruning saves in the rounds after the first."""


def print_search(
    console: "Console",
    store: Store,
    plan: StudyPlan,
    base: "RunConfig",
    arms: "Sequence[Arm]",
    resources: "ResourcePlan",
) -> None:
    """Print the cost of the trials of a plan, and of both phases.

    `base` is that of its grid, `arms` are those of its comparison.
    """
    from ablations.reporting.tuning.text import shorter_text

    design, trials = plan.tuning, TrialStore.beside(store)
    assert design is not None
    done = sum(map(trials.done, {run.key for run in plan.trials}))
    to_do = plan.all_trial_runs - done
    length = (design.epochs or base.epochs) / base.epochs  # of a trial, relative to a run of the comparison
    equivalent = to_do / plan.cells * length  # runs of the comparison, of each arm
    flops = equivalent * sum(arm.flops for arm in arms)
    space = ", ".join(f"{field.replace('_', ' ')} {space_text(space)}" for field, space in design.space.items())
    console.print()
    trials_of_each = f"{count(design.trials, 'trial')} of each arm{_at_each(plan)}"
    display.say(console, f"before them, {', '.join(filter(None, (trials_of_each, shorter_text(plan))))}: {space}")
    display.say(
        console, f"{count(plan.all_trial_runs, 'trial run')}, {to_do} to do: {display.magnitude(flops)} training FLOPs"
    )
    times = [arm.seconds for arm in arms]
    if None in times:
        return
    seconds = equivalent * sum(filter(None, times))
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
    trials = trials_of(design, plan.axes, plan.trials, accuracies(found))
    best = winners(trials)
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
    if note := _doubt(store, plan, trials, best):
        display.say(console, note)


def _doubt(store: Store, plan: StudyPlan, trials: "Sequence[Trial]", best: "Mapping[Group, Trial]") -> str:
    """Return how many choices may be chance; empty if none may be."""
    place, configs = TrialStore.beside(store), {run.key: run.config for run in plan.trials}
    sizes = []
    for trial in best.values():
        recorded = (read_json(place.folder(trial.runs[0]) / "environment.json") or {}).get("dataset", {})
        image = one_image(trial, configs[trial.runs[0]], recorded)
        sizes += [image] if may_be_chance(lead(trial, trials), image) else []
    if not sizes:
        return ""
    runs = len(next(iter(best.values())).runs)
    where = f" in one of the {runs} runs of a trial" if runs > 1 else ""
    return (
        f"{len(sizes)} of {count(len(best), 'choice')} {'is' if len(sizes) == 1 else 'are'} ahead of the next trial by "
        f"fewer than {CHANCE} validation images, which can be chance (one{where} is {100 * max(sizes):.2g} points)"
    )
