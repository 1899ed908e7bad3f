"""`vitab run --until-decided`: train in rounds until every contrast is decided."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from ablations.commands.base import FAILED, runs_option
from ablations.commands.display import duration, machine_hours, magnitude, say
from ablations.reporting.sequential_text import decision_state, sample_size
from ablations.statistics import analyse
from ablations.statistics.sequential.rounds import Planner, next_round
from ablations.storage import Store, StudyPlan, load_results

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.config import Grid
    from ablations.execution.plan import Arm
    from ablations.execution.resources import ResourcePlan


def train_in_rounds(
    console: "Console",
    store: Store,
    plan: StudyPlan,
    grid: "Grid",
    *,
    plan_of: Planner,
    train: Callable[[StudyPlan, frozenset[str]], None],
) -> None:
    """Train a plan, analyse it, and continue with the next round, until every contrast is decided or at the maximum.

    `train(plan, tried)` trains the unfinished runs of a plan except those tried before. A failed run does not stop a
    round: the analysis uses the complete pairs. Ends the program with exit code 1 if any run failed.
    """
    failed, tried = False, frozenset[str]()
    while True:
        try:
            train(plan, tried)
        except typer.Exit as ended:
            failed = failed or ended.exit_code == FAILED
        tried = frozenset(plan.keys)
        if not any(map(store.done, plan.keys)):
            break
        analysis = analyse(load_results(store, plan.study))
        if analysis.rounds:
            now = [look for look in analysis.rounds if look.round == analysis.rounds[-1].round]
            verdicts = ", ".join(f"{look.arm} {look.verdict}" for look in now)
            say(console, f"round {now[0].round}, {now[0].seeds} seeds: {verdicts}")
        say(console, decision_state(analysis))
        grown = next_round(plan, grid, analysis, plan_of)
        if grown is None:
            size = sample_size(plan, analysis.outcomes.axis)
            say(
                console,
                f"{size.runs} of at most {size.maximum} runs were needed; next: vitab report {plan.study}"
                f"{runs_option(store.root)}",
            )
            break
        plan = grown
    if failed:
        raise typer.Exit(FAILED)


def print_rounds(console: "Console", plan: StudyPlan, arms: "Sequence[Arm]", resources: "ResourcePlan") -> None:
    """Print the rounds of a sequential study, and the cost of all of them."""
    assert plan.design is not None
    looks = plan.design.looks
    console.print()
    say(console, f"rounds: {', '.join(map(str, looks))} seeds per setting, until every contrast is decided")
    runs = len(arms) * plan.design.maximum
    flops = sum(arm.flops for arm in arms) * plan.design.maximum
    line = f"at most {runs} runs: {magnitude(flops)} training FLOPs"
    if all(arm.seconds is not None for arm in arms):
        seconds = sum(arm.seconds or 0.0 for arm in arms) * plan.design.maximum
        line += f", about {duration(seconds / resources.workers)}, {machine_hours(seconds, resources)}"
    say(console, line)
