"""The section on tuning of a report: its texts, tables, facts and CSV files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.config import compared_axis, count, level_text
from ablations.config.safe_text import markdown
from ablations.config.tuning import shown_value
from ablations.reporting.figures.figure import ReportFigure
from ablations.reporting.formatting import (
    capital,
    number,
    points_text,
    time_text,
)
from ablations.reporting.tables import Table, word
from ablations.reporting.tuning.analysis import EDGE, Choice, TuningAnalysis
from ablations.reporting.tuning.text import (
    fields_text,
    first_pruned_epoch,
    groups_text,
    intervals_note,
    settings_number,
    space_text,
    spaces_text,
    trials_text,
    verb,
)
from ablations.reporting.tuning.untuned import ArmChange
from ablations.reporting.tuning.untuned_text import (
    untuned_findings,
    untuned_introduction,
    untuned_legend,
    untuned_table,
    verdicts_changed,
)
from ablations.tuning import CHANCE

if TYPE_CHECKING:
    from ablations.storage import Results, StudyPlan

MOST_ROWS = 20
"""Most choices of a table that is not folded."""
FEW_SEEDS = 3
"""Seeds of a trial below which its score is called uncertain."""


@dataclass(frozen=True)
class TuningSection:
    """What the section on tuning shows."""

    introduction: str
    choices: Table
    folded: str
    """Summary of the folded table of choices; empty if it is not folded."""
    legend: str
    edge: str
    """Which choices are at the edge of the space; empty if none is."""
    disagreement: str
    """That the stored trials give other choices; empty if they do not."""
    conflicts: str
    """That trials and comparison were trained with different code or data; empty if they were not."""
    about_figures: str
    figures: Sequence[ReportFigure]
    further: Sequence[ReportFigure]
    """Figures of further settings, folded."""
    untuned: str
    untuned_findings: Sequence[str]
    untuned_table: Table | None
    untuned_legend: str
    pruning: str
    limits: Sequence[str]


def tuning_section(results: Results, found: TuningAnalysis, figures: Sequence[ReportFigure]) -> TuningSection:
    plan, first = results.plan, len(found.design.space)
    return TuningSection(
        introduction=_introduction(plan, found),
        choices=choices_table(found),
        folded=f"The {len(found.choices)} choices" if len(found.choices) > MOST_ROWS else "",
        legend=_legend(found),
        edge=edge_note(found),
        disagreement=_disagreement(found),
        conflicts="; ".join(found.conflicts),
        about_figures=_about_figures(found),
        figures=figures[:first],
        further=figures[first:],
        untuned=untuned_introduction(found, plan),
        untuned_findings=untuned_findings(found.untuned) if found.untuned else [],
        untuned_table=untuned_table(found) if found.compares_leads else None,
        untuned_legend=untuned_legend(found.untuned) if found.untuned and found.compares_leads else "",
        pruning=_pruning(found),
        limits=limits(found),
    )


def headline(plan: StudyPlan, found: TuningAnalysis) -> str:
    """Return the sentences on tuning of the first screen."""
    text = (
        f"Before the comparison, {markdown(fields_text(found.design))} {verb(found.design)} tuned for each "
        f"{groups_text(plan)}, with {trials_text(plan)} scored on validation images; see [Tuning](#tuning)."
    )
    if found.on_edge:
        n = len(found.on_edge)
        text += f" {n} of {count(len(found.choices), 'choice')} {'is' if n == 1 else 'are'} at the edge of the space."
    if found.untuned and found.compares_leads:
        text += f" {verdicts_changed(found.untuned)}"
    return text


def _introduction(plan: StudyPlan, found: TuningAnalysis) -> str:
    done, planned = len(found.runs), len(found.planned)
    runs = count(planned, "run") if done == planned else f"{done} of {count(planned, 'run')}"
    arm, everywhere = word(compared_axis(plan.axes)), found.per_arm and settings_number(plan) > 1
    groups = f"{arm} is compared at all settings" if everywhere else f"{groups_text(plan)} is compared"
    return (
        f"Each {groups} with the values of {markdown(spaces_text(found.design))} "
        f"that gave the highest validation accuracy in {trials_text(plan)} ({runs} in all). "
        "[Method](#method) has the protocol."
    )


def choices_table(found: TuningAnalysis) -> Table:
    """Return the chosen values of each arm and setting, with the validation accuracies behind the choice."""
    axes = list(found.choices[0].levels)
    rows = [
        (
            *(level_text(level) for level in choice.levels.values()),
            *(shown_value(value) + " (edge)" * (field in choice.edges) for field, value in choice.values.items()),
            _percent(choice.score),
            _ahead(choice),
            _percent(choice.compared),
        )
        for choice in found.choices
    ]
    header = ["score in %", "ahead of the next", "comparison in %"]
    return Table([*map(word, axes), *map(word, found.design.space), *header], rows, left=len(axes))


def _ahead(choice: Choice) -> str:
    if not math.isfinite(choice.ahead):
        return "–"
    images = f" ({count(round(choice.ahead / choice.image), 'image')})" if choice.may_be_chance else ""
    return f"{choice.ahead:.1f}{images}"


def _percent(value: float) -> str:
    return number(value) if math.isfinite(value) else "–"


def _legend(found: TuningAnalysis) -> str:
    edge = (
        f" *(edge)*: no trial of the {'arm' if len(found.choices[0].levels) == 1 else 'arm and setting'} has a value "
        f"beyond it, or it lies within {100 * EDGE:.0f} % of the width of the space from an end."
        if found.on_edge
        else ""
    )
    optimism = (
        f" On average the score differs from it by {points_text(found.optimism)} points."
        if math.isfinite(found.optimism)
        else ""
    )
    others = " and other seeds" if found.design.epochs is None else ", other seeds and more epochs"
    return (
        "*Score*: validation accuracy of the chosen trial. *Ahead of the next*: its lead over the next best trial, in "
        f"points; {_chance(found)}. *Comparison*: mean validation accuracy of the runs of the comparison, which have "
        f"the same values{others}.{optimism}{edge}"
    )


def _chance(found: TuningAnalysis) -> str:
    """Return which leads may be chance, as a clause."""
    sizes = [choice.image for choice in found.choices if math.isfinite(choice.image)]
    if not sizes:
        return "where it is small, chance may have chosen"
    size = " to ".join(dict.fromkeys(f"{value:.2g}" for value in (min(sizes), max(sizes))))
    runs = max(len(trial.runs) for trial in found.trials)
    where = f" in one of the {runs} runs of a trial" if runs > 1 else ""
    return (
        f"one validation image{where} is {size} points, and fewer than {CHANCE} images can be chance even if both "
        "trials are right about the same images otherwise"
    )


def edge_note(found: TuningAnalysis) -> str:
    """Return which choices are at the edge of the space, by field and end; empty if none is."""
    by_end: dict[tuple[str, str], list[Choice]] = {}
    for choice in found.on_edge:
        for field, end in choice.edges.items():
            by_end.setdefault((field, end), []).append(choice)
    if not by_end:
        return ""
    parts = [
        f"{capital(word(field))}, {end} end ({space_text(found.design.space[field])}): "
        f"{'; '.join(choice.name for choice in choices)}"
        for (field, end), choices in by_end.items()
    ]
    return (
        f"{len(found.on_edge)} of {count(len(found.choices), 'choice')} {'is' if len(found.on_edge) == 1 else 'are'} "
        "at the edge of the space. "
        f"{'. '.join(parts)}. "
        "Better values may lie beyond, where the field has an effect: a wider space would show it."
    )


def _about_figures(found: TuningAnalysis) -> str:
    text = (
        "An arm whose dots fall steeply beside the chosen one needs its own value; one whose dots are level does not."
    )
    if len(found.design.space) > 1:
        text += " Trials differ in all tuned fields at once, so a low dot may be due to another field."
    return text


def _disagreement(found: TuningAnalysis) -> str:
    if not found.disagreeing:
        return ""
    names = "; ".join(choice.name for choice in found.disagreeing)
    return (
        f"The trials that are stored do not give the values of the comparison for {names}: they were chosen from other "
        "trials, or some are no longer stored"
    )


def _pruning(found: TuningAnalysis) -> str:
    """Return what pruning saved, and whether it could have changed a choice; empty without pruning."""
    if found.design.prune == "none":
        return ""
    runs, pruned, trials = len(found.runs), len(found.pruned), len(found.pruned_trials)
    if not pruned:
        return f"No run of {runs} was pruned."
    text = (
        f"{pruned} of {count(runs, 'run')} were pruned, in {trials} of {count(len(found.trials), 'trial')}, which "
        f"saved {100 * found.saved:.0f} % of the training FLOPs of the search. "
    )
    if not found.knows_curves:
        return f"{text}Whether it changed a choice is unknown: the accuracies after each epoch are not stored."
    best = "the best run of the same arm, setting and seed that was no better after that epoch and was not pruned"
    if not found.possible_winners:
        return (
            f"{text}Pruning can hardly have changed a choice: no pruned trial would have won if it had ended as "
            f"{best}. Only training them to the end could show it."
        )
    names = "; ".join(dict.fromkeys(choice.name for choice, _ in found.possible_winners))
    one = len(found.possible_winners) == 1
    return (
        f"{text}Pruning may have changed a choice: {count(len(found.possible_winners), 'pruned trial')} would have won "
        f"if {'it' if one else 'they'} had ended as {best} ({markdown(names)})."
    )


def limits(found: TuningAnalysis) -> list[str]:
    """Return what the reader of a tuned comparison should bear in mind."""
    trials, seeds = found.design.trials, found.design.seeds
    optimism = ""
    if math.isfinite(found.optimism):
        optimism = (
            f" Here they differ on average by {points_text(found.optimism)} points from the validation accuracies of "
            "the comparison, by this luck and because its other seeds have other validation images."
        )
    own = "" if found.design.epochs is None else " for trainings of their length"
    found_limits = [
        f"The best of {trials} noisy scores is partly luck, so the scores of the chosen trials are too high{own}."
        f"{optimism} The test accuracies of the comparison are not biased by this: its seeds and the test images took "
        "no part in the choice. But a lucky trial can win over a better one, so an arm may be below its best.",
        intervals_note(found.design),
        "The budget and the space are the same for all arms. An arm whose accuracy depends more on these values gains "
        "more from it, and one with its best values outside of the space cannot show them.",
    ]
    if found.design.epochs is not None:
        found_limits.append(
            "Trials have fewer epochs than the runs of the comparison. What is best in a short training need not be "
            "best in a longer one."
        )
    if doubtful := sum(choice.may_be_chance for choice in found.choices):
        found_limits.append(
            f"{doubtful} of {count(len(found.choices), 'choice')} {'is' if doubtful == 1 else 'are'} ahead of the next "
            f"trial by fewer than {CHANCE} validation images, which can be chance. More validation images or more "
            "seeds of each trial make choices better."
        )
    if seeds < FEW_SEEDS:
        found_limits.append(
            f"Each trial has {count(seeds, 'seed')}, so its score has much of the noise between seeds. A choice that "
            "is ahead of the next by little may be any of the best trials."
        )
    return found_limits


def tuning_frames(results: Results, found: TuningAnalysis) -> dict[str, pd.DataFrame]:
    """Return the CSV files: every run of a trial, the choices, and the comparison at shared values."""
    axes = [axis for axis, levels in found.axes.items() if len(levels) > 1]
    fields = list(found.design.space)
    columns = ["key", *dict.fromkeys(["position", *axes, "seed"]), "trial", "round", *fields]
    columns += ["validation_accuracy", "trained_epochs", "pruned", "diverged", "flops", "train_seconds", "seconds"]
    trials = found.runs[columns].reset_index(drop=True)
    trials = trials.assign(  # numbered from 1, as on the terminal
        position=trials["position"].map(level_text), trial=trials["trial"] + 1, round=trials["round"] + 1
    )
    choices = pd.DataFrame([_choice_row(found, choice) for choice in found.choices])
    made = {"choices": choices, "trials": trials}
    if found.untuned and found.compares_leads:
        made["untuned"] = pd.DataFrame([_change_row(each) for each in found.untuned.arms])
    return made


def _choice_row(found: TuningAnalysis, choice: Choice) -> dict[str, Any]:
    return {
        **{axis: level_text(level) for axis, level in choice.levels.items()},
        **choice.values,
        "trial": choice.winner.number + 1 if choice.winner else None,
        "validation_accuracy": choice.score,
        "ahead": choice.ahead,
        "validation_accuracy_compared": choice.compared,
        "optimism": choice.optimism,
        "at_edge": ", ".join(f"{field} {end}" for field, end in choice.edges.items()),
        "trials": len(choice.trials),
        "pruned": sum(found.state(trial) == "pruned" for trial in choice.trials),
        "diverged": sum(found.state(trial) == "diverged" for trial in choice.trials),
    }


def _change_row(each: ArmChange) -> dict[str, Any]:
    row: dict[str, Any] = {
        "arm": each.arm,
        "gain": each.gain.mean,
        "gain_low": each.gain.low,
        "gain_high": each.gain.high,
    }
    row |= {"blocks": each.gain.n}
    if each.change is None:
        return row
    change = each.change.change
    return row | {
        "difference_shared": each.change.from_lead,
        "difference_tuned": each.change.lead,
        "change": change.mean,
        "low": change.low,
        "high": change.high,
        "p": change.p,
        "p_joint": change.p_adjusted,
        "verdict_shared": str(each.shared_verdict),
        "verdict_tuned": str(each.tuned_verdict),
        "runs": " ".join(key[:16] for key in change.runs),
    }


def tuning_facts(plan: StudyPlan, found: TuningAnalysis) -> dict[str, Any]:
    """Return the numbers of the texts, by name."""
    design, untuned = found.design, found.untuned
    facts: dict[str, Any] = {
        "tuning_trials": design.trials,
        "tuning_seeds": ", ".join(map(str, design.trial_seeds)),
        "tuning_seeds_per_trial": design.seeds,
        "tuning_epochs": design.epochs,
        "tuning_per": design.per,
        "tuning_sampler": design.sampler,
        "tuning_prune": design.prune,
        "tuning_prune_first_epoch": first_pruned_epoch(plan),
        "tuning_rounds": ", ".join(map(str, design.rounds)),
        **{f"tuning_space_{field}": space_text(space) for field, space in design.space.items()},
        "tuning_choices": len(found.choices),
        "tuning_choices_at_edge": len(found.on_edge),
        "tuning_edge": EDGE,
        "tuning_runs_planned": len(found.planned),
        "tuning_runs_finished": len(found.runs),
        "tuning_teraflops": found.flops / 1e12,
        "tuning_run_minutes": found.seconds / 60,
        "tuning_share_of_flops": found.share_of_flops,
        "tuning_optimism": found.optimism if math.isfinite(found.optimism) else None,
    }
    facts |= {f"tuning_mixed_{i}": clause for i, clause in enumerate(found.conflicts, start=1)}
    if design.prune != "none":
        facts |= {
            "tuning_runs_pruned": len(found.pruned),
            "tuning_trials_pruned": len(found.pruned_trials),
            "tuning_trials_planned": len(found.trials),
            "tuning_share_saved": found.saved,
            "tuning_possible_winners": len(found.possible_winners),
        }
    if untuned:
        facts |= {"untuned_study": untuned.study, "untuned_seeds": untuned.seeds[0], "untuned_blocks": untuned.blocks}
        facts |= {f"untuned_{field}": shown_value(value) for field, value in untuned.values.items()}
        facts |= {"untuned_verdicts": len(untuned.arms) - 1, "untuned_verdicts_changed": len(untuned.changed)}
    return {name: value for name, value in facts.items() if value is not None}


def totals(found: TuningAnalysis) -> str:
    """Return what the trials took."""
    return (
        f"The trials took {found.flops / 1e12:,.2f} TFLOPs of training and {time_text(found.seconds)} of run time "
        "before, "
        f"{100 * found.share_of_flops:.0f} % of all training FLOPs."
    )
