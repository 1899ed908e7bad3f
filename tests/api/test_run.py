"""Studies run from Python have the results of the commands, and the same errors."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ablations
from ablations.api.command import command_of
from ablations.config import GRIDS, RunConfig
from ablations.execution import evaluation
from ablations.storage import Store
from tests.api.conftest import SMOKE
from tests.support import fake_trainer
from tests.support.evaluations import succeeds, vitab

SMALL: dict[str, Any] = {"per_class": 5, "quiet": True}
FILES = ("config.json", "predictions.npz", "checkpoint.safetensors")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(runs: Path) -> dict[str, bytes]:
    """The files of runs that must not depend on how they were trained."""
    return {str(path.relative_to(runs)): path.read_bytes() for path in sorted(runs.glob("*/*")) if path.name in FILES}


@pytest.fixture
def trained_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)


# -- results --


def test_the_runs_are_those_of_the_command(trained: Path, here: Path) -> None:
    succeeds(vitab("run", "--grid", "smoke", "--set", "per_class=5", "--workers", "1"))
    assert len(contents(here / "runs")) == 12
    assert contents(here / "runs") == contents(trained)
    plans = [Store(folder).read_study("smoke") for folder in (here / "runs", trained)]
    assert plans[0] == replace(plans[1], command="vitab run --grid smoke --set per_class=5", protocols=())


def script(workers: int) -> str:
    return (
        "import warnings\n"
        "warnings.simplefilter('ignore', UserWarning)\n"
        "import ablations\n"
        f"study = ablations.run('smoke', per_class=5, workers={workers}, runs='w{workers}')\n"
        "print(study)\n"
        "print(round(study.runs['test_accuracy'].sum(), 6))\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stdin", pytest.param("command", marks=pytest.mark.slow), "file without a guard"])
def test_worker_processes_do_not_run_the_script_again(trained: Path, here: Path, how: str) -> None:
    text = script(2)
    (here / "script.py").write_text(text)
    arguments = {"stdin": ["-"], "command": ["-c", text], "file without a guard": ["script.py"]}[how]
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "study smoke: 4 runs, 4 to do"
    ended = [line for line in lines if re.match(r"\[\d/4\]", line)]
    assert sorted(line.split()[1:4] for line in ended) == sorted(
        [position, "seed", f"{seed}:"] for position in ("none,", "rope,") for seed in (0, 1)
    )
    total = ablations.load_runs(trained)["test_accuracy"].sum()
    assert lines[-2:] == ["<Study smoke in w2: 4 of 4 runs finished; position none, rope; 2 seeds>", f"{total:.6f}"]
    assert contents(here / "w2") == contents(trained)


def test_finished_runs_are_kept_and_more_are_added(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/DONE.json")}
    with pytest.warns(UserWarning, match="no difference can reach"):
        study = ablations.run("smoke", per_class=5, position=["none", "rope", "learned"], workers=1)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "study smoke: 6 runs, 2 to do, 4 already finished",
        "study smoke already exists with a different plan; replacing it (finished runs are kept)",
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert study.runs["position"].value_counts().to_dict() == {"none": 2, "rope": 2, "learned": 2}
    with pytest.warns(UserWarning, match="no difference can reach"):
        ablations.run("smoke", per_class=5, position=["none", "rope", "learned"], workers=1)
    assert capsys.readouterr().out == "study smoke: 6 runs, 0 to do, 6 already finished\n"


@pytest.mark.usefixtures("trained_at_once")
@pytest.mark.filterwarnings("ignore:no difference can reach")
def test_grids_and_changes() -> None:
    def configs(*arguments: Any, **changes: Any) -> list[RunConfig]:
        return list(ablations.run(*arguments, study="any", workers=1, **SMALL | changes).plan.configs)

    found = configs("smoke", position=("none", "rope"), depth=np.arange(1, 3), width=np.int64(32), seeds=np.int64(3))
    assert {(config.position, config.depth, config.width, config.seed) for config in found} == {
        (position, depth, 32, seed) for position in ("none", "rope") for depth in (1, 2) for seed in (0, 1, 2)
    }
    assert type(found[0].depth) is type(found[0].width) is int
    found = configs("smoke", epochs=1, learning_rate=[1e-3, 1], classes=["3", "5"], position="rope")
    assert {(config.learning_rate, config.warmup_epochs, config.classes) for config in found} == {
        (rate, 0.2, ("3", "5")) for rate in (1e-3, 1.0)
    }
    Path("mine.toml").write_text('seeds = 2\n[base]\ndepth = 1\nwidth = 16\n[axes]\nposition = ["none", "alibi-2d"]\n')
    assert configs(Path("mine.toml"), patch=4) == configs("mine.toml", patch=[4])
    grid = ablations.Grid("own", "?", RunConfig(patch=4), {"position": ("none", "rope")}, (7, 8))
    assert [config.seed for config in configs(grid, depth=range(1, 2))] == [7, 7, 8, 8]


@pytest.mark.usefixtures("trained_at_once")
def test_the_command_of_a_plan_runs_the_same_study(here: Path) -> None:
    grid = ablations.Grid(
        "own", 'What\'s "it"?', RunConfig(patch=4, width=16), {"depth": (1, 2), "flip": (False,)}, (5, 6), "1"
    )
    with pytest.warns(UserWarning, match="no difference can reach"):
        plan = ablations.run(grid, study="mine", workers=1, position="rope", **SMALL).plan
    program, option, text = shlex.split(plan.command)
    assert (program, option) == ("python", "-c")
    assert text == (
        "import ablations; from ablations import Grid, RunConfig; "
        'ablations.run(Grid(name="own", question="What\'s \\"it\\"?", base=RunConfig(patch=4, width=16), '
        'axes={"depth": (1, 2), "flip": (False,)}, seeds=(5, 6), baseline="1"), study="mine", position="rope", '
        "per_class=5)"
    )
    os.chdir(here.parent)
    with pytest.warns(UserWarning, match="no difference can reach"):
        exec(text.replace("per_class", f"runs={str(here / 'again')!r}, quiet=True, workers=1, per_class"))
    assert Store(here / "again").read_study("mine") == plan
    assert command_of("rope", {"position": ["none", "rope"], "epochs": 3}) == (
        """python -c 'import ablations; ablations.run("rope", position=["none", "rope"], epochs=3)'"""
    )


@pytest.mark.usefixtures("trained_at_once")
@pytest.mark.filterwarnings("ignore:no difference can reach")
def test_a_recipe_is_below_the_changes(here: Path) -> None:
    options = {"recipe": "light", "epochs": 3, "data": "digits", "study": "any", "workers": 1}
    plan = ablations.run("smoke", **SMALL, **options).plan
    succeeds(vitab("run", "--grid", "smoke", "--set", "per_class=5", "--recipe", "light", "--epochs", "3", "--dry-run"))
    config = plan.configs[0]
    assert (config.epochs, config.crop_padding, config.label_smoothing) == (3, 4, 0.1)
    assert 'ablations.run("smoke", study="any", recipe="light", per_class=5, epochs=3, data="digits")' in plan.command
    succeeds(vitab("run", "--grid", "smoke", "--set", "per_class=5", "--recipe", "light", "--epochs", "3"))
    assert Store(here / "runs").read_study("smoke").keys == plan.keys


def test_stacks_have_the_results_of_single_runs(trained: Path, here: Path) -> None:
    with pytest.warns(UserWarning, match="no difference can reach"):
        study = ablations.run("smoke", workers=1, stack=2, **SMALL)
    assert contents(here / "runs") == contents(trained)
    assert {Store(here / "runs").environment(key)["stack"] for key in study.plan.keys} == {2}


@pytest.mark.usefixtures("trained_at_once")
@pytest.mark.filterwarnings("ignore:no difference can reach")
def test_protocols_that_are_asked_for() -> None:
    study = ablations.run(SMOKE, protocol="per-class,calibration", workers=1, **SMALL)
    assert study.plan.protocols == ("per-class", "calibration")
    assert set(study.evaluations["protocol"]) == {"per-class", "calibration"}
    assert 'protocol=["per-class", "calibration"]' in study.plan.command
    assert ablations.run(SMOKE, runs="others", protocol=[], workers=1, **SMALL).plan.protocols == ()


@pytest.mark.usefixtures("trained_at_once")
def test_seeds_are_added_until_the_contrasts_are_decided(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"seeds": 3, "until_decided": True, "max_seeds": 6, "workers": 1, "per_class": 5}
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        study = ablations.run("smoke", **asked)
    succeeds(vitab("run", "--grid", "smoke", "--set", "per_class=5", "--seeds", "3", "--until-decided",
                   "--max-seeds", "6", "--runs", "theirs", "--workers", "1"))  # fmt: skip
    theirs = Store(here / "theirs").read_study("smoke")
    assert study.plan == replace(theirs, command=study.plan.command)
    assert len(study.runs) == len(theirs.keys) == 12
    assert "seeds=3, until_decided=True, max_seeds=6, per_class=5" in study.plan.command
    assert "12 of at most 12 runs were needed" in capsys.readouterr().out
    with pytest.raises(ablations.UsageError, match="was started with --seeds 3 --max-seeds 6, which cannot be changed"):
        ablations.run("smoke", **asked | {"max_seeds": 9})


def test_failed_runs_of_a_growing_study_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train_with_failures)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            ablations.VitabError, match=r"2 of .* runs failed; .*none, seed 1: the run cannot be trained"
        ):
            ablations.run("smoke", seeds=3, until_decided=True, workers=1, **SMALL)


def test_protocols_of_a_grid_are_measured(trained: Path) -> None:
    plan = Store(trained).read_study("smoke")
    assert plan.protocols == ("calibration",)
    assert set(ablations.load_evaluations(trained)["key"]) == set(plan.keys)


# -- the study --


@pytest.mark.slow
def test_a_study_has_the_tables_and_the_report_of_the_commands(runs: Path, here: Path) -> None:
    study = ablations.study("smoke")
    for table, load in (("runs", ablations.load_runs), ("epochs", ablations.load_epochs)):
        pd.testing.assert_frame_equal(getattr(study, table), load())
    for table, load in (("predictions", ablations.load_predictions), ("evaluations", ablations.load_evaluations)):
        pd.testing.assert_frame_equal(getattr(study, table), load())
    assert study.report() == Path("reports/smoke/README.md")
    succeeds(vitab("report", "--out", "theirs"))
    ours, theirs = (
        {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        for folder in ("reports", "theirs")
    )
    assert ours == theirs
    sentences = pd.read_csv("reports/smoke/tables/claims.csv")["sentence"].tolist()
    assert study.findings == sentences
    assert len(sentences) == 3
    assert study.report(here / "other") == here / "other" / "smoke" / "README.md"
    assert repr(study) == "<Study smoke in runs: 4 of 4 runs finished; position none, rope; 2 seeds>"


def test_jupyter_shows_the_first_screen_of_the_report(runs: Path) -> None:
    html = ablations.study("smoke")._repr_html_()
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", html)]
    readme = ablations.study("smoke").report().read_text()
    rows = [row.strip("| ").split(" | ") for row in readme.splitlines() if row.startswith("| ")][:3]
    assert cells == [cell.replace("**", "") for row in (rows[0], rows[2]) for cell in row]
    text = re.sub("<.*?>", "", html)
    assert text.startswith(
        "Does everything work from data to report?\nStudy smoke: 4 of 4 runs finished; position none, rope; 2 seeds.\n"
        f"{ablations.study('smoke').findings[0]}\n"
    )
    assert "Difference in test accuracy from the baseline none, in percentage points:" in text


def test_a_study_that_cannot_be_shown_says_why(runs: Path) -> None:
    store = Store(runs)
    plan = store.read_study("smoke")
    store.write_study(replace(plan, study="<b>", question="Is <i> *markup*?"))
    for key in plan.keys:
        (store.folder(key) / "DONE.json").unlink()
    html = ablations.Study("<b>", runs)._repr_html_()
    assert "<h3>Is &lt;i&gt; *markup*?</h3>" in html
    assert "<strong>&lt;b&gt;</strong>: 0 of 4 runs finished; position none, rope; 2 seeds." in html
    assert "has no finished run yet" in html
    assert repr(ablations.study("smoke")) == "<Study smoke in runs: 0 of 4 runs finished; position none, rope; 2 seeds>"
    with pytest.raises(ablations.UsageError, match="no study 'rope' in runs; studies there: "):
        ablations.study("rope")


def test_runs_of_different_code_are_not_compared(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = ablations.study("smoke")
    monkeypatch.setattr(
        "ablations.storage.consistency.recorded_version", lambda environment: {"model": str(id(environment))}
    )
    for ask in (lambda: recorded.findings, recorded.report):
        with pytest.raises(ablations.UsageError, match=r"the runs come from \d versions of the code"):
            ask()
    assert "the runs come from" in recorded._repr_html_()
    assert len(recorded.runs) == 4


# -- errors --


@pytest.mark.parametrize(
    ("grid", "arguments", "message"),
    [
        ("rop", {}, r"unknown grid 'rop' (did you mean 'rope'?); valid: rope, "),
        ("no.toml", {}, "cannot read the grid file no.toml: No such file or directory"),
        ("smoke", {"positon": "rope"}, "unknown field 'positon' (did you mean 'position'?)"),
        ("smoke", {"position": ["none", "rop"]}, "unknown position 'rop' (did you mean 'rope'?)"),
        ("smoke", {"depth": []}, "depth must be a value, or a list of at least one, got []"),
        ("smoke", {"depth": 0}, "depth must be an integer of at least 1, got 0"),
        ("smoke", {"depth": "2"}, "depth must be an integer of at least 1, got '2'"),
        ("smoke", {"epochs": [2, True]}, "epochs must be an integer of at least 1, got True"),
        ("smoke", {"seed": [1, 2]}, "seed cannot be set: seeds=N runs the seeds 0 to N - 1"),
        ("smoke", {"seeds": 0}, "seeds must be an integer of at least 1, got 0"),
        ("smoke", {"seeds": "3"}, "seeds must be an integer of at least 1, got '3'"),
        ("smoke", {"study": "a/b"}, "study must be up to 100 letters, digits, "),
        ("smoke", {"recipe": "lihgt"}, "unknown recipe 'lihgt' (did you mean 'light'?)"),
        ("smoke", {"stack": 0}, "--stack must be auto or an integer of at least 1, got '0'"),
        ("smoke", {"max_seeds": 9}, "max_seeds requires until_decided=True; without it, seeds=N sets the number of"),
        ("smoke", {"until_decided": True, "max_seeds": "9"}, "max_seeds must be an integer, got '9'"),
        ("smoke", {"until_decided": True, "position": "rope"}, "--until-decided needs two levels to compare"),
        ("smoke", {"protocol": "shif"}, "unknown protocol 'shif' (did you mean 'shift'?)"),
        ("smoke", {"track": "aim"}, "unknown tracker 'aim'; valid: tensorboard, mlflow, wandb, trackio"),
        ("smoke", {"workers": 0}, "--workers must be auto or an integer of at least 1, got '0'"),
        ("smoke", {"backend": "torch"}, "--backend must be auto, numpy, cupy, got 'torch'"),
        ("smoke", {"precision": "bf16"}, "precision must be float32 with backend numpy, got 'bf16'"),
        ("smoke", {"patch": 3}, "(8x8 images of digits)"),
        ("smoke", {"data": "folder", "data_dir": "nowhere"}, "nowhere"),
        (replace(GRIDS["smoke"], protocols=("shif",)), {}, "unknown protocol 'shif' (did you mean 'shift'?)"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(grid: Any, arguments: dict, message: str, here: Path) -> None:
    with pytest.raises(ablations.UsageError) as error:
        ablations.run(grid, **{"backend": "numpy", **arguments})
    assert message in str(error.value)
    assert list(here.iterdir()) == []


def test_failed_runs_are_named_with_their_reasons_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train_with_failures)
    with pytest.warns(UserWarning, match="no difference"), pytest.raises(ablations.VitabError) as error:
        ablations.run("smoke", workers=1, **SMALL)
    assert str(error.value) == (
        "2 of 4 runs failed; the same call tries them again; none, seed 1: the run cannot be trained; "
        "rope, seed 1: ZeroDivisionError: division by zero"
    )
    assert not isinstance(error.value, ablations.UsageError)
    assert ablations.study("smoke").runs["seed"].tolist() == [0, 0]
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    with pytest.warns(UserWarning, match="no difference"):
        assert len(ablations.run("smoke", workers=1, **SMALL).runs) == 4


def test_failed_evaluations_are_named_with_their_reasons(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: Any) -> None:
        raise ablations.VitabError("it cannot be measured")

    monkeypatch.setattr(evaluation, "measure", measure)
    with pytest.warns(UserWarning, match="no difference"), pytest.raises(ablations.VitabError) as error:
        ablations.run(replace(SMOKE, protocols=("shift",)), workers=1, **SMALL)
    assert str(error.value).startswith(
        "4 of 4 evaluations failed; the same call tries them again; shift: none, seed 0: it cannot be measured; "
    )


def test_diverged_runs_are_a_warning() -> None:
    with warnings.catch_warnings(record=True) as cautions:
        warnings.simplefilter("always")
        study = ablations.run("smoke", learning_rate=1e30, epochs=3, workers=1, **SMALL)
    assert [str(caution.message) for caution in cautions][-1] == (
        "4 of 4 runs diverged; the report counts a diverged run as finished, with chance accuracy: "
        "none, seed 0; rope, seed 0; none, seed 1; rope, seed 1"
    )
    assert {Path(caution.filename).name for caution in cautions} == {"test_run.py"}
    assert (study.runs["diverged"] > 0).all()


def test_a_sequential_study_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    assert vitab("run", "--grid", "smoke", "--until-decided", "--max-seeds", "3", "--workers", "1").exit_code == 0
    with pytest.raises(ablations.UsageError, match="study smoke was started with --until-decided: choose another"):
        ablations.run("smoke")


# -- interruptions --


def test_an_interrupted_study_is_resumed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: Any, *arguments: Any, **rest: Any) -> Any:
        if config.seed == 1:
            raise KeyboardInterrupt
        return fake_trainer.train(config, *arguments, **rest)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr("ablations.training.trainer.train", interrupted)
    with pytest.warns(UserWarning, match="no difference"), pytest.raises(KeyboardInterrupt):
        ablations.run("smoke", per_class=5, workers=1)
    assert capsys.readouterr().out.splitlines()[-1] == "interrupted after 2 of 4 runs; the same call resumes"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    with pytest.warns(UserWarning, match="no difference"):
        ablations.run("smoke", per_class=5, workers=1)
    assert capsys.readouterr().out.splitlines()[0] == "study smoke: 4 runs, 2 to do, 2 already finished"


@pytest.mark.slow
def test_a_real_script_is_interrupted_and_resumed(here: Path) -> None:
    text = "import ablations\nablations.run('smoke', position='none', width=32, epochs={}, workers=2, study='long')\n"
    process = subprocess.Popen(
        [sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(text.format(2000))
    process.stdin.close()
    process.stdin = None
    deadline = time.monotonic() + 60
    while not Path("runs/studies/long.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "interrupted after 0 of 2 runs; the same call resumes"
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    keys = Store(here / "runs").read_study("long").keys
    assert not any(map(Store(here / "runs").done, keys))
    assert list(here.glob("runs/*/resume.bin"))


@pytest.mark.usefixtures("trained_at_once")
def test_a_study_can_be_run_in_a_thread() -> None:
    found: list[ablations.Study] = []
    thread = threading.Thread(target=lambda: found.append(ablations.run("smoke", seeds=8, workers=1, **SMALL)))
    thread.start()
    thread.join()
    assert len(found[0].runs) == 16


# -- progress --


def test_quiet_prints_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="no difference"):
        ablations.run("smoke", workers=1, **SMALL)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("trained_at_once")
def test_on_a_terminal_there_is_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr("ablations.commands.progress.LiveProgress.__enter__", lambda self: chosen.append(self) or self)
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes a terminal for Rich
    with pytest.warns(UserWarning, match="no difference"):
        ablations.run("smoke", per_class=5, workers=1)
    assert len(chosen) == 1
