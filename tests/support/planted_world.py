"""A world in which the accuracy of a run is a known function of its arm and its learning rate, plus noise of the run.

Each arm has its own best learning rate. `study` simulates a study: the search and the statistics are those of the
product, training is the function.
"""

import json
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ablations.config import Grid, Range, RunConfig, TuningDesign
from ablations.execution.plan import tuned
from ablations.statistics import Outcomes, Verdict, baseline_contrasts, verdict
from ablations.tuning import search

BEST = {"none": 1e-3, "learned": 3e-3, "rope": 5e-3}
"""The best learning rate of each arm."""
CURVATURE = 0.06
"""Accuracy lost a decade away from it."""
NOISE = {"seed": 0.01, "arm": 0.005, "run": 0.002}
"""Standard deviations of the luck of a seed in all arms, of an arm with a seed, and of a single run."""
GRID = Grid(
    name="planted",
    question="Is an arm better at its own best?",
    base=RunConfig(learning_rate=1e-3, epochs=3, warmup_epochs=1.0),
    axes={"position": tuple(BEST)},
    seeds=tuple(range(7)),  # the fewest with which one of two contrasts can be significant
    tuning=TuningDesign({"learning_rate": Range(1e-4, 1e-2, log=True)}, trials=12, seeds=3),
)


@dataclass
class World:
    """Accuracies by the configuration of a run; `number` makes the noise, `lead` is that of rope at its best."""

    number: int
    lead: float = 0.0

    def accuracy(self, config: RunConfig, split: str) -> float:
        """Return the accuracy of a run on a split of the images."""
        away = np.log10(config.learning_rate / BEST[config.position])
        luck = {"seed": config.seed, "arm": [config.seed, config.position], "run": [config.canonical(), split]}
        noise = sum(NOISE[name] * self.draw(name, what) for name, what in luck.items())
        best = 0.9 + self.lead * (config.position == "rope")
        return float(best - CURVATURE * away**2 + noise)

    def draw(self, *what: Any) -> float:
        """Return a standard normal number that is always the same for the same things."""
        identity = zlib.crc32(json.dumps(what, sort_keys=True).encode())
        return float(np.random.default_rng([self.number, identity]).normal())


@dataclass
class Trials:
    """A stand-in for the store of trials, whose runs are the world's. Those that were asked for are finished."""

    world: World
    finished: dict[str, RunConfig] = field(default_factory=dict)

    def done(self, key: str) -> bool:
        return key in self.finished

    def result(self, key: str) -> dict[str, Any]:
        return {"validation_accuracy": self.world.accuracy(self.finished[key], "validation")}

    def metrics(self, key: str) -> list[dict[str, float]]:
        return [{"validation_accuracy": self.result(key)["validation_accuracy"]}] * self.finished[key].epochs


def study(world: World, *, tuning: bool, grid: Grid = GRID) -> list[Verdict]:
    """Return the verdicts of a simulated study on each arm but the first, tuned or with the values of the grid."""
    configs = grid.expand()
    if tuning:
        trials = Trials(world)
        while (found := search(grid, grid.expand(), trials, lambda config: "")).chosen is None:  # type: ignore[arg-type]
            trials.finished |= {run.key: run.config for run in found.runs}
        configs = tuned(grid, configs, found.chosen)
    arms = grid.levels
    values = np.empty((len(arms), 1, len(grid.seeds)))
    for config in configs:
        at = arms.index(config.position), 0, grid.seeds.index(config.seed)
        values[at] = 100 * world.accuracy(config, "test")
    keys = np.array([f"{i:064}" for i in range(values.size)]).reshape(values.shape)
    outcomes = Outcomes("position", arms, (), ((),), grid.seeds, 0, values, keys)
    return [verdict(contrast) for contrast in baseline_contrasts(outcomes)]


def with_design(**changes: Any) -> Grid:
    """Return the grid with another design of its search."""
    assert GRID.tuning is not None
    return replace(GRID, tuning=replace(GRID.tuning, **changes))
