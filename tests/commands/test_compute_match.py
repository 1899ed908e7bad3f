"""Studies whose arms share compute, as users meet them: plan, status, report, comparison, resumption, bad input."""

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ablations
from ablations.cli import app
from ablations.storage import Store
from tests.support import fake_trainer

RUN = ["run", "--grid", "smoke", "--set", "per_class=5", "--workers", "1", "--quiet"]
DEPTHS = [*RUN, "--position", "none", "--depth", "1,2,4", "--epochs", "20", "--set", "warmup_epochs=2"]
"""Width 16 and 4 patches of 16 pixels: 2 (4 16 16 + 16 10 + depth 12,800) FLOPs, so depth 2 costs 1.915 of depth 1 and
depth 4 3.746, which leaves 10.44 and 5.34 epochs of 20."""


@pytest.fixture(autouse=True)
def here(workplace, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    return workplace


@pytest.fixture
def timed(monkeypatch):
    """Pairs that were measured: rope takes 1.28 times as long as none. A study would take others the second time."""
    pairs = []

    def epoch_times(configs, datasets, **settings):
        pairs.append(tuple(config.position for config in configs))
        costs = {"none": 1.0, "rope": 1.28, "cpe": 0.5} if len(pairs) == 1 else {"none": 1.0, "rope": 2.0, "cpe": 0.5}
        return np.array([[costs[config.position.split("(")[0]] for config in configs]] * 20)

    monkeypatch.setattr("ablations.training.timing.epoch_times", epoch_times)
    return pairs


def vitab(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def epochs_of(study, axis="depth"):
    """The epochs and warm-up of each arm in the plan."""
    configs = Store(Path("runs")).read_study(study).configs
    return {getattr(config, axis): (config.epochs, round(config.warmup_epochs, 9)) for config in configs}


def test_arms_of_several_depths_get_equal_flops():
    planned = vitab(*DEPTHS, "--match", "flops", "--dry-run")
    assert planned.exit_code == 0, planned.output
    rows = [line.split() for line in planned.output.splitlines() if line.startswith("none")]
    assert [row[5:8] for row in rows] == [["20", "100", "%"], ["10", "96", "%"], ["5", "94", "%"]]
    assert not Path("runs").exists()

    done = vitab(*DEPTHS, "--match", "flops")
    assert done.exit_code == 0, done.output
    line = (
        "epochs for equal training FLOPs: 20 for depth 1, 10 for depth 2, 5 for depth 4; rounding gives 94 % to 100 % "
        "of the FLOPs of depth 1"
    )
    assert line in done.output
    assert epochs_of("smoke") == {1: (20, 2.0), 2: (10, 1.0), 4: (5, 0.5)}
    assert f"smoke: {line}" in vitab("status").output
    again = vitab(*DEPTHS, "--match", "flops")
    assert "6 runs, 0 to do" in again.output

    compared = vitab("compare", "4", "1").output
    assert "All arms have equal training FLOPs; epochs: 20 for depth 1, 10 for depth 2, 5 for depth 4." in compared


@pytest.mark.slow
def test_the_report_says_how_compute_was_matched(timed):
    assert vitab(*DEPTHS, "--match", "flops").exit_code == 0
    assert vitab("report", "smoke", "--paper").exit_code == 0
    text = Path("reports/smoke/README.md").read_text(encoding="utf-8")
    assert "All arms have equal training FLOPs, with 5 to 20 epochs ([Method](#method))." in text
    assert "- **Training.** 5 to 20 epochs," in text
    assert "all arms have the training FLOPs of **depth 1**, which is trained for 20 epochs." in text
    assert "| 4 | 5 | 3.746 | 94 |" in text
    assert "measures them again" not in text
    rows = csv.DictReader(Path("reports/smoke/tables/compute.csv").read_text().splitlines())
    assert [(row["depth"], row["epochs"], row["share_percent"]) for row in rows] == [
        ("1", "20", "100"),
        ("2", "10", "95.7666"),  # 10 x 53,568 of 20 x 27,968
        ("4", "5", "93.6499"),  # 5 x 104,768 of 20 x 27,968
    ]
    paper = Path("reports/smoke/paper.md").read_text(encoding="utf-8")
    assert "trained for 5 to 20 epochs, so a difference between two arms combines" in paper
    assert vitab("report", "smoke", "--check").exit_code == 0
    assert vitab(*RUN, "--study", "timed", "--match", "seconds", "--epochs", "20").exit_code == 0
    assert vitab("report", "timed").exit_code == 0
    text = Path("reports/timed/README.md").read_text(encoding="utf-8")
    assert "| rope | 16 | 1.280 | 1.280 to 1.280 | 102 |" in text
    assert "In a folder without the measured times of this study, it measures them again" in text


def test_two_studies_are_compared_with_all_their_epochs():
    assert vitab(*DEPTHS, "--match", "flops").exit_code == 0
    assert vitab(*DEPTHS, "--study", "equal").exit_code == 0
    assert len(list(Path("runs").glob("*/DONE.json"))) == 6 + 4  # both have the runs of the baseline
    compared = vitab("compare", "smoke", "equal").output
    assert "Differences between them: epochs 5 to 20 against 20; warmup epochs 0.5 to 2 against 2." in compared


def test_measured_epochs_stay_when_a_study_is_resumed(timed):
    run = [*RUN, "--epochs", "20", "--match", "seconds"]
    seen = vitab(*run, "--dry-run")
    assert "1 pair of arm and baseline, up to 12 s each; vitab run measures them again" in seen.output
    assert "20 for none, 16 for rope" in seen.output
    timed.clear()

    first = vitab(*run)
    assert first.exit_code == 0, first.output
    assert "epochs for equal training time: 20 for none, 16 for rope; rounding gives 100 % to 102 %" in first.output
    assert vitab(*run).exit_code == 0
    assert vitab(*run, "--seeds", 3).exit_code == 0
    assert timed == [("rope", "none")]
    assert epochs_of("smoke", "position") == {"none": (20, 0.2), "rope": (16, 0.16)}

    added = vitab(*run, "--position", "none,rope,cpe(where=each)")
    assert added.exit_code == 0, added.output
    assert timed == [("rope", "none"), ("cpe(where=each)", "none")]
    epochs = epochs_of("smoke", "position")
    assert (epochs["rope"][0], epochs["cpe(where=each)"][0]) == (16, 40)
    other = vitab(*run, "--study", "other")
    assert "10 for rope" in other.output  # a study of its own is measured on its own


def test_rounds_of_a_growing_study_have_the_same_epochs():
    run = [*DEPTHS, "--match", "flops", "--until-decided", "--max-seeds", 4]
    done = vitab(*run)
    assert done.exit_code == 0, done.output
    plan = Store(Path("runs")).read_study("smoke")
    assert len(plan.seeds) > 2
    assert epochs_of("smoke") == {1: (20, 2.0), 2: (10, 1.0), 4: (5, 0.5)}
    assert plan.match is not None
    assert vitab(*run).exit_code == 0


def test_the_epochs_of_a_run_from_python():
    with pytest.warns(UserWarning, match="no difference can reach"):
        study = ablations.run(
            "smoke", per_class=5, depth=[1, 2], position="none", epochs=20, match="flops", workers=1, quiet=True
        )
    assert study.runs.groupby("depth")["epochs"].unique().map(list).to_dict() == {1: [20], 2: [10]}
    assert 'match="flops"' in Store(Path("runs")).read_study("smoke").command
    with pytest.raises(ablations.UsageError, match="match must be 'flops' or 'seconds', got 'hours'"):
        ablations.run("smoke", match="hours")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--match", "time"], "error: match must be 'flops' or 'seconds', got 'time'"),
        (["--match", "flops", "--position", "none"], "error: match 'flops' needs two levels to compare, such as"),
        (
            ["--match", "flops", "--position", "none", "--depth", "1,4", "--epochs", "3"],
            "error: epochs must give every arm the compute of at least one epoch, got 3 for the baseline depth 1, "
            "which gives depth 4 0.8;",
        ),
    ],
)
def test_bad_input_is_one_line(options, message):
    refused = vitab(*RUN, *options)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_a_cluster_measures_nothing():
    refused = vitab("run", "--grid", "smoke", "--match", "seconds", "--dask", "tcp://127.0.0.1:1")
    assert refused.exit_code == 2
    assert "error: match 'seconds' measures the arms on the machine that trains them: start the" in refused.stderr
