"""The section on tuning of a report: its texts, tables, facts and CSV files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.config import compared_axis, count, level_text
from ablations.config.safe_text import bold, code, markdown
from ablations.config.tuning import shown_value
from ablations.reporting.figures.figure import ReportFigure
from ablations.reporting.formatting import (
    capital,
    interval_cell,
    interval_text,
    number,
    p_phrase,
    p_text,
    points_text,
)
from ablations.reporting.tables import Strong, Table, word
from ablations.reporting.tuning_analysis import EDGE, Choice, TuningAnalysis
from ablations.reporting.tuning_text import (
    fields_text,
    first_pruned_epoch,
    groups_text,
    intervals_note,
    pairs_differ,
    settings_number,
    space_text,
    spaces_text,
    values_text,
    verb,
)
from ablations.reporting.untuned import ArmChange, UntunedComparison
from ablations.statistics import ALPHA

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
        untuned=_untuned(found, plan),
        untuned_findings=untuned_findings(found.untuned) if found.untuned else [],
        untuned_table=untuned_table(found) if found.compares_leads else None,
        untuned_legend=_untuned_legend(found.untuned) if found.untuned and found.compares_leads else "",
        pruning=_pruning(found),
        limits=limits(found),
    )


def headline(plan: StudyPlan, found: TuningAnalysis) -> str:
    """Return the sentences on tuning of the first screen."""
    text = (
        f"Before the comparison, {markdown(fields_text(found.design))} {verb(found.design)} tuned for each "
        f"{groups_text(plan)}, with {count(found.design.trials, 'trial')} scored on validation images; see "
        "[Tuning](#tuning)."
    )
    if found.on_edge:
        n = len(found.on_edge)
        text += f" {n} of {count(len(found.choices), 'choice')} {'is' if n == 1 else 'are'} at the edge of the space."
    if found.untuned and found.compares_leads:
        text += f" {_verdicts_changed(found.untuned)}"
    return text


def _introduction(plan: StudyPlan, found: TuningAnalysis) -> str:
    done, planned = len(found.runs), len(found.planned)
    runs = count(planned, "run") if done == planned else f"{done} of {count(planned, 'run')}"
    arm, everywhere = word(compared_axis(plan.axes)), found.per_arm and settings_number(plan) > 1
    groups = f"{arm} is compared at all settings" if everywhere else f"{groups_text(plan)} is compared"
    return (
        f"Each {groups} with the values of {markdown(spaces_text(found.design))} "
        f"that gave the highest validation accuracy in {count(found.design.trials, 'trial')} ({runs} in all). "
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
            f"{choice.ahead:.1f}" if math.isfinite(choice.ahead) else "–",
            _percent(choice.compared),
        )
        for choice in found.choices
    ]
    header = ["score in %", "ahead of the next", "comparison in %"]
    return Table([*map(word, axes), *map(word, found.design.space), *header], rows, left=len(axes))


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
    return (
        "*Score*: validation accuracy of the chosen trial. *Ahead of the next*: its lead over the next best trial, in "
        "points; where it is small, chance may have chosen. *Comparison*: mean validation accuracy of the runs of the "
        f"comparison, which have the same values and other seeds.{optimism}{edge}"
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
        f"{word(field)}, {end} end ({space_text(found.design.space[field])}): "
        f"{'; '.join(choice.name for choice in choices)}"
        for (field, end), choices in by_end.items()
    ]
    return (
        f"{len(found.on_edge)} of {count(len(found.choices), 'choice')} {'is' if len(found.on_edge) == 1 else 'are'} "
        "at the edge of the space. "
        f"{capital('. '.join(parts))}. "
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


def _untuned(found: TuningAnalysis, plan: StudyPlan) -> str:
    untuned = found.untuned
    if untuned is None:
        return (
            "No study in this folder of runs makes the same comparison at shared values, so it is unknown how much of "
            "each difference is tuning. To train one, run the first command of [Reproduce this "
            "study](#reproduce-this-study) without the search, with another name for the study; then write this "
            "report again."
        )
    shared = markdown(values_text(untuned.values))
    start = f"Study {code(untuned.study)} makes the same comparison at shared values: {shared}."
    if untuned.conflicts:
        return (
            f"{start} Its runs cannot be compared with those of this study: {markdown('; '.join(untuned.conflicts))}."
        )
    if not untuned.blocks:
        return f"{start} No block of this study and of that one has finished yet."
    settings = "setting and seed" if _cell_axes(plan) else "seed"
    fewest = min(each.gain.n for each in untuned.arms)
    text = (
        f"{start} Runs of an arm in both with the same {settings} form a pair: they share the data split, the order of "
        f"the images and the initial weights{', as far as the tuned fields allow' * pairs_differ(found.design)}. There "
        f"are {f'{fewest} to ' * (fewest < untuned.blocks)}{count(untuned.blocks, 'such pair')} for each arm."
    )
    fewer, more = sorted(untuned.seeds)
    if fewer != more:
        text += (
            f" Verdicts are those of each whole study, with {untuned.seeds[0]} seeds at shared values and "
            f"{untuned.seeds[1]} tuned; they may also differ for this reason."
        )
    elif not untuned.complete:
        text += (
            " Verdicts are those of each whole study. Not all runs have finished: they may also differ for this reason."
        )
    return text


def _cell_axes(plan: StudyPlan) -> list[str]:
    return [axis for axis, levels in plan.axes.items() if len(levels) > 1 and axis != compared_axis(plan.axes)]


def untuned_findings(untuned: UntunedComparison) -> list[str]:
    """Return what tuning changed, as sentences of markdown."""
    if not untuned.arms or not untuned.blocks:
        return []
    baseline = next(each for each in untuned.arms if each.change is None)
    found = [f"{_verdicts_changed(untuned)}"] if len(untuned.arms) > 1 else []
    if baseline.gain.n:
        found.append(
            f"Tuning changes the mean test accuracy of the baseline {bold(baseline.arm)} by "
            f"{points_text(baseline.gain.mean)} points{_interval(baseline.gain.low, baseline.gain.high, untuned)}."
        )
    clear = [each for each in untuned.arms if each.change and each.change.change.p_adjusted <= ALPHA]
    if untuned.sequential or len(untuned.arms) < 2:
        return found
    for each in clear:
        change = each.change
        assert change is not None
        found.append(
            f"Tuning changes the difference between {bold(each.arm)} and {bold(baseline.arm)}, from "
            f"{points_text(change.from_lead)} to {points_text(change.lead)} points: a change of "
            f"{points_text(change.change.mean)} points{_interval(change.change.low, change.change.high, untuned)}; "
            f"joint {p_phrase(change.change.p_adjusted)}."
        )
    if not clear:
        found.append("For no arm is it shown that tuning changes its difference from the baseline.")
    return found


def _interval(low: float, high: float, untuned: UntunedComparison) -> str:
    if untuned.sequential or not math.isfinite(low) or low == high:
        return ""
    return f" (95 % interval {interval_text(low, high)})"


def _verdicts_changed(untuned: UntunedComparison) -> str:
    changed = untuned.changed
    if not changed:
        return f"No verdict differs from that at shared values (study {code(untuned.study)})."
    parts = [f"{bold(each.arm)} is {each.tuned_verdict}, at shared values {each.shared_verdict}" for each in changed]
    verb = "differs" if len(changed) == 1 else "differ"
    return (
        f"{len(changed)} of {count(len(untuned.arms) - 1, 'verdict')} {verb} from that at shared values (study "
        f"{code(untuned.study)}): {'; '.join(parts)}."
    )


def untuned_table(found: TuningAnalysis) -> Table:
    """Return for each arm what tuning gains, and its difference from the baseline at shared values and tuned."""
    untuned = found.untuned
    assert untuned is not None
    tests = [] if untuned.sequential else ["95 % interval", "joint p"]
    header = [
        "arm",
        "gain",
        "difference, shared",
        "difference, tuned",
        "change",
        *tests,
        "verdict, shared",
        "verdict, tuned",
    ]
    return Table(header, [_untuned_row(each, bool(tests)) for each in untuned.arms])


def _untuned_row(each: ArmChange, tested: bool) -> tuple[object, ...]:
    gain = _points(each.gain.mean)
    if each.change is None:
        return (each.arm, gain, "baseline", *["–"] * (4 + 2 * tested))
    change = each.change.change
    tests = (interval_cell(change.low, change.high), p_text(change.p_adjusted)) if tested else ()
    verdicts = str(each.shared_verdict), str(each.tuned_verdict)
    shown = (verdicts[0], Strong(verdicts[1]) if each.verdict_changed else verdicts[1])
    return (
        each.arm,
        gain,
        _points(each.change.from_lead),
        _points(each.change.lead),
        _points(change.mean),
        *tests,
        *shown,
    )


def _points(value: float) -> str:
    return points_text(value) if math.isfinite(value) else "–"


def _untuned_legend(untuned: UntunedComparison) -> str:
    tests = (
        " One of the studies grew in rounds, so there is no interval and no test of the change."
        if untuned.sequential
        else " *Joint p*: of all changes together, as for changes along an axis."
    )
    return (
        "In percentage points of test accuracy, over the pairs that both studies have finished. *Gain*: the arm with "
        "its own values minus itself at the shared ones. *Difference*: from the baseline, at the shared values and "
        "tuned. *Change*: the second minus the first, so the part of the difference that is due to tuning, with these "
        f"chosen values.{tests} Verdicts that differ are bold; that a verdict differs does not show that tuning "
        "changed the difference, only *change* can."
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
    found_limits = [
        f"The best of {trials} noisy scores is partly luck, so the scores of the chosen trials are too high.{optimism} "
        "The test accuracies of the comparison are not biased by this: its seeds and the test images took no part in "
        "the choice. But a lucky trial can win over a better one, so an arm may be below its best.",
        intervals_note(found.design),
        "The budget and the space are the same for all arms. An arm whose accuracy depends more on these values gains "
        "more from it, and one with its best values outside of the space cannot show them.",
    ]
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
    trials = trials.assign(position=trials["position"].map(level_text))
    choices = pd.DataFrame([_choice_row(found, choice) for choice in found.choices])
    made = {"choices": choices, "trials": trials}
    if found.untuned and found.compares_leads:
        made["untuned"] = pd.DataFrame([_change_row(each) for each in found.untuned.arms])
    return made


def _choice_row(found: TuningAnalysis, choice: Choice) -> dict[str, Any]:
    return {
        **{axis: level_text(level) for axis, level in choice.levels.items()},
        **choice.values,
        "trial": choice.winner.number if choice.winner else None,
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
    minutes = f"{found.seconds / 60:,.1f} minutes" if found.seconds >= 120 else f"{found.seconds:,.0f} seconds"
    return (
        f"The trials took {found.flops / 1e12:,.2f} TFLOPs of training and {minutes} of run time before, "
        f"{100 * found.share_of_flops:.0f} % of all training FLOPs."
    )
