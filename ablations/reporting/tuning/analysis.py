"""What the trials of a tuned study say: the choice of each group, its edges, pruning, and the cost of the search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablations.config import FIELDS, Range, TuningDesign, compared_axis, name_level
from ablations.config.run_config import RULES
from ablations.config.tuning import Group, Values, shown_value
from ablations.reporting.formatting import listed
from ablations.reporting.tuning.untuned import UntunedComparison, compare_with_untuned, find_untuned
from ablations.statistics import Analysis, FloatArray
from ablations.storage import TrialStore, version_conflicts
from ablations.tuning import Trial, accuracies, lead, may_be_chance, one_image, trials_of

if TYPE_CHECKING:
    from ablations.storage import Results, Store, TrialRun

EDGE = 0.05
"""Share of the width of a space, in the logarithm where it is logarithmic, within which a value is at its end."""
NO_CURVE: FloatArray = np.array([])


@dataclass(frozen=True)
class Choice:
    """The values that a group is compared with, and the trials behind them; accuracies are in percent."""

    group: Group
    levels: Mapping[str, Any]
    """Levels of the axes that vary and that the group has one level of, the compared axis first."""
    values: Values
    trials: tuple[Trial, ...]
    winner: Trial | None
    """None if no stored trial has the values."""
    ahead: float
    """Validation accuracy of the winner minus that of the next best trial, in points; NaN if there is none."""
    image: float
    """By how many points one validation image in one of its runs changes the score of a trial; NaN if not known."""
    compared: float
    """Mean validation accuracy of the finished runs of the comparison."""
    optimism: float
    """Validation accuracy of the winner minus that of the runs of the comparison, in points; NaN if these have more
    epochs."""
    edges: Mapping[str, str]
    """"low" or "high" by the fields whose value is at the edge of the space."""

    @property
    def name(self) -> str:
        return ", ".join(name_level(axis, level) for axis, level in self.levels.items())

    @property
    def score(self) -> float:
        """Validation accuracy of the winner."""
        return 100 * self.winner.score if self.winner else math.nan

    @property
    def may_be_chance(self) -> bool:
        """Whether the winner is ahead by too few validation images to tell it from the next best trial."""
        return may_be_chance(self.ahead, self.image)


@dataclass(frozen=True, eq=False)
class TuningAnalysis:
    """The trials of a study and what follows from them."""

    design: TuningDesign
    axes: Mapping[str, tuple[Any, ...]]
    planned: tuple[TrialRun, ...]
    runs: pd.DataFrame
    """The finished runs of the trials."""
    curves: Mapping[str, FloatArray]
    """Validation accuracy after each epoch, by key."""
    choices: Sequence[Choice]
    """By arm, then by setting."""
    compared_flops: float
    untuned: UntunedComparison | None
    """The same comparison at shared values; None without such a study."""
    conflicts: Sequence[str] = ()
    """In which versions of code and data the runs of the trials and of the comparison differ."""

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The finished runs of the trials by key."""
        return {
            str(row["key"]): {str(name): value for name, value in row.items()} for row in self.runs.to_dict("records")
        }

    @cached_property
    def _alike(self) -> dict[str, tuple[Any, ...]]:
        """What runs of the same arm, setting and seed have in common, by key."""
        return {run.key: tuple(getattr(run.config, name) for name in (*self.axes, "seed")) for run in self.planned}

    @property
    def per_arm(self) -> bool:
        return self.design.per == "arm"

    @property
    def trials(self) -> list[Trial]:
        return [trial for choice in self.choices for trial in choice.trials]

    @property
    def on_edge(self) -> list[Choice]:
        return [choice for choice in self.choices if choice.edges]

    @property
    def disagreeing(self) -> list[Choice]:
        """The choices that do not follow from the stored trials: another one is better, or none has the values."""
        return [choice for choice in self.choices if choice.winner is None or choice.ahead < 0]

    @property
    def compares_leads(self) -> bool:
        """Whether there are differences from the baseline to compare with those at shared values."""
        return self.untuned is not None and len(self.untuned.arms) > 1

    @property
    def optimism(self) -> float:
        """Mean over the choices, in points; NaN if it is known for none."""
        known = [choice.optimism for choice in self.choices if math.isfinite(choice.optimism)]
        return float(np.mean(known)) if known else math.nan

    @property
    def flops(self) -> float:
        return float(self.runs["flops"].sum())

    @property
    def seconds(self) -> float:
        return float(self.runs["seconds"].sum())

    @property
    def share_of_flops(self) -> float:
        """FLOPs of the trials over those of trials and comparison."""
        return self.flops / ((self.flops + self.compared_flops) or 1.0)

    @property
    def pruned(self) -> list[dict[str, Any]]:
        """The runs that were pruned."""
        return [row for row in self.rows.values() if row["pruned"]]

    @property
    def pruned_trials(self) -> list[Trial]:
        """The trials of which a run was pruned."""
        return [trial for trial in self.trials if self.state(trial) == "pruned"]

    @property
    def saved(self) -> float:
        """FLOPs that pruning saved over those of all trials without it."""
        saved = sum(row["flops"] * (row["epochs"] / row["trained_epochs"] - 1) for row in self.pruned)
        return saved / ((self.flops + saved) or 1.0)

    @property
    def knows_curves(self) -> bool:
        """Whether the validation accuracy after each epoch is known, which `possible_winners` needs."""
        return all(key in self.curves for key in self.rows)

    @cached_property
    def possible_winners(self) -> list[tuple[Choice, Trial]]:
        """Pruned trials that could have won, with their choices.

        Each would have won if its pruned runs had ended as the best run of the same arm, setting and seed did that was
        no better after the same epoch and was trained to the end.
        """
        return [
            (choice, trial)
            for choice in self.choices
            for trial in choice.trials
            if self.state(trial) == "pruned" and self._potential(trial) >= choice.score / 100
        ]

    def state(self, trial: Trial) -> str:
        """Return `finished`, `pruned`, `diverged` or `not finished`."""
        found = [self.rows.get(key) for key in trial.runs]
        if any(row and row["pruned"] for row in found):
            return "pruned"
        if None in found:
            return "not finished"
        return "diverged" if any(row and row["diverged"] for row in found) else "finished"

    def reached(self, trial: Trial) -> float:
        """Return the mean validation accuracy of its finished runs at their last epoch, in percent; NaN if none is."""
        found = [self.rows[key]["validation_accuracy"] for key in trial.runs if key in self.rows]
        return 100 * float(np.mean(found)) if found else math.nan

    def _potential(self, trial: Trial) -> float:
        """Return the score that a pruned trial would have if its runs had ended as well as others did."""
        rows = [self.rows[key] for key in trial.runs if key in self.rows]
        return float(np.mean([self._best_end(row) if row["pruned"] else row["validation_accuracy"] for row in rows]))

    def _best_end(self, pruned: Mapping[str, Any]) -> float:
        """Return the best accuracy of the whole runs that were no better after the epoch in which this one ended."""
        reached, epoch = pruned["validation_accuracy"], pruned["pruned"]
        whole = [
            self.curves.get(key, NO_CURVE)
            for key, row in self.rows.items()
            if not row["pruned"] and not row["diverged"] and self._alike[key] == self._alike[pruned["key"]]
        ]
        ends = [float(curve[-1]) for curve in whole if curve.size >= epoch and curve[epoch - 1] <= reached]
        return max([reached, *ends])


