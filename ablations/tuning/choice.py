"""Trials and their scores, and the choice: the trial of each group with the highest score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablations.config import RunConfig, TuningDesign
from ablations.config.tuning import Group, Values

if TYPE_CHECKING:
    import pandas as pd

    from ablations.storage import TrialRun

CHANCE = 6
"""Images by which a trial must lead another for an exact sign test to give p < 0.05, if they differ on no others."""


@dataclass(frozen=True)
class Trial:
    """Values that are tried for a group: an arm at a setting, or an arm."""

    group: Group
    number: int
    """In its group, from 0."""
    round: int
    values: Values
    runs: tuple[str, ...]
    """Keys of its runs: one for each seed of the tuning, and for each setting of an arm."""
    score: float
    """Mean validation accuracy of its runs; NaN if one of them was pruned or has not finished."""


def accuracies(trials: pd.DataFrame) -> dict[str, float]:
    """Return the validation accuracy of each run of `Results.trials` by key; NaN for a pruned one."""
    found = zip(trials["key"], trials["validation_accuracy"], trials["pruned"], strict=True)
    return {key: math.nan if pruned else float(accuracy) for key, accuracy, pruned in found}


def trials_of(
    design: TuningDesign,
    axes: Mapping[str, tuple[Any, ...]],
    planned: Iterable[TrialRun],
    accuracy: Mapping[str, float],
) -> list[Trial]:
    """Return the trials that planned runs make up, in their order, scored by the `accuracies` of the runs."""
    together: dict[tuple[Group, int], list[TrialRun]] = {}
    for run in planned:
        together.setdefault((design.group(run.config, axes), run.number), []).append(run)
    return [
        Trial(
            group=group,
            number=number,
            round=runs[0].round,
            values=design.values(runs[0].config),
            runs=tuple(run.key for run in runs),
            score=math.fsum(accuracy.get(run.key, math.nan) for run in runs) / len(runs),
        )
        for (group, number), runs in together.items()
    ]


def winners(trials: Iterable[Trial]) -> dict[Group, Trial]:
    """Return the trial with the highest score of each group, the first of those with the same score."""
    best: dict[Group, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if math.isfinite(trial.score) and not (trial.group in best and best[trial.group].score >= trial.score):
            best[trial.group] = trial
    return best


def lead(winner: Trial, trials: Iterable[Trial]) -> float:
    """Return the score of a winner minus that of the best other trial of its group; NaN if there is none."""
    others = [t.score for t in trials if t.group == winner.group and t is not winner and math.isfinite(t.score)]
    return winner.score - max(others) if others else math.nan


def one_image(trial: Trial, config: RunConfig, recorded: Mapping[str, Any]) -> float:
    """Return by how much one validation image in one of its runs changes the score of a trial; NaN if not known.

    Args:
        recorded: The description of the data of a run (`describe_dataset`).
    """
    from ablations.data.loader import parts_of

    if "train_images" not in recorded:
        return math.nan
    _, images = parts_of(config, recorded["train_images"], recorded.get("validation_images", 0))
    return 1 / (images * len(trial.runs)) if images else math.nan


def may_be_chance(lead: float, image: float) -> bool:
    """Return whether a lead is fewer than CHANCE images; false if their number is not known."""
    return math.isfinite(lead) and math.isfinite(image) and round(lead / image) < CHANCE


def chosen_values(
    design: TuningDesign,
    axes: Mapping[str, tuple[Any, ...]],
    planned: Iterable[TrialRun],
    accuracy: Mapping[str, float],
) -> dict[Group, Values]:
    """Return the values with which each group is compared: those of its winner."""
    return {group: trial.values for group, trial in winners(trials_of(design, axes, planned, accuracy)).items()}
