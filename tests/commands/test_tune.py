"""`vitab run --tune` as users meet it: trials, the choice, the comparison; interruptions and failures."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import ablations
from ablations.cli import app
from ablations.config import GRIDS, Range, TuningDesign
from ablations.config.tuning import LAST_SEED
from ablations.errors import VitabError
from ablations.storage import Store, TrialStore, load_results
from ablations.training import trainer
from ablations.training.stack import Stack
from tests.support import fake_trainer
from tests.support.evaluations import refused

pytest.importorskip("optuna", reason="the extra tune is not installed")

real_train, real_train_trial = trainer.train, trainer.train_trial
SPACE = ["--tune", "learning_rate=1e-4:1e-2:log", "--tune", "weight_decay=0,0.1,0.2"]
RUN = ["run", "--grid", "smoke", "--set", "per_class=5", "--epochs", "4", "--workers", "1"]
TUNE = [*RUN, *SPACE, "--trials", "8", "--prune"]
ROUND = 4
"""Trials of a round of it, of each of two arms."""


@pytest.fixture(autouse=True)
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    monkeypatch.setattr("ablations.training.trainer.train_trial", fake_trainer.train_trial)
    return workplace


def vitab(*arguments: object, columns: int = 200) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})


def succeeds(*arguments: object) -> str:
    result = vitab(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.removeprefix("compiling the CPU kernels, once on this machine\n")  # on a slow machine


def counting(train: Callable[..., Any], limit: int, error: type[BaseException]) -> Callable[..., Any]:
    """A trainer that raises an error instead of the run with this number, counted from 0."""
    count = iter(range(1000))

    def counted(config: Any, dataset: Any, *rest: Any, **more: Any) -> Any:
        if next(count) == limit:
            raise error("no luck")
        return train(config, dataset, *rest, **more)

    return counted


def files(runs: str = "runs") -> dict[str, bytes]:
    """What runs and trials have left, without what depends on the clock or the attempt."""
    root = Path(runs)
    kept = ("config.json", "metrics.csv", "result.json", "predictions.npz", "smoke.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.name in kept}


def test_every_arm_is_compared_at_its_winner() -> None:
    lines = succeeds(*TUNE, "--tune-seeds", 2).splitlines()
    assert lines[0] == "study smoke: tuning, round 1 of 2, 16 trial runs, 16 to do"
    assert "[ 1/16] none, trial 1, seed 1 of 2: validation " in lines[1]
    assert "study smoke: tuning, round 2 of 2, 32 trial runs, 16 to do, 16 already finished" in lines
    assert any(", pruned after epoch 2, 0.8 s; " in line for line in lines)
    at = lines.index("tuned by 32 trial runs:")
    assert lines[at + 1].split() == ["position", "learning", "rate", "weight", "decay", "validation", "trial"]
    assert lines[at + 4] == (
        "2 of 2 choices are ahead of the next trial by fewer than 6 validation images, which can be chance (one in one "
        "of the 2 runs of a trial is 6.2 points)"
    )
    assert lines[at + 5] == "study smoke: 4 runs, 4 to do"
    assert lines[-1] == "all 4 runs are finished; next: vitab report smoke"

    store = Store(Path("runs"))
    results = load_results(store, "smoke")
    trials, design = results.trials, results.plan.tuning
    assert trials is not None
    assert design == TuningDesign(
        {"learning_rate": Range(1e-4, 1e-2, log=True), "weight_decay": (0.0, 0.1, 0.2)}, 8, 2, prune="median"
    )
    assert len(trials) == len(results.plan.trials) == 32
    assert set(trials["seed"]) == {LAST_SEED, LAST_SEED - 1}
    assert set(results.runs["seed"]) == {0, 1}
    for position, best in (("none", 1e-3), ("rope", 4e-3)):
        rows = trials[trials["position"] == position]
        nearest = min(rows["learning_rate"], key=lambda rate: abs(math.log10(rate / best)))
        assert {nearest} == set(results.runs[results.runs["position"] == position]["learning_rate"])
    assert results.runs["learning_rate"].nunique() == 2
    pruned = trials[trials["pruned"] > 0]
    assert len(pruned)
    assert (pruned["trained_epochs"] == pruned["pruned"]).all()
    assert (pruned["trained_epochs"] < 4).all()
    assert set(trials[trials["round"] == 0]["trained_epochs"]) == {4}

    places = [store.folder(run.key) for run in results.plan.trials]
    assert not any(place.exists() for place in places)
    folder = TrialStore.beside(store).folder(results.plan.trials[0].key)
    names = {path.name for path in folder.iterdir()} - {"attempt-0001.json"}
    assert names == {"config.json", "environment.json", "metrics.csv", "result.json", "DONE.json"}
    assert not [name for name in json.loads((folder / "result.json").read_bytes()) if "test" in name]

    before = files()
    again = succeeds(*TUNE, "--tune-seeds", 2)
    assert "trial runs, " not in again.replace("tuned by 32 trial runs", "")
    assert "study smoke: 4 runs, 0 to do, 4 already finished" in again
    assert files() == before


def test_trials_of_fewer_epochs() -> None:
    short = [*TUNE, "--tune-epochs", "2"]
    dry = succeeds(*short, "--dry-run").splitlines()
    at = next(i for i, line in enumerate(dry) if line.startswith("before them, 8 trials of each arm, of 2 epochs:"))
    whole = succeeds(*TUNE, "--dry-run").splitlines()
    flops = [float(lines[at + 1].split(": ")[1].split()[0]) for lines in (dry, whole)]
    assert flops[0] == pytest.approx(flops[1] / 2, rel=0.01)

    succeeds(*short)
    results = load_results(Store(Path("runs")), "smoke")
    trials = results.trials
    assert trials is not None
    assert set(trials["epochs"]) == {2}
    assert set(trials["warmup_epochs"]) == {0.1}
    assert set(results.runs["epochs"]) == {4}
    assert set(results.runs["warmup_epochs"]) == {0.2}
    chosen = results.runs.groupby("position")["learning_rate"].unique()
    assert all(len(values) == 1 for values in chosen)
    scores = trials[trials["pruned"] == 0].sort_values("validation_accuracy").groupby("position").last()
    assert {*chosen.explode()} == {*scores["learning_rate"]}

    before = files()
    assert "study smoke: 4 runs, 0 to do, 4 already finished" in succeeds(*short)
    assert files() == before
    succeeds("report", "smoke")
    text = Path("reports/smoke/README.md").read_text(encoding="utf-8")
    assert "with 8 trials of 2 epochs scored on validation images" in text
    assert "Trials have 2 epochs instead of 4, with a warm-up shortened in proportion." in text
    assert "which have the same values, other seeds and more epochs." in text
    assert "What is best in a short training need not be best in a longer one." in text
    assert "the scores of the chosen trials are too high for trainings of their length." in text
    assert "Dot: one trial, shorter than the runs of the comparison." in text
    choices = pd.read_csv("reports/smoke/tables/choices.csv")
    assert choices["optimism"].isna().all()
    facts = pd.read_csv("reports/smoke/tables/study.csv", index_col=0)
    assert "2" in set(facts.loc["tuning_epochs"].astype(str))
    assert "On average the score differs" not in text
    assert "Here they differ on average" not in text


def test_arms_of_matched_compute_have_trials_in_proportion() -> None:
    depths = ["--grid", "depth", "--depth", "1,2", "--seeds", 1, "--epochs", 12, "--set", "per_class=5"]
    succeeds("run", *depths, "--match", "flops", *SPACE[:2], "--trials", 2, "--tune-epochs", 6, "--workers", 1)
    results = load_results(Store(Path("runs")), "depth")
    assert results.trials is not None
    compared = results.runs.groupby("depth")["epochs"].first()
    assert compared[1] == 12
    assert 6 <= compared[2] <= 7
    tried = results.trials.groupby("depth")["epochs"].unique()
    assert [*tried[1]] == [6]
    assert [*tried[2]] == [round(compared[2] / 2)]
    warmup = results.trials.groupby("depth")["warmup_epochs"].first()
    assert warmup[2] == pytest.approx(results.runs.groupby("depth")["warmup_epochs"].first()[2] / 2)
    succeeds("report", "depth")
    text = Path("reports/depth/README.md").read_text(encoding="utf-8")
    assert "with 2 trials with fewer epochs scored on validation images" in text
    assert (
        "Trials of the baseline arm have 6 epochs; those of the other arms, and the warm-up of all, are shortened"
        in text
    )


def test_trials_as_long_as_the_comparison_are_ordinary_ones() -> None:
    succeeds(*RUN, *SPACE, "--trials", 3, "--tune-epochs", 9)
    results = load_results(Store(Path("runs")), "smoke")
    assert results.plan.tuning is not None
    assert results.plan.tuning.epochs is None
    assert results.trials is not None
    assert set(results.trials["epochs"]) == {4}
    again = succeeds(*RUN, *SPACE, "--trials", 3)
    assert "study smoke: 4 runs, 0 to do, 4 already finished" in again
    assert "trial runs, " not in again.replace("tuned by 6 trial runs", "")


def test_a_tuned_grid_without_its_search() -> None:
    tuned = ["run", "--grid", "rope-tuned", "--smoke", "--workers", 1]
    assert "study rope-tuned-smoke: 8 runs, 8 to do" in succeeds(*tuned, "--no-tune")
    assert load_results(Store(Path("runs")), "rope-tuned-smoke").plan.tuning is None
    for options, other in ((["--trials", 3], "--trials"), (SPACE, "--tune")):
        assert f"--no-tune cannot be combined with {other}\n" in refused(vitab(*tuned, "--no-tune", *options))


def test_trials_never_see_the_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real trainer: the test images are evaluated by the runs of the comparison alone."""
    tested = []
    whole = Stack.test_probabilities

    def test_probabilities(stack: Stack) -> Any:
        tested.extend(member.config.seed for member in stack.members)
        return whole(stack)

    monkeypatch.setattr(Stack, "test_probabilities", test_probabilities)
    monkeypatch.setattr("ablations.training.trainer.train", real_train)
    monkeypatch.setattr("ablations.training.trainer.train_trial", real_train_trial)
    few = [*RUN, "--position", "none", "--seeds", "1", "--tune", "learning_rate=1e-4:1e-2:log", "--trials", "3"]
    succeeds(*few, "--stack", "2")
    assert tested == [0]
    together = load_results(Store(Path("runs")), "smoke")
    succeeds(*few, "--runs", "alone")
    alone = load_results(Store(Path("alone")), "smoke")
    assert together.trials is not None
    assert alone.trials is not None
    names = ["key", "learning_rate", "validation_accuracy"]
    assert together.trials[names].equals(alone.trials[names])  # whose rates differ in a stack
    assert together.plan.keys == alone.plan.keys
    key = together.plan.trials[1].key
    again = succeeds("reproduce", key[:12])
    assert again.startswith(f"trial run {key[:16]}, with the same code, packages and processor: bitwise identical")
    assert "; validation accuracy " in again


