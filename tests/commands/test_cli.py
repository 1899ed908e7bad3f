import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.commands.run import rerun_command
from ablations.storage import Store
from ablations.training.trainer import train as real_train
from tests.support import fake_trainer

SMOKE = ["run", "--grid", "smoke", "--set", "per_class=5", "--workers", "1"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(workplace, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    return workplace


def vitab(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def start(*arguments, **options):
    """The real program, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "ablations.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )


def all_gone(group):
    """Return whether the processes of a group end within a minute."""
    for _ in range(1200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


BAD = [
    (["run"], "Missing option '--grid'"),
    (["run", "--grid", "rope", "--precision", "int8"], "--precision must be float32, tf32, bf16, got 'int8'"),
    (
        ["run", "--grid", "rope", "--backend", "numpy", "--precision", "bf16"],
        "precision must be float32 with backend numpy, got 'bf16'",
    ),
    (["bench", "--backend", "numpy", "--precision", "tf32"], "precision must be float32 with backend numpy"),
    (
        ["run", "--grid", "rpoe"],
        "unknown grid 'rpoe' (did you mean 'rope'?); valid: rope, rope-tuned, encodings, depth, patch, data-fraction, "
        "cifar100-20, cifar100-20-fraction, cifar100, smoke",
    ),
    (
        ["run", "--grid", "rope", "--position", "none,spiral"],
        "unknown position 'spiral' (did you mean 'sinusoidal'?); valid: none, learned",
    ),
    (["run", "--grid", "rope", "--data", "digts"], "unknown dataset 'digts' (did you mean 'digits'?); valid: digits"),
    (["run", "--grid", "rope", "--patch", "3"], "error: patch must divide the image size 8 (1, 2, 4, 8), got 3"),
    (
        ["run", "--grid", "rope", "--set", "crop_padding=9"],
        "crop_padding must be 0 to 8 for 8x8 images of digits, got 9",
    ),
    (["run", "--grid", "rope", "--patch", "0"], "patch must be an integer of at least 1, got 0"),
    (["run", "--grid", "rope", "--depth", "2,x"], "depth must be an integer of at least 1, got 'x'"),
    (["run", "--grid", "rope", "--set", "heads=3"], "width must be a multiple of heads (3), got 64"),
    (["run", "--grid", "rope", "--position", "rope", "--set", "width=12"], "rope"),
    (["run", "--grid", "rope", "--position", "sinusoidal", "--set", "width=18"], "sinusoidal"),
    (["run", "--grid", "rope", "--set", "widht=3"], "unknown field 'widht' (did you mean 'width'?)"),
    (["run", "--grid", "rope", "--set", "width"], "--set must be FIELD=VALUE"),
    (["run", "--grid", "rope", "--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
    (["run", "--grid", "rope", "--seeds", "-2"], "seeds must be an integer of at least 1, got -2"),
    (["run", "--grid", "rope", "--seeds", "two"], "--seeds"),
    (["run", "--grid", "rope", "--epochs", "0"], "epochs must be an integer of at least 1, got 0"),
    (["run", "--grid", "rope", "--workers", "0"], "--workers must be auto or an integer of at least 1"),
    (["run", "--grid", "rope", "--stack", "0"], "--stack must be auto or an integer of at least 1, got '0'"),
    (["retry", "--stack", "x"], "there are no studies in runs yet"),
    (["run", "--grid", "rope", "--backend", "jax"], "--backend must be auto, numpy, cupy, got 'jax'"),
    (["run", "--grid", "rope", "--study", "../x"], "--study must be"),
    (["run", "--grid", "rope", "--labels", "coarse"], "cifar100"),
    (["run", "--grid", "rope", "--classes", "99"], "99"),
    (["run", "--grid", "rope", "--data", "cifar10", "--data-dir", "missing"], "missing"),
    (["run", "--grid", "missing.toml"], "cannot read the grid file missing.toml: No such file"),
    (["run", "--grid", "bad.toml"], "bad.toml is not valid TOML"),
    (["run", "--grid", "rope", "--girds"], "No such option"),
    (["rnu"], "No such command 'rnu'"),
    (["report"], "no study has a finished run; there are no studies in runs yet"),
    (["report", "nope"], "no study 'nope' in runs; there are no studies in runs yet"),
    (["status", "nope"], "no study 'nope' in runs"),
    (["data", "fetch", "cifar"], "cifar10"),
    (["data", "fetch", "digits"], "to be downloaded, got 'digits'"),
    (["bench", "--image", "30", "--patch", "4"], "patch_size must divide the image size 30"),
    (["bench", "--position", "spiral"], "spiral"),
    (["bench", "--backend", "jax"], "--backend must be"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_with_exit_code_2_and_nothing_is_written(here, arguments, message):
    Path("bad.toml").write_text("axes.depth = [1,, 2]")
    result = vitab(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert [path.name for path in here.iterdir()] == ["bad.toml"]


def test_bad_input_in_a_real_process(here):
    process = start("run", "--grid", "rpoe")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: unknown grid 'rpoe'")
    assert list(here.iterdir()) == []


def test_a_runs_folder_that_cannot_be_written(here):
    Path("runs").write_text("a file")
    result = vitab(*SMOKE)
    assert result.exit_code == 2
    assert "error: cannot write to --runs runs: " in result.stderr
    assert Path("runs").read_text() == "a file"


def test_a_grid_from_run_to_status(here):
    result = vitab(*SMOKE)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "study smoke: 4 runs, 4 to do"
    assert lines[1].startswith("[1/4] none, seed 0: test 50.0%, validation 20.0%, 0.8 s; ")
    assert lines[-1] == "all 4 runs are finished; next: vitab report smoke"
    assert result.stderr.startswith("warning: no difference can reach p = 0.05")
    again = vitab(*SMOKE)
    assert again.stdout.splitlines() == [
        "study smoke: 4 runs, 0 to do, 4 already finished",
        "all 4 runs are finished; next: vitab report smoke",
    ]
    status = vitab("status", "--verify")
    assert status.stdout.splitlines()[1].split()[:5] == ["smoke", "4", "4", "0", "0"]
    assert "all files of all finished runs are intact" in status.stdout
    assert [path.name for path in here.iterdir()] == ["runs"]
    key = Store(Path("runs")).read_study("smoke").keys[2]
    Path("runs", key[:16], "metrics.csv").write_text("")
    status = vitab("status", "smoke", "--verify")
    assert status.exit_code == 1
    assert "smoke: none, seed 1 is damaged: metrics.csv" in status.stdout


def test_failed_runs_are_named_with_their_reasons(monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train_with_failures)
    result = vitab(*SMOKE)
    assert result.exit_code == 1
    assert "[4/4] rope, seed 1: FAILED: ZeroDivisionError: division by zero" in result.stdout
    assert result.stderr.splitlines()[1:] == [
        "failed: none, seed 1: the run cannot be trained",
        "failed: rope, seed 1: ZeroDivisionError: division by zero",
        "2 of 4 runs failed; run the same command again to retry them",
    ]
    status = vitab("status")
    assert status.stdout.splitlines()[1].split()[:5] == ["smoke", "4", "2", "2", "0"]
    assert "smoke: none, seed 1 failed: the run cannot be trained" in status.stdout
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    assert vitab(*SMOKE).exit_code == 0


def test_diverged_runs_are_finished_counted_and_reported(here, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", real_train)
    Path("wild.toml").write_text("""
question = "Does a higher learning rate diverge?"
seeds = 3
base = {position = "none", epochs = 4, per_class = 8, width = 16}
axes = {learning_rate = [2e-3, 1e30]}
""")
    run = vitab("run", "--grid", "wild.toml", "--workers", "1")
    assert run.exit_code == 0, run.output
    wild = r"\] none, learning rate 1e\+30, seed \d: DIVERGED: the loss was not finite in epoch 1, "
    assert len(re.findall(wild, run.stdout)) == 3
    warning = "warning: 3 of 6 runs diverged; the report counts a diverged run as finished, with chance accuracy: "
    assert warning in run.stderr
    assert "all 6 runs are finished" in run.stdout
    status = " ".join(vitab("status").stdout.split())
    assert status.startswith("study runs done diverged failed to do running question wild 6 6 3 0 0 0 ")
    assert vitab("verify").exit_code == 0
    assert vitab("report").exit_code == 0
    text = Path("reports/wild/README.md").read_text(encoding="utf-8")
    assert "> **Diverged runs.** 3 of 6 runs diverged (learning rate 1e+30 3): the loss was not finite" in text
    assert "**learning rate 1e+30** diverged in 3 of 3 runs (100.0 %; exact 95 % interval 29.2 to 100.0 %)" in text
    assert "Without diverged runs no pair is left." in text
    runs = pd.read_csv("reports/wild/tables/runs.csv").set_index("learning_rate").sort_index()
    assert runs.loc[1e30, "test_accuracy"].tolist() == [0.1] * 3
    assert runs["diverged"].tolist() == [0, 0, 0, 1, 1, 1]
    assert vitab("report", "--check").exit_code == 0
    assert vitab("compare", "learning_rate=1e+30", "learning_rate=0.002").exit_code == 0
    plan = Store(Path("runs")).read_study("wild")
    again = vitab("reproduce", plan.keys[-1])
    assert again.exit_code == 0, again.output
    assert "bitwise identical; test accuracy 10.00%" in again.stdout


def test_ctrl_c_says_that_the_same_command_resumes(monkeypatch):
    def interrupted(config, *args, **rest):
        if config.seed == 1:
            raise KeyboardInterrupt
        return fake_trainer.train(config, *args, **rest)

    monkeypatch.setattr("ablations.training.trainer.train", interrupted)
    result = vitab(*SMOKE)
    assert result.exit_code == 130
    assert (
        result.stderr.splitlines()[-1] == "error: interrupted after 2 of 4 runs; run the same command again to resume"
    )
    assert vitab("status").stdout.splitlines()[1].split()[:5] == ["smoke", "4", "2", "0", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_grid_is_interrupted_and_resumed(here, number):
    command = ["run", "--grid", "smoke", "--position", "none", "--set", "width=32", "--workers", "2"]
    process = start(*command, "--epochs", "2000", start_new_session=True)
    deadline = time.monotonic() + 60
    while not Path("runs/studies/smoke.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted after 0 of 2 runs; run the same command again to resume"
    assert "Traceback" not in err
    assert all_gone(process.pid)
    store = Store(Path("runs"))
    assert not any(map(store.done, store.read_study("smoke").keys))


@pytest.mark.slow
def test_the_number_of_workers_changes_no_result(here):
    keep = {"predictions.npz", "checkpoint.safetensors", "config.json"}
    for workers in ("1", "2"):
        process = start("run", "--grid", "smoke", "--position", "rope", "--runs", f"w{workers}", "--workers", workers)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert f"next: vitab report smoke --runs w{workers}" in out
    keys = Store(Path("w1")).read_study("smoke").keys
    for key in keys:
        for name in keep:
            assert Path("w1", key[:16], name).read_bytes() == Path("w2", key[:16], name).read_bytes()


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(here):
    result = vitab("run", "--grid", "smoke", "--dry-run", "--set", "per_class=5")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["position", "runs", "done", "parameters", "FLOPs/run", "memory", "time/run"]
    assert lines[1].split()[:4] == ["none", "2", "0", "3,754"]
    assert 255 < int(lines[1].split()[-4]) < 265  # the process, and next to nothing
    assert lines[1].split()[-3] == "MB"
    assert "4 runs, 4 to do" in result.stdout
    assert re.search(
        r"about [\d.]+ s with \d workers?, under 0.01 core-hours, estimated from a few steps timed", result.stdout
    )
    assert "With 2 seeds no difference can become significant, however large: the smallest possible p is 0.5." in lines
    assert lines[-1].startswith("To find 0.5 points in 80 % of studies takes ")
    assert "warning: no difference can reach p = 0.05" in result.stderr
    assert list(here.iterdir()) == []
    vitab(*SMOKE)
    after = vitab("run", "--grid", "smoke", "--dry-run", "--set", "per_class=5")
    assert "4 runs, 0 to do" in after.stdout


def test_workers_and_stacks_are_limited_by_memory_and_a_run_that_cannot_fit_is_refused(here, monkeypatch):
    monkeypatch.setattr("ablations.execution.resources.available_memory", lambda: 2**20)
    for option in ([], ["--dry-run"]):
        refused = vitab("run", "--grid", "rope", "--set", "per_class=5", *option)
        assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert re.match(
            r"error: none, depth 2, patch 2, seed 0 needs about \d+ MB of memory for training, but only 1 MB is ",
            refused.stderr,
        )
    assert list(here.iterdir()) == []
    monkeypatch.setattr("ablations.execution.resources.available_memory", lambda: 400 * 2**20)
    monkeypatch.setattr("ablations.execution.resources.available_cores", lambda: 4)
    result = vitab("run", "--grid", "smoke", "--set", "per_class=5")
    assert result.exit_code == 0, result.stderr
    assert re.match(
        r"1 worker instead of 4: each of 4 would need about 2\d\d MB, but only 360 MB of memory is available\n"
        r"study smoke: 4 runs, 4 to do\n",
        result.stdout,
    )


def test_a_plan_that_changes_is_replaced_and_says_so():
    vitab(*SMOKE)
    result = vitab(*SMOKE, "--seeds", "1", "--position", "rope")
    assert "study smoke already exists with a different plan" in result.stdout
    assert "1 run, 0 to do, 1 already finished" in result.stdout
    assert vitab("status").stdout.splitlines()[1].split()[:3] == ["smoke", "1", "1"]


def test_smoke_makes_a_study_of_its_own_and_options_win():
    result = vitab("run", "--grid", "depth", "--smoke", "--epochs", "3", "--workers", "1", "--quiet")
    assert result.exit_code == 0, result.stderr
    plan = Store(Path("runs")).read_study("depth-smoke")
    assert [(config.depth, config.epochs, config.seed) for config in plan.configs] == [(1, 3, 0)]


def test_a_study_has_the_name_it_is_given():
    assert vitab(*SMOKE, "--study", "mine").exit_code == 0
    assert Store(Path("runs")).studies() == ["mine"]


def test_the_command_of_a_study_comes_from_its_arguments_and_not_from_the_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vitab", "run", "--grid", "other"])
    assert vitab(*SMOKE).exit_code == 0
    assert Store(Path("runs")).read_study("smoke").command == "vitab run --grid smoke --set per_class=5"


def test_report_takes_the_last_study(here, monkeypatch):
    written = []

    def write_report(results, out, format, *, for_paper, evaluations, about, tuning):
        written.append((results.plan.study, len(results.runs), out, for_paper))
        return out / results.plan.study

    monkeypatch.setattr("ablations.reporting.report.write_report", write_report)
    vitab(*SMOKE)
    vitab(*SMOKE, "--study", "second")
    assert vitab("report").exit_code == 0
    result = vitab("report", "smoke", "--out", "elsewhere", "--paper")
    assert result.stdout.startswith("wrote elsewhere/smoke")
    assert written == [("second", 4, Path("reports"), False), ("smoke", 4, Path("elsewhere"), True)]


def test_report_check_fails_when_the_report_no_longer_follows(here, monkeypatch):
    found = []
    monkeypatch.setattr("ablations.reporting.check.differences", lambda *rest, options: found)
    vitab(*SMOKE)
    result = vitab("report", "--check")
    assert (result.exit_code, result.stdout) == (0, "reports/smoke matches its 4 runs\n")
    found += ["README.md, line 3: found 'a', expected 'b'", "figures/cost.png: missing"]
    result = vitab("report", "--check")
    assert (result.exit_code, result.stdout.splitlines()) == (1, found)
    assert result.stderr == (
        "error: reports/smoke does not match the runs in runs; to rewrite it, run: vitab report smoke\n"
    )
    assert not Path("reports").exists()


def test_commands_in_messages_name_the_folders_that_were_given(here):
    vitab(*SMOKE, "--runs", "old runs")
    elsewhere = ["--runs", "old runs", "--out", "elsewhere"]
    checked = vitab("report", "smoke", "--check", *elsewhere)
    assert "write it with: vitab report smoke --runs 'old runs' --out elsewhere\n" in checked.stderr
    for command in (["report", "smoke"], ["compare", "rope", "none"]):
        refused = vitab(*command, "--metric", "shift", "--runs", "old runs")
        assert "run: vitab evaluate smoke --protocol shift --runs 'old runs'\n" in refused.stderr


def test_compare_two_arms_and_two_studies(here):
    vitab(*SMOKE)
    vitab(*SMOKE, "--study", "other", "--epochs", "3")
    arms = vitab("compare", "rope", "none", "--study", "smoke")
    assert arms.exit_code == 0
    assert arms.stdout.startswith("Two arms of study smoke.")
    assert "McNemar p" in arms.stdout
    studies = vitab("compare", "smoke", "other")
    assert studies.stdout.startswith("Study smoke against study other. Differences between them: epochs 2 against 3.")
    wrong = vitab("compare", "rope", "ropes", "--study", "smoke")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "unknown arm 'ropes'" in wrong.stderr


def test_a_report_of_a_study_without_a_finished_run(here, monkeypatch):
    def fails(*args, **rest):
        raise ValueError("no")

    monkeypatch.setattr("ablations.training.trainer.train", fails)
    vitab(*SMOKE)
    for arguments in (["report"], ["report", "smoke"]):
        result = vitab(*arguments)
        assert result.exit_code == 2
        assert "finished run" in result.stderr
        assert "studies there: smoke" in result.stderr
    assert not Path("reports").exists()


def test_a_report_that_cannot_be_written(here):
    vitab(*SMOKE)
    Path("out").write_text("a file")
    result = vitab("report", "--out", "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in here.iterdir()) == ["out", "runs"]


def test_lists():
    listed = vitab("grids").stdout
    assert all(name in listed for name in ("rope", "depth", "patch", "smoke", "48", "Which positional encoding"))
    listed = vitab("data").stdout
    assert all(name in listed for name in ("digits", "cifar10", "cifar100", "8x8x1", "scikit-learn"))
    assert "vitab run --grid rope" in vitab("status").stdout


def test_doctor_describes_the_machine_and_names_what_is_missing(monkeypatch):
    result = vitab("doctor")
    assert result.exit_code == 0
    for words in ("python    3.", "numpy 2.", "cores available", "blas      ", "cupy      "):
        assert words in result.stdout
    monkeypatch.setattr(
        "ablations.machine.doctor.required_packages", lambda: {"numpy": "numpy>=2", "nosuch": "nosuch>=1.0"}
    )
    result = vitab("doctor")
    assert result.exit_code == 1
    assert result.stderr == "error: missing: nosuch; install with: pip install 'nosuch>=1.0'\n"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["evaluate"],
        ["protocols"],
        ["report"],
        ["compare"],
        ["status"],
        ["grids"],
        ["positions"],
        ["data"],
        ["bench"],
        ["doctor"],
    ],
)
def test_every_command_has_help(command):
    result = vitab(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    assert result.stderr == ""


def test_help_imports_nothing_heavy():
    code = (
        "import sys, ablations.cli\n"
        "try: ablations.cli.app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'numpy', 'pandas', 'numba', 'sklearn', 'scipy', 'seaborn', 'matplotlib', 'cupy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize("command", [["--help"], ["status"], ["data"], [*SMOKE]])
def test_windows_is_refused_in_one_line(here, command, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    result = vitab(*command)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("error: vitab runs on Linux and macOS; on Windows, use it in WSL")
    assert list(here.iterdir()) == []


def test_no_command_prints_help():
    result = vitab()
    assert (result.exit_code, "Commands" in result.stdout) == (0, True)


def test_the_version():
    assert vitab("--version").stdout.startswith("vitab ")


def test_the_command_of_a_study_leaves_out_what_concerns_one_machine():
    given = [
        "run",
        "--grid",
        "rope",
        "--data-dir",
        "/mine",
        "--runs=elsewhere",
        "-q",
        "--workers",
        "2",
        "--stack=3",
        "--set",
        "a=b c",
    ]
    assert rerun_command(given) == "vitab run --grid rope --set 'a=b c'"


def test_retry_trains_the_failed_runs_and_no_other(monkeypatch):
    assert "there are no studies in runs yet" in vitab("retry").stderr
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train_with_failures)
    vitab(*SMOKE)
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    store = Store(Path("runs"))
    (store.folder(store.read_study("smoke").keys[0]) / "DONE.json").unlink()
    result = vitab("retry", "--workers", "1")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "study smoke: 4 runs, 2 to do, 1 already finished"
    assert [line.split(": ")[0] for line in lines[1:3]] == ["[2/3] none, seed 1", "[3/3] rope, seed 1"]
    assert lines[3] == "2 runs finished; vitab status shows the remaining runs"
    assert vitab("status").stdout.splitlines()[1].split()[:6] == ["smoke", "4", "3", "0", "1", "0"]
    assert vitab("retry", "smoke").stdout == "study smoke has no failed run\n"


def test_status_says_where_a_run_is_and_watches_until_all_is_over(monkeypatch):
    from ablations.commands import display
    from ablations.execution.lease import LeaseManager

    vitab(*SMOKE)
    store = Store(Path("runs"))
    plan = store.read_study("smoke")
    (store.folder(plan.keys[0]) / "DONE.json").unlink()
    attempt = LeaseManager().acquire(store.folder(plan.keys[0]))
    attempt.update(epoch=3, epochs=8, seconds_left=75)
    shown = vitab("status").stdout
    assert shown.splitlines()[1].split()[:6] == ["smoke", "4", "3", "0", "0", "1"]
    assert f"smoke: none, seed 0 is running on {os.uname().nodename} (process {os.getpid()}, since 2" in shown
    assert "attempt 2: epoch 3/8, 1 min 15 s left" in shown
    assert display.view_studies(store, "smoke")[1:] == (0, 1)

    def another_fails_it(_):
        store.fail(plan.keys[0], plan.configs[0], "no luck")
        attempt.release()

    monkeypatch.setattr("ablations.commands.status.time.sleep", another_fails_it)
    result = vitab("status", "--watch")
    assert result.exit_code == 0
    assert "none, seed 0 failed: no luck" in result.stdout


def test_status_says_since_when_a_run_is_silent_and_ends_watching_when_nobody_is_at_work(monkeypatch):
    from ablations.execution.lease import LeaseManager

    vitab(*SMOKE)
    store = Store(Path("runs"))
    plan = store.read_study("smoke")
    (store.folder(plan.keys[0]) / "DONE.json").unlink()
    attempt = LeaseManager().acquire(store.folder(plan.keys[0]))
    attempt.update(machine="another")
    for silent, counts in ((60, ["0", "1"]), (3600, ["1", "0"])):
        os.utime(attempt.path, (time.time() - silent,) * 2)
        shown = vitab("status").stdout
        assert shown.splitlines()[1].split()[4:6] == counts
        assert f", last heartbeat {'1 min 00 s' if silent == 60 else '1 h 00 min'} ago" in shown
    monkeypatch.setattr("ablations.commands.status.WATCH_EVERY", 0.0)
    monkeypatch.setattr("ablations.commands.status.WATCH_NOBODY", 0.1)
    assert vitab("status", "--watch").exit_code == 0


def test_a_damaged_plan_hides_no_other_study():
    vitab(*SMOKE)
    vitab(*SMOKE, "--study", "other")
    store = Store(Path("runs"))
    other = store.read_study("other")
    both = vitab("status").stdout.splitlines()
    assert both[0].split()[:2] == ["study", "runs"]
    assert sorted(line.split()[6] for line in both if line.split()[1:2] == ["4"]) == ["Does", "as"]
    folders = tuple(replace(config, data="folder") for config in other.configs)
    store.write_study(replace(other, configs=folders))
    shown = [line.split()[:4] for line in vitab("status").stdout.splitlines()]
    assert ["study", "data", "runs", "done"] in shown
    assert ["smoke", "digits", "4", "4"] in shown
    assert ["other", "folder", "digits", "4"] in shown  # the name that its runs have recorded
    Path("runs/studies/other.json").write_text("{")
    shown = vitab("status")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[1].split()[:3] == ["smoke", "4", "4"]
    assert "the plan runs/studies/other.json is damaged" in shown.stdout
    result = vitab("status", "other")
    assert (result.exit_code, "other.json is damaged" in result.stderr) == (2, True)


def test_what_a_killed_process_left_beside_finished_runs_is_removed():
    vitab(*SMOKE)
    store = Store(Path("runs"))
    key = store.read_study("smoke").keys[0]
    store.snapshot(key).write_bytes(b"half a run")
    old, new = (store.root / "studies" / f".smoke.json.1.{name}.tmp" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    assert vitab(*SMOKE).exit_code == 0
    assert not store.snapshot(key).exists()
    assert (old.exists(), new.exists()) == (False, True)


def test_verify_reads_every_file(here):
    vitab(*SMOKE)
    assert "all files of 4 finished runs are intact" in vitab("verify").stdout
    store = Store(Path("runs"))
    keys = store.read_study("smoke").keys
    (store.folder(keys[1]) / "checkpoint.safetensors").write_bytes(b"x")
    (store.folder(keys[2]) / "DONE.json").write_bytes(b"{")
    for arguments in (["verify"], ["verify", "smoke"]):
        result = vitab(*arguments)
        assert result.exit_code == 1
        assert "checkpoint.safetensors does not match its checksum" in result.stdout
        assert "DONE.json is damaged" in result.stdout
        assert "2 of 4 finished runs are damaged" in result.stderr


def test_status_and_verify_find_a_file_that_has_no_checksum():
    vitab(*SMOKE)
    store = Store(Path("runs"))
    done = store.folder(store.read_study("smoke").keys[0]) / "DONE.json"
    content = json.loads(done.read_bytes())
    del content["sha256"]["metrics.csv"]
    done.write_text(json.dumps(content))
    for arguments in (["verify"], ["status", "--verify"]):
        result = vitab(*arguments)
        assert (result.exit_code, "metrics.csv is missing from DONE.json" in result.stdout) == (1, True), result.output


def test_reproduce_compares_bits_here_and_accuracy_elsewhere(here, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert vitab(*SMOKE, "--position", "rope", "--seeds", "1").exit_code == 0
    store = Store(Path("runs"))
    (key,) = store.read_study("smoke").keys
    result = vitab("reproduce", key[:8])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"run {key[:16]}, with the same code, packages and processor: bitwise identical;")
    assert (
        "no finished run, trial or evaluation in runs with a key that begins with 'x'" in vitab("reproduce", "x").stderr
    )

    from ablations.execution import reproduction
    from ablations.execution.reproduction import Reproduction
    from ablations.training import trainer

    train = trainer.train
    monkeypatch.setattr(trainer, "train", lambda config, *args, **rest: train(replace(config, seed=9), *args, **rest))
    result = vitab("reproduce", key)
    assert (result.exit_code, "the run was not reproduced" in result.stderr) == (1, True)
    assert "not bitwise identical" in result.stdout
    for tolerance, code in ((1.0, 0), (0.0, 1)):
        other = Reproduction(False, False, 0.5, 0.6, tolerance)
        monkeypatch.setattr(reproduction, "reproduce", lambda *_, other=other, **__: other)
        result = vitab("reproduce", key)
        assert (result.exit_code, "in another environment: not bitwise identical" in result.stdout) == (code, True)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    (store.folder(key) / "result.json").write_text("{}")
    assert "is damaged: result.json does not match its checksum" in vitab("reproduce", key).stderr
