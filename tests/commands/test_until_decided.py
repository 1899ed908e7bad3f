"""`vitab run --until-decided` as users meet it: seeds for the open arms only, the same after an interruption."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.config import SequentialDesign
from ablations.errors import UsageError, VitabError
from ablations.statistics import Verdict, analyse, arrange, planned_seeds, power_forecast
from ablations.statistics.sequential.progress import sequential_progress
from ablations.statistics.sequential.rounds import first_or_stored_plan, next_round, with_seeds
from ablations.storage import Store, load_results
from benchmarks.sequential import CONTRASTS, first_looks, grow
from tests.support import fake_trainer, synthetic_results

LEADS = {"none": 0.0, "learned": 0.1, "rope": 0.006, "sinusoidal": 0.0}
RUN = ["run", "--grid", "smoke", "--position", "none,learned,rope", "--patch", "2,4", "--set", "per_class=5"]
GROW = [*RUN, "--workers", "1", "--seeds", "3", "--until-decided"]


def trainer(on_run=lambda config: None):
    """Accuracies with known leads and some noise, decided by the config alone."""

    def train(config, dataset, **rest):
        on_run(config)
        noise = np.random.default_rng([config.seed, config.patch, list(LEADS).index(config.position)]).normal()
        record = fake_trainer.train(config, dataset, **rest)
        return replace(record, test_accuracy=0.6 + LEADS[config.position] + 0.02 * noise)

    return train


@pytest.fixture(autouse=True)
def here(workplace, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", trainer())
    return workplace


def vitab(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_only_open_arms_grow_and_the_report_says_how():
    done = vitab(*GROW, "--max-seeds", 9)
    assert done.exit_code == 0, done.output
    assert "round 1, 3 seeds: learned undecided, rope undecided" in done.output
    plan = Store("runs").read_study("smoke")
    assert plan.design == SequentialDesign(3, 9)
    seeds = planned_seeds(plan, "position")
    assert seeds["none"] == seeds["rope"] == 9  # small lead: not decided before the end
    assert seeds["learned"] in plan.design.looks[1:-1]  # large lead: decided early
    assert f"round 3, 5 seeds: learned {'better' if seeds['learned'] == 5 else 'undecided'}" in done.output
    runs = 2 * sum(seeds.values())
    assert len(plan.keys) == runs == len(list(Path("runs").glob("*/DONE.json")))
    assert f"{runs} of at most 54 runs were needed; next: vitab report smoke" in done.output

    assert vitab("report", "smoke").exit_code == 0
    text = Path("reports/smoke/README.md").read_text(encoding="utf-8")
    needed = f"needed {runs} runs. With 9 seeds in every setting it would have needed 54, so {54 - runs} were saved"
    assert needed in text
    assert f"; {seeds['learned']} to 9 seeds." in text
    assert "starts with 3 seeds and grows to 4, 5, 7 and at most 9" in text
    assert "**learned** is better than **none** by" in text
    assert "; sequential Holm p = 0.0" in text
    assert "; Holm p" not in text  # no p as if there had been one look
    assert "lack a run" not in text  # what was never asked for is not missing
    checked = vitab("report", "smoke", "--check")
    assert checked.exit_code == 0, checked.output
    compared = vitab("compare", "learned", "rope")
    assert "sequential Holm p" in compared.output
    assert "sequential" in vitab("compare", "patch=4", "patch=2").output


def test_an_interrupted_study_ends_as_one_that_was_not(monkeypatch):
    def stop(config):
        if (config.position, config.seed, config.patch) == ("rope", 4, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr("ablations.training.trainer.train", trainer(stop))
    cut = vitab(*GROW, "--max-seeds", 9)
    assert cut.exit_code == 130
    assert "run the same command again to resume" in cut.output
    assert max(planned_seeds(Store("runs").read_study("smoke"), "position").values()) == 5
    monkeypatch.setattr("ablations.training.trainer.train", trainer())
    again = vitab(*GROW)  # the maximum is known from before
    assert again.exit_code == 0, again.output
    assert "planned otherwise" not in again.output
    assert vitab(*GROW, "--max-seeds", 9, "--runs", "others").exit_code == 0
    studies = [json.loads(Path(runs, "studies", "smoke.json").read_text()) for runs in ("runs", "others")]
    assert {**studies[0], "command": ""} == {**studies[1], "command": ""}
    once_more = vitab(*GROW)
    assert once_more.exit_code == 0
    assert "0 to do" in once_more.output
    assert json.loads(Path("runs/studies/smoke.json").read_text()) == studies[0]


def test_the_rounds_of_a_study_do_not_change():
    assert vitab(*GROW, "--max-seeds", 4).exit_code == 0
    before = Path("runs/studies/smoke.json").read_bytes()
    for arguments, message in (
        ([*GROW, "--max-seeds", 10], "was started with --seeds 3 --max-seeds 4, which cannot be changed"),
        ([*GROW, "--seeds", 2, "--max-seeds", 4], "was started with --seeds 3 --max-seeds 4"),
        ([*GROW, "--position", "none,rope", "--max-seeds", 4], "was started with other runs or other data"),
        (
            [*RUN, "--seeds", 3],
            "was started with --until-decided: choose another --study, or continue with: vitab run ",
        ),
    ):
        refused = vitab(*arguments)
        assert refused.exit_code == 2
        assert message in refused.output
        assert len(refused.output.strip().splitlines()) == 1
        assert Path("runs/studies/smoke.json").read_bytes() == before
    assert vitab(*RUN, "--seeds", 1, "--study", "other", "--workers", 1).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*GROW, "--max-seeds", 3], "--max-seeds must be above the 3 seeds of the first round, got 3"),
        ([*RUN, "--max-seeds", 9], "--max-seeds requires --until-decided"),
        (["run", "--grid", "smoke", "--position", "none", "--until-decided"], "needs two levels to compare"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(here, arguments, message):
    refused = vitab(*arguments)
    assert refused.exit_code == 2
    assert message in refused.output
    assert len(refused.output.strip().splitlines()) == 1
    assert list(here.iterdir()) == []


def test_runs_that_fail_stop_no_round_and_are_tried_once_a_command(monkeypatch):
    tried = []

    def fail(config):
        tried.append((config.position, config.seed, config.patch))
        if tried[-1] == ("rope", 0, 2):
            raise VitabError("no luck")

    monkeypatch.setattr("ablations.training.trainer.train", trainer(fail))
    done = vitab(*GROW, "--max-seeds", 5)
    assert done.exit_code == 1
    assert "failed: rope, patch 2, seed 0: no luck" in done.output
    assert planned_seeds(Store("runs").read_study("smoke"), "position")["rope"] == 5
    assert tried.count(("rope", 0, 2)) == 1
    rope = next(c for c in analyse(load_results(Store("runs"), "smoke")).contrasts if c.subject == "rope")
    assert rope.n == 9  # of ten blocks one lacks a run


def test_an_arm_that_always_fails_does_not_grow(monkeypatch):
    def fail(config):
        if config.position == "rope":
            raise VitabError("no luck")

    monkeypatch.setattr("ablations.training.trainer.train", trainer(fail))
    done = vitab(*GROW, "--max-seeds", 9)
    assert done.exit_code == 1
    seeds = planned_seeds(Store("runs").read_study("smoke"), "position")
    assert seeds["rope"] == 3
    assert seeds["learned"] > 3


@pytest.mark.parametrize("studies", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_dry_run_says_when_it_looks_and_what_it_takes_at_most(here, monkeypatch, studies):
    fewer = partial(power_forecast.rejections, studies=studies)
    monkeypatch.setattr(power_forecast, "rejections", fewer)
    said = vitab(*GROW, "--max-seeds", 12, "--dry-run")
    assert said.exit_code == 0, said.output
    assert "rounds: 3, 4, 5, 7, 9, 12 seeds per setting" in said.output
    assert "at most 72 runs" in said.output
    assert "points at 80 % power" in said.output
    assert "warning" not in said.output  # the maximum can show a difference, though the first round cannot
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_the_rounds_are_those_that_were_simulated():
    """The command's rounds, from plans and runs, against the loop of benchmarks/sequential.py."""
    design, positions = SequentialDesign(3, 9), ("none", "learned", "sinusoidal", "rope")
    grid = synthetic_results.Grid(
        "g", "?", synthetic_results.RunConfig(), {"position": positions, "patch": (2, 4)}, (0, 1, 2)
    )
    for trial in range(3):

        def measure(config, trial=trial):
            draw = np.random.default_rng([trial, config.seed, config.patch, positions.index(config.position)])
            return (70 + 1.5 * (config.position == "rope") + draw.normal()) / 100

        def results_of(seeds, measure=measure):
            return synthetic_results.make(
                grid.axes,
                range(max(seeds.values())),
                measure=measure,
                study="g",
                design=design,
                asked=lambda config: config.seed < seeds[config.position],
            )

        def plan_of(grid):
            return synthetic_results.make(grid.axes, grid.seeds, study="g", missing=lambda config: True).plan

        results = results_of(dict.fromkeys(positions, 3))
        while (plan := next_round(results.plan, grid, analyse(results), plan_of)) is not None:
            results = results_of(planned_seeds(plan, "position"))
        analysis = analyse(results)
        whole = arrange(results_of(dict.fromkeys(positions, 9)))
        tests = replace(analysis.tests, bits=16)
        differences = [whole.differences(arm, 0) for arm in range(1, 1 + CONTRASTS)]
        last, different, equal = grow(*first_looks(differences, tests), len(design.looks))
        assert [design.looks[look] for look in last] == list(analysis.growth.seeds[1:])
        verdicts = [look.verdict for look in analysis.rounds if look.seeds == analysis.growth.seeds[3]][-1:]
        assert (verdicts == [Verdict.BETTER]) == bool(different[2])
        assert [i + 1 for i in range(3) if not different[i] and not equal[i]] == analysis.open_arms