@pytest.mark.parametrize("phase", ["train_trial", "train"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, VitabError])
def test_a_study_that_was_cut_short_makes_the_same_choice(
    phase: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds(*TUNE, "--runs", "whole")
    kind = getattr(fake_trainer, phase)
    trials = phase == "train_trial"
    with monkeypatch.context() as patch:
        patch.setattr(f"ablations.training.trainer.{phase}", counting(kind, 10 if trials else 2, error))
        cut = vitab(*TUNE)
    status = vitab("status").stdout
    what = "trial runs" if trials else "runs"
    if error is KeyboardInterrupt:
        assert cut.exit_code == 130
        done = "10 of 16 trial runs" if trials else "2 of 4 runs"
        assert f"interrupted after {done}; run the same command again to resume" in cut.stderr
    else:
        assert cut.exit_code == 1
        assert cut.stderr.splitlines()[-1].startswith(f"1 of {16 if trials else 4} {what} failed")
    counted = 10 if error is KeyboardInterrupt else 15
    if trials:
        assert f"smoke: tuning, round 2 of 2: {counted} of 16 trial runs finished" in status
        assert status.splitlines()[1].split()[:6] == ["smoke", "4", "0", "0", "4", "0"]
        tuned = f"its arms are being tuned, {counted} of 16 trial runs have finished"
        assert tuned in refused(vitab("report", "smoke"))
        assert ("smoke: none, trial 6 failed: no luck" in status) or error is KeyboardInterrupt
    else:
        assert "smoke: tuned by 16 trial runs" in status
    if error is VitabError and trials:
        assert "study smoke: tuning, round 2 of 2, 16 trial runs, 1 to do, 15 already finished" in succeeds(
            "retry", "--workers", 1
        )
    succeeds(*TUNE)
    assert files() == files("whole")


def test_a_trial_that_diverges_scores_chance_and_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.training.trainer.train_trial", real_train_trial)
    wild = ["--position", "none", "--set", "clip_norm=0", "--tune", "learning_rate=1e-3,1e30", "--trials", "2"]
    result = vitab(*RUN, *wild)
    assert result.exit_code == 0, result.output
    assert "1 of 2 trial runs diverged, which score chance" in result.stdout
    assert "diverged" not in result.stderr
    results = load_results(Store(Path("runs")), "smoke")
    assert results.trials is not None
    rows = results.trials.set_index("learning_rate")
    assert rows.loc[1e30, ["diverged", "trained_epochs", "validation_accuracy"]].tolist() == [1, 0, 0.1]
    assert set(results.runs["learning_rate"]) == {1e-3}
    assert "smoke: tuned by 2 trial runs, 1 diverged" in vitab("status").stdout


def test_only_lost_trials_are_trained_again() -> None:
    succeeds(*TUNE)
    before, plan = files(), Store(Path("runs")).read_study("smoke")
    trials = TrialStore(Path("runs/trials"))
    (trials.folder(plan.trials[0].key) / "DONE.json").unlink()
    again = succeeds(*TUNE)
    assert "study smoke: tuning, round 1 of 2, 8 trial runs, 1 to do, 7 already finished" in again
    assert "different plan" not in again
    assert files() == before


def test_damaged_trials_are_found() -> None:
    succeeds(*TUNE)
    plan = Store(Path("runs")).read_study("smoke")
    assert "all files of 4 finished runs and 16 trial runs are intact" in succeeds("verify")
    folder = TrialStore(Path("runs/trials")).folder(plan.trials[3].key)
    (folder / "metrics.csv").write_text("epoch\n")
    for command in (("verify",), ("verify", "smoke"), ("status", "--verify")):
        result = vitab(*command)
        assert result.exit_code == 1
        assert f"{folder.name}" in result.stdout.replace("\n", "")
    result = vitab(*TUNE)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(f"is damaged: delete {folder} and run the study again")


def test_stale_trials_are_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    succeeds(*TUNE)
    trials = TrialStore(Path("runs/trials"))
    key = Store(Path("runs")).read_study("smoke").trials[0].key
    monkeypatch.setattr("ablations.storage.consistency.recorded_version", lambda environment: {"model": "old"})
    result = vitab(*TUNE, "--seeds", 3)
    assert "trial runs of study smoke trained with different code" in result.stderr
    before = trials.result_digest(key)
    again = succeeds("retry", "--stale", "--workers", 1)
    assert "tuning, round 2 of 2, 16 trial runs, 16 to do" in again
    assert again.splitlines()[-1].startswith("to continue the study: vitab run --grid smoke")
    assert trials.result_digest(key) is not None
    assert before is not None


def test_a_dry_run_states_the_cost_of_both_phases_and_writes_nothing() -> None:
    lines = succeeds(*TUNE, "--dry-run").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("before them, 8 trials of each arm:"))
    assert lines[at].endswith("learning rate 0.0001:0.01:log, weight decay 0,0.1,0.2")
    assert lines[at + 1].startswith("16 trial runs, 16 to do: ")
    assert lines[at + 2].startswith("about ")
    assert "(without pruning " in lines[at + 2]
    assert lines[at + 3].startswith("in all about ")
    assert any(line.startswith("4 runs, 4 to do: ") for line in lines)
    assert not Path("runs").exists()
    succeeds(*TUNE)
    assert "4 runs, 0 to do" in succeeds(*TUNE, "--dry-run")
    assert "trial runs" not in succeeds(*TUNE, "--dry-run")


