"""The state of a search: its runs as far as they can be planned, and the choice once all of them have finished.

It follows from the grid and from the finished runs of its trials alone, so that it is the same after a kill, in every
process, and whatever the order in which runs have finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ablations.config import Grid, RunConfig
from ablations.config.tuning import Group, Values
from ablations.storage import TrialRun, TrialStore, trial_key
from ablations.tuning.choice import chosen_values, trials_of
from ablations.tuning.pruning import median_thresholds
from ablations.tuning.suggestions import by_results, quasi_random, require_optuna


@dataclass(frozen=True)
class Search:
    """The runs of trials that are planned so far, and the values that each group is compared with."""

    runs: tuple[TrialRun, ...]
    chosen: dict[Group, Values] | None
    """None until all trials have finished."""


def search(
    grid: Grid, configs: Sequence[RunConfig], store: TrialStore, fingerprint: Callable[[RunConfig], str]
) -> Search:
    """Return the state of the search of a grid: the runs of the rounds up to the first unfinished one.

    `configs` are the runs of its comparison, with the tuned fields of `base`; `fingerprint` returns that of the data of
    a run. Nothing is written. Raises UsageError if Optuna is not installed.
    """
    require_optuna()
    design = grid.tuning
    assert design is not None
    groups: dict[Group, list[RunConfig]] = {}
    for config in configs:
        if config.seed == grid.seeds[0]:
            groups.setdefault(design.group(config, grid.axes), []).append(config)
    points = quasi_random(design)
    runs: list[TrialRun] = []
    accuracy: dict[str, float] = {}
    curves: dict[str, list[float]] = {}  # validation accuracy after each epoch, by key
    alike: dict[RunConfig, list[str]] = {}  # keys by what the runs of a group, setting and seed have in common
    for round, size in enumerate(design.rounds):
        begun, planned = sum(design.rounds[:round]), {}
        suggested = dict.fromkeys(groups, points[begun : begun + size])  # the same for all groups
        if design.sampler == "tpe" and round > 0:
            trials = trials_of(design, grid.axes, runs, accuracy)
            for group in groups:
                own = [trial for trial in trials if trial.group == group]
                suggested[group] = by_results(design, round, group, own, curves)
        for i, group in product(range(size), groups):
            for setting, seed in product(groups[group], design.trial_seeds):
                common = replace(setting, seed=seed)
                config = replace(design.shortened(common, grid.base), **suggested[group][i])
                thresholds: tuple[float, ...] = ()
                if design.prune == "median":
                    earlier = [curves[key] for key in alike.get(common, ())]
                    thresholds = median_thresholds(earlier, config.epochs, config.warmup_epochs)
                key = trial_key(config, fingerprint(config), thresholds)
                planned[TrialRun(key, config, begun + i, round, thresholds)] = common
        runs += planned
        if not all(store.done(run.key) for run in planned):
            return Search(tuple(runs), None)
        for run, common in planned.items():
            result = store.result(run.key)
            accuracy[run.key] = math.nan if result.get("pruned") else float(result["validation_accuracy"])
            curves[run.key] = [epoch["validation_accuracy"] for epoch in store.metrics(run.key)]
            alike.setdefault(common, []).append(run.key)
    return Search(tuple(runs), chosen_values(design, grid.axes, runs, accuracy))