def test_a_round_counts_when_all_its_runs_have_ended():
    def lost(config):
        return config.position == "rope" and config.seed == 3

    unfinished = synthetic_results.make(seeds=range(4), design=SequentialDesign(3, 12), missing=lost)
    first = unfinished.plan.keys[unfinished.plan.configs.index(unfinished.missing[0])]
    assert list(unfinished.failed) == [first]  # one has failed, the others are still to come
    found = sequential_progress(unfinished, arrange(unfinished))
    assert found.seeds == (4, 4, 4, 3)
    contrasts = {contrast.subject: contrast for contrast in analyse(unfinished).contrasts}
    assert (contrasts["rope"].seeds, contrasts["learned"].seeds) == (3, 4)


def test_seeds_go_on_with_numbers_that_are_free():
    grid = synthetic_results.Grid("g", "?", synthetic_results.RunConfig(), {"depth": (1, 2)}, (7, 1))
    assert with_seeds(grid, 5).seeds == (7, 1, 0, 2, 3)


def test_a_damaged_plan_is_begun_anew(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "g.json").write_text("{")
    grid = synthetic_results.Grid("g", "?", synthetic_results.RunConfig(), {"depth": (1, 2)}, (0, 1))
    plan = first_or_stored_plan(grid, store, "g", lambda grid: synthetic_results.make(grid.axes, grid.seeds).plan)
    assert plan.design == SequentialDesign(2, 8)
    with pytest.raises(UsageError, match="above the 2 seeds"):
        first_or_stored_plan(grid, store, "g", lambda grid: synthetic_results.make(grid.axes, grid.seeds).plan, 2)