@dataclass(frozen=True)
class TuningSources:
    """What a report on a tuned study needs besides its results."""

    untuned: Results | None = None
    """The same comparison at shared values (`find_untuned`)."""
    curves: Mapping[str, FloatArray] = field(default_factory=dict)
    """Validation accuracy of the runs of the trials after each epoch, by key; only of trials that can be pruned."""
    conflicts: Sequence[str] = ()
    """In which versions of code and data the runs of the trials and of the comparison differ."""


def tuning_sources(store: Store, results: Results) -> TuningSources:
    """Return what is stored besides the results of a study that a report on it needs; nothing if it is not tuned."""
    if results.plan.tuning is None or results.trials is None:
        return TuningSources()
    trials, curves, keys = TrialStore.beside(store), {}, list(map(str, results.trials["key"]))
    if results.plan.tuning.prune != "none":
        for key in keys:
            curves[key] = np.array([epoch["validation_accuracy"] for epoch in trials.metrics(key)])
    searched = replace(results, runs=results.trials, environments={key: trials.environment(key) for key in keys})
    return TuningSources(find_untuned(store, results), curves, version_conflicts(results, searched))


def analyse_tuning(results: Results, analysis: Analysis, sources: TuningSources | None = None) -> TuningAnalysis | None:
    """Return what the trials of a study say, and how it compares with the same study untuned; None if not tuned."""
    sources = sources or TuningSources()
    plan, design = results.plan, results.plan.tuning
    if design is None:
        return None
    assert results.trials is not None
    found: dict[Group, list[Trial]] = {}
    for trial in trials_of(design, plan.axes, plan.trials, accuracies(results.trials)):
        found.setdefault(trial.group, []).append(trial)
    finished = {*results.trials["key"]}
    return TuningAnalysis(
        design=design,
        axes=plan.axes,
        planned=plan.trials,
        runs=results.trials,
        curves=sources.curves,
        choices=_choices(results, design, found, finished),
        compared_flops=float(results.runs["flops"].sum()),
        untuned=compare_with_untuned(results, analysis, sources.untuned) if sources.untuned is not None else None,
        conflicts=sources.conflicts,
    )


