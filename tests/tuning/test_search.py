"""The search: suggestions that follow from the design and earlier results alone, pruning, and the choice."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from ablations.config import GRIDS, Grid, Range, RunConfig, TuningDesign, override, run_key
from ablations.config.tuning import LAST_SEED
from ablations.errors import UsageError
from ablations.statistics import Verdict
from ablations.storage import TrialRun, trial_key
from ablations.tuning import Search, search, suggestions, trials_of, winners
from ablations.tuning.pruning import median_thresholds
from tests.support import planted_world
from tests.support.planted_world import World

pytest.importorskip("optuna", reason="the extra tune is not installed")

RATES = {"learning_rate": Range(1e-4, 1e-2, log=True), "weight_decay": (0.0, 0.05, 0.3)}
BASE = override(GRIDS["smoke"], settings={"epochs": 6})


@dataclass
class Trials:
    """A stand-in for the store of trials: the curve of a run is a function of its configuration."""

    finished: dict[str, RunConfig] = field(default_factory=dict)
    thresholds: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def done(self, key: str) -> bool:
        return key in self.finished

    def curve(self, key: str) -> list[float]:
        config, limits = self.finished[key], self.thresholds[key]
        end = 0.9 - 0.1 * abs(math.log10(config.learning_rate / 1e-3)) - 0.1 * config.weight_decay
        end -= 0.01 * (config.position == "rope") + 1e-3 * (config.seed == LAST_SEED)
        curve = [end * (epoch + 1) / config.epochs for epoch in range(config.epochs)]
        for epoch, limit in enumerate(limits):
            if curve[epoch] < limit:
                return curve[: epoch + 1]
        return curve

    def result(self, key: str) -> dict[str, Any]:
        curve = self.curve(key)
        pruned = {"pruned": len(curve)} if len(curve) < self.finished[key].epochs else {}
        return {"validation_accuracy": curve[-1], **pruned}

    def metrics(self, key: str) -> list[dict[str, float]]:
        return [{"validation_accuracy": value} for value in self.curve(key)]

    def train(self, runs: list[TrialRun]) -> None:
        self.finished |= {run.key: run.config for run in runs}
        self.thresholds |= {run.key: run.thresholds for run in runs}


def grid(**design: Any) -> Grid:
    return replace(BASE, tuning=TuningDesign(**{"space": RATES, "trials": 8, **design}))


def found(grid: Grid, trials: Trials) -> Search:
    return search(grid, grid.expand(), trials, lambda config: "data")  # type: ignore[arg-type]


def complete(grid: Grid, order: int = 1, at_once: int = 100) -> tuple[Search, Trials]:
    """A search to its end, whose runs finish in this order (1 or -1), some at once."""
    trials = Trials()
    while (state := found(grid, trials)).chosen is None:
        trials.train([run for run in state.runs if not trials.done(run.key)][::order][:at_once])
    return state, trials


def test_quasi_random_trials_are_the_same_for_every_arm_and_fill_the_space() -> None:
    runs = found(grid(trials=12, seeds=2), Trials()).runs
    assert len(runs) == 2 * 12 * 2
    values = {
        position: [grid().tuning.values(run.config) for run in runs if run.config.position == position]  # type: ignore[union-attr]
        for position in ("none", "rope")
    }
    assert values["none"] == values["rope"]
    rates = sorted({each["learning_rate"] for each in values["none"]})
    assert 1e-4 <= rates[0] < 2e-4
    assert 5e-3 < rates[-1] <= 1e-2
    assert np.diff(np.log10(rates)).max() < 0.5
    assert all(float(f"{rate:.3g}") == rate for rate in rates)
    assert {each["weight_decay"] for each in values["none"]} == {0.0, 0.05, 0.3}
    assert {run.config.seed for run in runs} == {LAST_SEED, LAST_SEED - 1}
    assert {run.thresholds for run in runs} == {()}
    assert runs[0].key == trial_key(runs[0].config, "data", ()) != run_key(runs[0].config, "data")


def test_more_trials_go_on_where_fewer_have_ended() -> None:
    few, many = (found(grid(trials=trials), Trials()).runs for trials in (8, 12))
    assert {run.key for run in few} < {run.key for run in many}


def test_every_combination_of_a_finite_space_is_tried_once() -> None:
    space = {"weight_decay": (0.0, 0.1, 0.2), "flip": (False, True), "crop_padding": Range(0, 1)}
    runs = found(grid(space=space, trials=12), Trials()).runs
    tried = {(run.config.weight_decay, run.config.flip, run.config.crop_padding) for run in runs}
    assert len(tried) == 12
    for sampler in ("qmc", "tpe"):
        state, _ = complete(grid(space={"batch_size": (16, 32, 64, 128, 256, 512)}, trials=6, sampler=sampler))
        assert {run.config.batch_size for run in state.runs} == {16, 32, 64, 128, 256, 512}


@pytest.mark.parametrize("sampler", ["qmc", "tpe"])
@pytest.mark.parametrize("prune", ["none", "median"])
def test_a_search_follows_from_finished_runs_alone(sampler: str, prune: str) -> None:
    """In whatever order they finish, and built anew after each of them."""
    design = grid(sampler=sampler, prune=prune, seeds=2)
    assert design.tuning is not None
    (first, trials), (second, _) = complete(design), complete(design, order=-1, at_once=5)
    assert first == second
    assert [run.round for run in first.runs] == [
        round for round, size in enumerate(design.tuning.rounds) for _ in range(size * 2 * 2)
    ]
    halfway = Trials()
    halfway.train([*first.runs[: len(first.runs) // 2]])
    state = found(design, halfway)
    assert state.runs == first.runs[: len(state.runs)]
    pruned = sum("pruned" in trials.result(run.key) for run in first.runs)
    assert (pruned > 0) == (prune == "median")


def test_a_parzen_estimator_comes_closer_to_the_best_in_later_rounds() -> None:
    state, _ = complete(grid(sampler="tpe", trials=24))
    away = [
        np.mean([abs(math.log10(run.config.learning_rate / 1e-3)) for run in state.runs if run.round == round])
        for round in range(4)
    ]
    assert away[-1] < away[0]
    assert len({run.config for run in state.runs}) == 48
    values = [[run.config.learning_rate for run in state.runs if run.config.position == p] for p in ("none", "rope")]
    assert values[0][:6] == values[1][:6]  # the first round
    assert values[0] != values[1]


def test_pruning_changes_no_choice_where_curves_do_not_cross() -> None:
    (whole, _), (pruned, trials) = complete(grid()), complete(grid(prune="median"))
    assert whole.chosen == pruned.chosen
    trained = sum(len(trials.curve(run.key)) for run in pruned.runs)
    assert trained < len(pruned.runs) * 6
    assert all(run.thresholds == () for run in pruned.runs if run.round == 0)


def test_thresholds_are_the_median_of_whole_curves_after_a_warm_up() -> None:
    curves = [
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        [0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
        [0.9, 0.9],
        [0.2, 0.2, 0.4, 0.7, 0.7, 0.9],
    ]
    assert median_thresholds(curves, 6) == (0.0, 0.0, 0.4, 0.6, 0.7, 0.0)
    assert median_thresholds(curves, 6, warmup_epochs=3.5) == (0.0, 0.0, 0.0, 0.6, 0.7, 0.0)
    assert median_thresholds([[0.9, 0.9]], 6) == median_thresholds([], 6) == ()
    assert median_thresholds([[0.5]], 1) == (0.0,)


def test_thresholds_come_from_runs_of_the_same_arm_setting_and_seed() -> None:
    design = override(grid(prune="median", seeds=2), axes={"depth": (1, 2)})
    state, trials = complete(design)
    assert design.tuning is not None
    for run in [run for run in state.runs if run.round == 1]:
        alike = [
            trials.curve(other.key)
            for other in state.runs
            if other.round == 0 and replace(other.config, **design.tuning.values(run.config)) == run.config
        ]
        assert len(alike) == 4
        assert run.thresholds == median_thresholds(alike, 6, run.config.warmup_epochs)


def test_the_first_of_the_best_trials_wins_and_a_pruned_one_never_does() -> None:
    design = TuningDesign({"ema": Range(0.0, 0.9)}, trials=4, seeds=2)
    axes = {"position": ("none", "rope")}
    runs, accuracy = [], {}
    scores = {"none": [(0.5, 0.7), (0.6, 0.6), (0.8, math.nan), (0.4, 0.5)], "rope": [(0.1, 0.1)] * 4}
    for position, trials in scores.items():
        for number, pair in enumerate(trials):
            for seed, value in zip(design.trial_seeds, pair, strict=True):
                config = RunConfig(position=position, ema=number / 10, seed=seed)
                runs.append(TrialRun(f"{position}{number}{seed}", config, number, 0))
                accuracy[runs[-1].key] = value
    trials = trials_of(design, axes, runs, accuracy)
    assert [trial.score for trial in trials[:2]] == pytest.approx([0.6, 0.6])
    assert math.isnan(trials[2].score)
    assert {group: trial.number for group, trial in winners(trials).items()} == {("none",): 0, ("rope",): 0}
    accuracy[runs[2].key] = 0.60001
    best = winners(trials_of(design, axes, runs, accuracy))["none",]
    assert (best.number, dict(best.values), len(best.runs)) == (1, {"ema": 0.1}, 2)
    del accuracy[runs[2].key]  # not finished
    assert winners(trials_of(design, axes, runs, accuracy))["none",].number == 0


def test_one_choice_for_each_arm_over_all_settings() -> None:
    wide = override(grid(per="arm"), axes={"depth": (1, 2, 3)})
    state, _ = complete(wide)
    assert state.chosen is not None
    assert set(state.chosen) == {("none",), ("rope",)}
    assert len(state.runs) == 2 * 3 * 8
    state, _ = complete(override(grid(), axes={"depth": (1, 2)}))
    assert state.chosen is not None
    assert set(state.chosen) == {(position, depth) for position in ("none", "rope") for depth in (1, 2)}


def test_without_optuna_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^tuning needs the package optuna: pip install 'vitab\[tune\]'$"):
        found(grid(), Trials())


def differs(verdicts: list[Verdict]) -> bool:
    return bool({Verdict.BETTER, Verdict.WORSE} & {*verdicts})


@pytest.mark.slow
def test_tuned_arms_are_compared_at_their_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms that are as good as each other, each at a learning rate of its own; and one that is 1.6 points better."""
    monkeypatch.setattr("ablations.statistics.contrasts.seeds_needed", lambda *_, **__: None)  # takes long
    worlds, better = [World(i) for i in range(STUDIES)], [World(i, lead=0.016) for i in range(STUDIES)]
    untuned = [differs(planted_world.study(world, tuning=False)) for world in worlds]
    assert np.mean(untuned) >= 0.9
    assert np.mean([differs(planted_world.study(world, tuning=True)) for world in worlds]) <= 0.06
    rope = [planted_world.study(world, tuning=True)[-1] for world in better]
    assert np.mean([verdict == Verdict.BETTER for verdict in rope]) >= 0.75


STUDIES = 100