def test_too_few_trials_to_prune_are_a_warning() -> None:
    few = [*RUN, *SPACE, "--trials", 4, "--prune"]
    warning = (
        "warning: no trial will be pruned: the first round of 4 trials never is, and there are 4; use at least "
        "--trials 5, or --no-prune\n"
    )
    dry = vitab(*few, "--dry-run")
    assert warning in dry.stderr
    assert "without pruning" not in dry.stdout
    assert warning in vitab(*few).stderr
    assert warning not in vitab(*few).stderr  # all trials are finished
    assert "will be pruned" not in vitab("run", "--grid", "rope-tuned", "--smoke", "--dry-run").stderr


def test_seeds_are_added_to_tuned_arms_until_they_are_decided() -> None:
    grown = succeeds(*TUNE, "--seeds", 3, "--max-seeds", 6, "--until-decided")
    assert "tuned by 16 trial runs" in grown
    assert "of at most 12 runs were needed" in grown
    plan = Store(Path("runs")).read_study("smoke")
    assert plan.design is not None
    assert len(plan.trials) == 16
    assert len({config.learning_rate for config in plan.configs}) == 2
    refused(vitab(*TUNE, "--seeds", 3))
    other = [*RUN, *SPACE, "--trials", 9, "--seeds", 3, "--until-decided"]
    assert "was started with other runs or other data" in vitab(*other).stderr