def _choices(
    results: Results, design: TuningDesign, found: Mapping[Group, Sequence[Trial]], finished: set[str]
) -> list[Choice]:
    plan = results.plan
    compared, own = compared_axis(plan.axes), design.group_axes(plan.axes)
    varying = [axis for axis in own if axis != compared and len(plan.axes[axis]) > 1]
    frozen = {design.group(config, plan.axes): (config, design.values(config)) for config in plan.configs}
    accuracy: dict[Group, list[float]] = {}
    recorded = {
        design.group(config, plan.axes): results.environments[key].get("dataset", {})
        for key, config in plan.runs.items()
        if key in results.environments
    }
    for key, reached in zip(results.runs["key"], results.runs["validation_accuracy"], strict=True):
        accuracy.setdefault(design.group(plan.runs[key], plan.axes), []).append(100 * float(reached))
    arms = [*plan.axes.get(compared, ())]
    choices = []
    for group, (config, values) in sorted(
        frozen.items(), key=lambda item: arms.index(getattr(item[1][0], compared)) if arms else 0
    ):
        trials = tuple(found.get(group, ()))
        known = [trial for trial in trials if math.isfinite(trial.score)]
        winner = next((trial for trial in known if trial.values == values), None)
        tried = [trial.values for trial in trials if any(key in finished for key in trial.runs)]
        compared_accuracy = float(np.mean(accuracy[group])) if group in accuracy else math.nan
        score = 100 * winner.score if winner and design.epochs is None else math.nan
        edges = {name: edge(name, design.space[name], values[name], [v[name] for v in tried]) for name in values}
        choices.append(
            Choice(
                group=group,
                levels={axis: getattr(config, axis) for axis in (compared, *varying)},
                values=values,
                trials=trials,
                winner=winner,
                ahead=100 * lead(winner, known) if winner else math.nan,
                image=100 * one_image(winner, config, recorded.get(group, {})) if winner else math.nan,
                compared=compared_accuracy,
                optimism=score - compared_accuracy,
                edges={name: end for name, end in edges.items() if end},
            )
        )
    return choices


def edge(field: str, space: Range | tuple[Any, ...], value: Any, tried: Sequence[Any]) -> str:
    """Return the end of the space that a chosen value is at, "low" or "high"; empty for neither.

    It is if no trial of the group has a value beyond it, or if it lies within `EDGE` of the end. Of a list of at least
    three numbers it is the smallest or largest. An end that the field cannot pass, such as a weight decay of 0, is no
    edge.
    """
    if isinstance(space, Range):
        place = position_in(space, value)
        at_low = place <= EDGE or value <= min(tried, default=-math.inf)
        at_high = place >= 1 - EDGE or value >= max(tried, default=math.inf)
        low, high, end = space.low, space.high, "low" if place < 0.5 else "high"
    elif len(space) < 3 or FIELDS[field] is bool:
        return ""
    else:
        low, high = min(space), max(space)
        at_low, at_high, end = value == low, value == high, "low" if value == low else "high"
    if not (at_low if end == "low" else at_high):
        return ""
    step = 1 if FIELDS[field] is int else 1e-6 * (high - low)
    return end if RULES[field].accepts(low - step if end == "low" else high + step) else ""


def position_in(space: Range, value: float) -> float:
    """Return where a value lies in a space: 0 at its low end, 1 at its high end."""
    scale = math.log if space.log else float
    return (scale(value) - scale(space.low)) / (scale(space.high) - scale(space.low))


def chosen_range(found: TuningAnalysis, field: str) -> str:
    """Return the chosen values of a field as text: `0.0005 to 0.004` for numbers, else each of them."""
    values = list(dict.fromkeys(choice.values[field] for choice in found.choices))
    if FIELDS[field] is bool or len(values) == 1:
        return listed(list(map(shown_value, values)), "or")
    return f"{shown_value(min(values))} to {shown_value(max(values))}"
