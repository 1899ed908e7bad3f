"""Made-up tuned studies, with known truth: the best learning rate of an arm, and what another one costs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from ablations.config import Grid, Range, RunConfig, TuningDesign
from ablations.reporting.tuning.analysis import TuningSources
from ablations.storage import TrialRun
from ablations.tuning import accuracies, trials_of, winners
from tests.support import synthetic_results
from tests.support.synthetic_results import FakeResults

DESIGN = TuningDesign({"learning_rate": Range(1e-4, 1e-2, True), "weight_decay": (0.0, 0.05, 0.3)}, trials=12, seeds=2)
BEST = {"none": 3e-3, "learned": 1e-3, "sinusoidal": 6e-4, "rope": 2e-3}
"""The best learning rate of an arm."""
AXES = {"position": ("none", "learned", "rope"), "patch": (2, 4)}


def accuracy(config: RunConfig) -> float:
    """Share of test images correct: less by 4 points for a learning rate 10 times too high or low."""
    away = math.log10(config.learning_rate / BEST.get(config.position, 1.5e-3))
    loss = 4 * away**2 + (0.4 if config.weight_decay > 0.2 else 0.0)
    return min(max(synthetic_results.accuracy(config) - loss / 100, 0.1), 1.0)


def suggestions(design: TuningDesign) -> list[dict[str, Any]]:
    """The same for every group: ranges in equal steps, turned against each other; lists in turn."""
    found = []
    for trial in range(design.trials):
        values: dict[str, Any] = {}
        for place, (field, space) in enumerate(design.space.items()):
            if not isinstance(space, Range):
                values[field] = space[trial % len(space)]
                continue
            share = (0.5 + (trial * (2 * place + 1)) % design.trials) / design.trials
            whole = (
                space.low * (space.high / space.low) ** share
                if space.log
                else space.low + share * (space.high - space.low)
            )
            values[field] = float(f"{whole:.3g}")
        found.append(values)
    return found


def make(
    axes: Mapping[str, tuple[Any, ...]] = AXES,
    seeds: Sequence[int] = range(6),
    design: TuningDesign = DESIGN,
    *,
    measure: Callable[[RunConfig], float] = accuracy,
    pruned: Callable[[RunConfig, int], int] = lambda config, number: 0,
    diverged: Callable[[RunConfig, int], bool] = lambda config, number: False,
    finished: Callable[[TrialRun], bool] = lambda run: True,
    **options: Any,
) -> FakeResults:
    """A tuned study whose trials have finished. `pruned` gives the epoch after which a run of a trial was ended, or 0.

    Validation accuracy is that of the test, 1 point lower in the runs of the comparison and in trials with an odd seed.
    """
    grid = Grid("rope-tuned", "", options.get("base") or RunConfig(), dict(axes), tuple(seeds))
    settings = [config for config in grid.expand() if config.seed == grid.seeds[0]]
    planned, rows, epochs = [], [], []
    for number, values in enumerate(suggestions(design)):
        for setting in settings:
            for seed in design.trial_seeds:
                config = replace(setting, seed=seed, **values)
                key = hashlib.sha256(f"trial {number} {config}".encode()).hexdigest()
                round = number * len(design.rounds) // design.trials
                thresholds = (0.0,) * 11 + (0.5,) * 18 + (0.0,) if design.prune == "median" and round else ()
                planned.append(TrialRun(key, config, number, round, thresholds))
                last = pruned(config, number) or config.epochs
                final = 0.1 if diverged(config, number) else measure(config) - 0.01 * (seed % 2)
                curve = [0.1 + (final - 0.1) * epoch / config.epochs for epoch in range(1, last + 1)]
                rows.append(
                    {"key": key, **asdict(config), "trial": number, "round": round}
                    | {"validation_accuracy": curve[-1], "parameters": 1000, "flops": 10**9 * last}
                    | {"train_seconds": 0.1 * last, "seconds": 0.1 * last + 0.2, "trained_epochs": last}
                    | {"pruned": pruned(config, number), "diverged": 3 if diverged(config, number) else 0}
                )
                epochs += [{"key": key, "epoch": e, "validation_accuracy": a} for e, a in enumerate(curve, start=1)]
    kept = {run.key for run in planned if finished(run)}
    trials = pd.DataFrame(rows)
    found = winners(trials_of(design, grid.axes, planned, accuracies(trials)))
    results = synthetic_results.make(
        dict(axes),
        seeds,
        study="rope-tuned",
        measure=measure,
        settle=lambda config: replace(config, **found[design.group(config, grid.axes)].values),
        **options,
    )
    return replace(
        results,
        plan=replace(results.plan, tuning=design, trials=tuple(planned)),
        trials=trials[trials["key"].isin(kept)].reset_index(drop=True),
        trial_epochs=pd.DataFrame(epochs)[lambda frame: frame["key"].isin(kept)].reset_index(drop=True),
    )


def untuned(
    tuned: FakeResults,
    seeds: Sequence[int] | None = None,
    *,
    measure: Callable[[RunConfig], float] = accuracy,
    **options: Any,
) -> FakeResults:
    """The same study at shared values."""
    return synthetic_results.make(
        tuned.plan.axes, tuned.plan.seeds if seeds is None else seeds, measure=measure, **options
    )


def sources(results: FakeResults, untuned: FakeResults | None = None) -> TuningSources:
    """What a report needs besides the results: the curves of the trials, and perhaps the untuned study."""
    assert results.trial_epochs is not None
    curves = {key: each.to_numpy() for key, each in results.trial_epochs.groupby("key")["validation_accuracy"]}
    return TuningSources(untuned, curves)


def pruned_study(**options: Any) -> FakeResults:
    """A study of which three trials of each arm were pruned and one diverged; `learned` is at an edge."""
    design = replace(DESIGN, space={**DESIGN.space, "learning_rate": Range(9e-4, 1e-2, True)}, prune="median")
    return make(
        design=design,
        pruned=lambda config, number: 12 if 7 < number < 11 else 0,
        diverged=lambda config, number: number == 11 and config.position == "learned",
        **options,
    )