def test_a_study_from_python_is_tuned_too() -> None:
    succeeds(*TUNE, "--seeds", "2")
    grid = GRIDS["smoke"]
    tuning = TuningDesign({"learning_rate": Range(1e-4, 1e-2, True), "weight_decay": (0, 0.1, 0.2)}, 8, prune="median")
    made = ablations.Grid(grid.name, grid.question, grid.base, grid.axes, grid.seeds, tuning=tuning)
    with pytest.warns(UserWarning, match="no difference can reach"):
        study = ablations.run(made, runs="python", workers=1, quiet=True, per_class=5, epochs=4)
    assert study.plan.keys == Store(Path("runs")).read_study("smoke").keys
    assert "tuning=TuningDesign(space={" in study.plan.command
    assert "from ablations import Grid, Range, RunConfig, TuningDesign; " in study.plan.command
    with pytest.raises(ablations.UsageError, match="learning_rate must be set or tuned, not both"):
        ablations.run(made, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trials", "3"], "--trials requires --tune, such as learning_rate=1e-4:1e-2:log"),
        (["--tune-seeds", "3"], "--tune-seeds requires --tune"),
        (["--no-prune"], "--prune requires --tune"),
        (["--tune", "learning_rate"], "--tune must be FIELD=LOW:HIGH"),
        (["--tune", "lr=1e-4:1e-2"], "unknown field 'lr' (did you mean 'learning_rate'?); valid: learning_rate"),
        (["--tune", "wd=0,1"], "unknown field 'wd' (did you mean 'weight_decay'?)"),
        (["--tune", "position=none,rope"], "position cannot be tuned; fields that can: learning_rate"),
        (["--tune", "ema=0:0.9", "--set", "ema=0.5"], "ema must be set or tuned, not both"),
        (["--tune", "ema=0:0.9", "--trials", "0"], "--trials must be an integer of at least 1, got 0"),
        (["--tune", "weight_decay=0:1:log"], "low of weight_decay must be above 0 with log, got 0"),
        (["--tune", "weight_decay=0,1,2", "--trials", "2"], "trials must be at least 3, the number of values of"),
        (
            ["--tune", "crop_padding=0:9", "--trials", "3"],
            "crop_padding must be 0 to 8 for 8x8 images of digits, got 9",
        ),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str) -> None:
    assert message in refused(vitab("run", "--grid", "smoke", *options))
    assert not Path("runs").exists()
