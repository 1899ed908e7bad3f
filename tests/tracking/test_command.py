"""`vitab track` and `vitab run --track`: what they print and copy, and bad input."""

from importlib.util import find_spec
from pathlib import Path

import pytest

import ablations
from ablations.commands.run import rerun_command
from ablations.storage import Store
from ablations.tracking import registry, study
from tests.support import fake_trainer
from tests.support.evaluations import digests, refused, succeeds, vitab
from tests.support.fake_trackers import calls
from tests.support.tracked import replace_file
from tests.tracking.conftest import REAL_REPORT, SMOKE


def test_runs_are_copied_while_they_are_trained(here: Path) -> None:
    lines = succeeds(vitab(*SMOKE, "--track", "fake"))
    assert lines[-3:] == [
        "all 4 runs are finished; next: vitab report smoke",
        "writing the report for fake",
        "fake: notes in runs/tracking/fake; to look: cat",
    ]
    made = calls()
    assert made[0] == ["connect", "smoke"]
    for number, name in enumerate(("none, seed 0", "rope, seed 0", "none, seed 1", "rope, seed 1")):
        assert [call[0] for call in made if call[1] == name] == ["start_run", "log", "log", "log", "finish"]
        assert ["finish", name, 3, 0.5 + 0.01 * (number // 2)] in made
    assert made[-1] == ["report", ["README.md", "figures", "report.html", "tables"]]
    assert succeeds(vitab("track", "--to", "fake")) == [
        "copied 0 runs of study smoke to fake, 4 were there: notes in runs/tracking/fake",
        "to look: cat",
    ]


def test_runs_that_were_finished_before_are_left_to_track(here: Path) -> None:
    succeeds(vitab(*SMOKE, "--seeds", "1"))
    lines = succeeds(vitab(*SMOKE, "--track", "fake"))
    assert lines[-2:] == [
        "fake: notes in runs/tracking/fake; to look: cat",
        "not in fake: 2 finished runs; to copy: vitab track smoke --to fake",
    ]
    assert [call[1] for call in calls() if call[0] == "finish"] == ["none, seed 1", "rope, seed 1"]
    assert succeeds(vitab(*SMOKE, "--track", "fake"))[-1] == (
        "no run was trained; to copy finished runs to fake: vitab track smoke --to fake"
    )
    assert succeeds(vitab("track", "smoke", "--to", "fake"))[0] == (
        "copied 2 runs of study smoke to fake, 2 were there: notes in runs/tracking/fake"
    )


@pytest.mark.slow
def test_the_runs_of_worker_processes_are_copied(here: Path) -> None:
    succeeds(vitab(*SMOKE, "--workers", "2", "--track", "fake"))  # trains
    made = calls()
    for name in ("none, seed 0", "rope, seed 0", "none, seed 1", "rope, seed 1"):
        assert [call[0] for call in made if call[1] == name] == ["start_run", "log", "log", "log", "finish"]
        assert [call[2] for call in made if call[:2] == ["log", name]] == [[1], [2], [3]]


@pytest.mark.slow
def test_the_rounds_of_a_study_that_grows_are_copied(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeds(vitab(*SMOKE, "--seeds", "3", "--until-decided", "--max-seeds", "6", "--track", "fake"))
    made = calls()
    assert [call[0] for call in made].count("connect") == 1
    store = Store(here / "runs")
    assert [call[0] for call in made].count("finish") == len(store.read_study("smoke").keys) == 12
    assert made[-1][0] == "report"


def test_a_failed_run_is_copied_when_it_is_retried(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train_with_failures)
    assert vitab(*SMOKE, "--track", "fake").exit_code == 1
    assert len([call for call in calls() if call[0] == "finish"]) == 2
    before = len(calls())
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    lines = succeeds(vitab("retry", "--track", "fake", "--workers", "1"))
    assert lines[-1] == "fake: notes in runs/tracking/fake; to look: cat"
    made = calls()[before:]
    assert [call[1] for call in made if call[0] == "finish"] == ["none, seed 1", "rope, seed 1"]
    assert made[-1][0] == "report"
    assert succeeds(vitab("retry", "--track", "fake")) == ["study smoke has no failed run"]


@pytest.mark.slow
def test_a_stale_run_is_copied_anew_when_it_is_retried(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeds(vitab("track", "--to", "fake"))
    store = Store(finished)
    key = store.read_study("smoke").keys[0]
    code = store.environment(key)["code"]
    replace_file(store, key, "environment.json", code=code | {"training": "other"})
    before = len(calls())
    succeeds(vitab("retry", "--stale", "--track", "fake", "--workers", "1"))
    assert [call[:2] for call in calls()[before:] if call[0] == "finish"] == [["finish", "none, seed 0"]]


def test_runs_from_python_are_copied(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="no difference can reach"):
        ablations.run("smoke", per_class=5, epochs=3, workers=1, track="fake")
    assert capsys.readouterr().out.splitlines()[-1] == "fake: notes in runs/tracking/fake; to look: cat"
    assert len([call for call in calls() if call[0] == "finish"]) == 4
    assert "track" not in Store(here / "runs").read_study("smoke").command
    with pytest.raises(ablations.UsageError, match="unknown tracker 'aim'"):
        ablations.run("smoke", track="aim")


def test_a_folder_that_is_not_the_default_is_in_the_commands_that_are_named(here: Path) -> None:
    where = ["--runs", "my runs"]
    succeeds(vitab(*SMOKE, *where))
    assert succeeds(vitab(*SMOKE, *where, "--track", "fake"))[-1] == (
        "no run was trained; to copy finished runs to fake: vitab track smoke --to fake --runs 'my runs'"
    )
    assert succeeds(vitab("track", "--to", "fake", *where))[0] == (
        "copied 4 runs of study smoke to fake: notes in my runs/tracking/fake"
    )


def test_runs_that_are_not_finished_are_named(finished: Path) -> None:
    store = Store(finished)
    for path in store.folder(store.read_study("smoke").keys[0]).iterdir():
        path.unlink()
    result = vitab("track", "--to", "fake")
    assert succeeds(result)[0] == "copied 3 runs of study smoke to fake: notes in runs/tracking/fake"
    assert result.stderr == "note: 1 of 4 runs are not finished\n"


@pytest.mark.slow
def test_the_report_is_that_of_vitab_report(finished: Path) -> None:
    with REAL_REPORT(Store(finished), "smoke") as folder:
        assert succeeds(vitab("report", "smoke", "--check", "--out", folder.parent)) == [f"{folder} matches its 4 runs"]
        assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert not folder.exists()


@pytest.mark.slow
def test_a_study_of_several_versions_gets_no_report(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "written_report", REAL_REPORT)
    store = Store(finished)
    replace_file(store, store.read_study("smoke").keys[0], "environment.json", data_sha256="other")
    result = vitab("track", "--to", "fake")
    assert succeeds(result)[0].startswith("copied 4 runs of study smoke to fake: ")
    assert result.stderr.startswith("note: fake gets no report: the runs come from 2 versions of the data: ")
    assert "report" not in [call[0] for call in calls()]


def test_the_plan_of_a_study_does_not_name_the_tracker(here: Path) -> None:
    succeeds(vitab(*SMOKE, "--track", "fake"))
    assert Store(here / "runs").read_study("smoke").command == "vitab run --grid smoke --set per_class=5 --epochs 3"
    assert rerun_command(["run", "--track=mlflow", "--grid", "rope"]) == "vitab run --grid rope"


def test_a_dry_run_copies_nothing(here: Path) -> None:
    succeeds(vitab(*SMOKE, "--track", "fake", "--dry-run"))
    assert list(here.iterdir()) == []


BAD = [
    (["track", "smoke", "--to", "tensorbord"], "unknown tracker 'tensorbord' (did you mean 'tensorboard'?); valid: "),
    (["track", "nope", "--to", "fake"], "no study 'nope' in runs; studies there: smoke"),
    (
        ["track", "--to", "fake", "--runs", "nowhere"],
        "no study has a finished run; there are no studies in nowhere yet",
    ),
    (["track", "smoke"], "Missing option '--to'"),
    (["retry", "smoke", "--track", "aim"], "unknown tracker 'aim'; valid: tensorboard, mlflow, wandb, trackio"),
    ([*SMOKE, "--track", "aim"], "unknown tracker 'aim'; valid: tensorboard, mlflow, wandb, trackio"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(finished: Path, arguments: list[str], message: str) -> None:
    before = digests(finished)
    assert message in refused(vitab(*arguments))
    assert digests(finished) == before
    assert [path.name for path in Path().iterdir()] == ["runs"]


def test_a_study_without_a_finished_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*rest: object, **more: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr("ablations.training.trainer.train", fails)
    vitab(*SMOKE)
    assert "study smoke has no finished run to track; run it first" in refused(vitab("track", "smoke", "--to", "fake"))
    assert not (here / "runs" / "tracking").exists()


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("tensorboard", "the package tensorboard"),
        ("mlflow", "the packages mlflow and sqlalchemy and alembic"),
        ("wandb", "the package wandb"),
        ("trackio", "the package trackio"),
    ],
)
def test_a_tracker_that_is_not_installed(here: Path, monkeypatch: pytest.MonkeyPatch, name: str, needs: str) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda package: None)
    (here / "wandb").mkdir()
    for option, arguments in (("--track", [*SMOKE, "--track", name]), ("--to", ["track", "--to", name])):
        assert refused(vitab(*arguments)) == f"error: {option} {name} needs {needs}: pip install 'vitab[{name}]'\n"
    assert [path.name for path in here.iterdir()] == ["wandb"]


def test_a_folder_of_the_name_of_a_package_is_not_the_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "fake").mkdir()
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(registry.PACKAGES, "fake")
    assert find_spec("fake") is not None
    assert refused(vitab("track", "--to", "fake")).startswith("error: --to fake needs the package fake: ")
