"""A tuned study beside the same comparison at shared values: how much of each difference is tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.config import RunConfig
from ablations.config.tuning import Values
from ablations.errors import VitabError
from ablations.statistics import (
    Analysis,
    Interaction,
    Outcomes,
    Verdict,
    analyse,
    arrange,
    estimate,
    interactions,
    paired_interval,
    verdict,
)
from ablations.storage import load_results, version_conflicts

if TYPE_CHECKING:
    from ablations.storage import Results, Store, StudyPlan

TUNING = "tuning"
SHARED, TUNED = "shared", "tuned"


@dataclass(frozen=True)
class Gain:
    """Test accuracy of an arm, tuned minus at the shared values, in points, with its 95 % interval over `n` blocks."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmChange:
    """What tuning changes for an arm: over the blocks (setting and seed) that both studies have finished."""

    arm: str
    gain: Gain
    change: Interaction | None
    """Its difference from the baseline, at the shared values and tuned; None for the baseline."""
    shared_verdict: Verdict | None
    """The verdict of the untuned study on its difference from the baseline; None for the baseline."""
    tuned_verdict: Verdict | None

    @property
    def verdict_changed(self) -> bool:
        return self.shared_verdict is not self.tuned_verdict


@dataclass(frozen=True, eq=False)
class UntunedComparison:
    """The comparison of a tuned study with the same study at shared values."""

    study: str
    values: Values
    """The shared values of the tuned fields."""
    conflicts: Sequence[str]
    """Why the runs cannot be compared: they come from different code or data. If any, there are no `arms`."""
    arms: Sequence[ArmChange]
    seeds: tuple[int, int]
    """Numbers of seeds of the untuned and of the tuned study."""
    complete: bool
    """Whether all runs of both studies have finished."""
    sequential: bool
    """Whether one of the studies grew in rounds, so that there are no intervals and tests of the change."""

    @property
    def changed(self) -> list[ArmChange]:
        """The arms on which the verdict is another one."""
        return [each for each in self.arms if each.verdict_changed]

    @property
    def blocks(self) -> int:
        return max((each.gain.n for each in self.arms), default=0)


def find_untuned(store: Store, results: Results) -> Results | None:
    """Return the results of a stored study that makes the same comparison as a tuned one, at shared values.

    It has the same arms, settings, baseline and other fields, and one value of each tuned field in all runs. Of
    several, the one with the same versions of code and data, then with the most finished runs of common seeds, then the
    first by name. None if the study is not tuned, or there is none.
    """
    plan = results.plan
    if plan.tuning is None:
        return None
    found = []
    for name in sorted(store.studies()):
        try:
            other = store.read_study(name)
            if is_untuned(plan, other) and any(map(store.done, other.keys)):
                found.append(load_results(store, name))
        except VitabError:  # a damaged study is not this report's concern
            continue
    return max(found, key=lambda each: (not version_conflicts(results, each), _common(plan, each)), default=None)


def _common(plan: StudyPlan, untuned: Results) -> int:
    return int(untuned.runs["seed"].isin(plan.seeds).sum())


def is_untuned(plan: StudyPlan, other: StudyPlan) -> bool:
    """Return whether a study is the same comparison as a tuned one, at shared values and with a common seed."""
    assert plan.tuning is not None
    if other.tuning is not None or other.baseline != plan.baseline or not {*plan.seeds} & {*other.seeds}:
        return False
    axes = [{name for name, levels in each.axes.items() if len(levels) > 1} for each in (plan, other)]
    shared = {tuple(plan.tuning.values(config).values()) for config in other.configs}
    fields = plan.tuning.space
    return axes[0] == axes[1] and len(shared) == 1 and _settings(plan, fields) == _settings(other, fields)


def _settings(plan: StudyPlan, tuned: Any) -> set[RunConfig]:
    """Return what is trained, whatever the seed and the values of the tuned fields."""
    neutral = {field: getattr(RunConfig(), field) for field in (*tuned, "seed")}
    return {replace(config, **neutral) for config in plan.configs}


def compare_with_untuned(results: Results, analysis: Analysis, untuned: Results) -> UntunedComparison:
    """Return what tuning changes.

    Blocks of both studies have the same seed, and so the same split, order of images and initial weights: the
    difference of an arm from the baseline, tuned minus at shared values, is a change along an axis, tested as those
    along the axes of a study are (`interactions`). It is conditional on the choices.
    """
    plan, other = results.plan, untuned.plan
    assert plan.tuning is not None
    values = plan.tuning.values(other.configs[0])
    seeds = len(other.seeds), len(plan.seeds)
    conflicts, complete = version_conflicts(results, untuned), not (results.missing or untuned.missing)
    sequential = plan.design is not None or other.design is not None
    if conflicts:
        return UntunedComparison(other.study, values, conflicts, [], seeds, complete, sequential)
    both = _outcomes_of_both(results, untuned)
    ordered = replace(untuned, plan=replace(other, axes=plan.axes))
    shared_verdicts = [verdict(contrast) for contrast in analyse(ordered).contrasts]
    tuned_verdicts = [verdict(contrast) for contrast in analysis.contrasts]
    others = both.others
    changes = interactions(both, TUNING) if others else []
    arms = []
    for arm in range(len(both.arms)):
        at = others.index(arm) if arm in others else None
        arms.append(
            ArmChange(
                both.arm_name(arm),
                _gain(both, arm),
                None if at is None else changes[at],
                None if at is None else shared_verdicts[at],
                None if at is None else tuned_verdicts[at],
            )
        )
    return UntunedComparison(other.study, values, [], arms, seeds, complete, sequential)


def _outcomes_of_both(results: Results, untuned: Results) -> Outcomes:
    """Return the outcomes of both studies, of their common seeds, with tuning as the first axis of the settings."""
    seeds = tuple(seed for seed in results.plan.seeds if seed in untuned.plan.seeds)
    shared, tuned = (
        arrange(replace(each, plan=replace(each.plan, axes=results.plan.axes, seeds=seeds)))
        for each in (untuned, results)
    )
    return replace(
        tuned,
        cell_axes=(TUNING, *tuned.cell_axes),
        cells=tuple((kind, *cell) for kind, cell in product((SHARED, TUNED), tuned.cells)),
        values=np.concatenate([shared.values, tuned.values], axis=1),
        keys=np.concatenate([shared.keys, tuned.keys], axis=1),
        diverged=shared.diverged | tuned.diverged,
    )


def _gain(both: Outcomes, arm: int) -> Gain:
    shared, tuned = np.split(both.values[arm], 2)
    differences = tuned - shared
    n = int(np.isfinite(differences).sum())
    largest = both.measure.largest_difference
    low, high = np.clip(paired_interval(differences), -largest, largest) if n else (np.nan, np.nan)
    return Gain(n, estimate(differences), float(low), float(high))
