"""`vitab evaluate` with failures, damage, other datasets, interruptions and other processes."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ablations.data.loading import _read
from ablations.errors import VitabError
from ablations.evaluation import load_evaluations
from ablations.evaluation.protocols.calibration import Calibration
from ablations.execution.lease import LeaseManager, last_attempt
from ablations.storage import EvaluationStore, Store
from tests.support.evaluations import (
    SMOKE,
    digests,
    evaluate,
    evaluations,
    measure_with_failures,
    refused,
    succeeds,
    vitab,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- runs that are left out --


def test_runs_that_diverged_or_are_not_finished_are_left_out(runs: Path) -> None:
    store = Store(runs)
    plan = store.read_study("smoke")
    (store.folder(plan.keys[0]) / "DONE.json").unlink()
    wild = store.folder(plan.keys[1])
    result = json.loads((wild / "result.json").read_bytes()) | {"diverged": 1}
    content = json.dumps(result).encode()
    (wild / "result.json").write_bytes(content)
    done = json.loads((wild / "DONE.json").read_bytes())
    done["sha256"]["result.json"] = hashlib.sha256(content).hexdigest()
    (wild / "DONE.json").write_text(json.dumps(done))
    result = evaluate("--protocol", "calibration")
    assert succeeds(result)[0] == "study smoke: 2 evaluations, 2 to do"
    assert result.stderr.splitlines() == [
        "note: not evaluated: 1 of 4 runs, not finished",
        "note: not evaluated: 1 of 4 runs, diverged: rope, seed 0",
    ]
    assert len(evaluations()) == 2


def test_a_study_whose_runs_all_diverged() -> None:
    wild = [*SMOKE, "--set", "learning_rate=1e30", "--position", "none", "--protocol", "calibration"]
    result = vitab(*wild)
    assert succeeds(result)[-1] == "study smoke: 0 evaluations, 0 to do"
    assert result.stderr.splitlines()[-1] == ("note: not evaluated: 2 of 2 runs, diverged: none, seed 0; none, seed 1")


# -- failures --


def test_a_protocol_that_fails_stops_no_other_evaluation_and_is_tried_again(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, command = digests(runs), ("--protocol", "calibration,per-class")
    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "measure", measure_with_failures)
        result = evaluate(*command)
        assert result.exit_code == 1
        assert "[4/8] calibration: rope, seed 1: FAILED: ZeroDivisionError: division by zero" in result.stdout
        assert result.stderr.splitlines() == [
            "failed: calibration: none, seed 1: it cannot be measured",
            "failed: calibration: rope, seed 1: ZeroDivisionError: division by zero",
            "2 of 8 evaluations failed; run the same command again to retry them",
        ]
        finished = evaluations()
        assert len(finished) == 6
        assert evaluate(*command).exit_code == 1
    failures = [json.loads(path.read_bytes()) for path in (runs / "evaluations").glob("*/failure.json")]
    assert [failure["attempt"] for failure in failures] == [2, 2]
    lines = succeeds(evaluate(*command))
    assert lines[0] == "study smoke: 8 evaluations, 2 to do, 6 already finished"
    assert evaluations().items() > finished.items()
    assert not list((runs / "evaluations").glob("*/failure.json"))
    assert digests(runs) == before


def test_a_damaged_run_fails_alone_in_one_line(runs: Path) -> None:
    store = Store(runs)
    folder = store.folder(store.read_study("smoke").keys[0])
    (folder / "checkpoint.safetensors").write_bytes(b"x")
    (folder / "environment.json").write_bytes(b"{")
    result = evaluate("--protocol", "shift")
    assert result.exit_code == 1
    (line, last) = result.stderr.splitlines()
    assert re.fullmatch(
        rf"failed: shift: none, seed 0: runs/{folder.name}/\S+ is damaged: delete runs/{folder.name} "
        "and run the study again",
        line,
    )
    assert last == "1 of 4 evaluations failed; run the same command again to retry them"
    assert len(evaluations()) == 3


def test_a_damaged_plan_is_one_line(runs: Path) -> None:
    (runs / "studies/smoke.json").write_text("{")
    assert "the plan runs/studies/smoke.json is damaged" in refused(evaluate("smoke", "--protocol", "shift"))


def test_a_damaged_evaluation_is_repeated_only_after_its_folder_was_deleted(runs: Path) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    key = next(iter(evaluations()))
    folder = runs / "evaluations" / key
    (folder / "DONE.json").write_text("{")
    assert succeeds(evaluate("--protocol", "calibration"))[0] == (
        "study smoke: 4 evaluations, 1 to do, 3 already finished"
    )
    (folder / "result.json").write_text("{}")
    store, folder = Store(Path("runs")), folder.relative_to(runs.parent)
    damaged = f"{folder}/result.json is damaged: delete {folder} and evaluate the study again"
    for content in ("{}", "{", json.dumps({"run": store.read_study("smoke").keys[0], "protocol": "calibration"})):
        (folder / "result.json").write_text(content)
        with pytest.raises(VitabError, match=damaged):
            load_evaluations(store, store.read_study("smoke"))
        assert f"error: {damaged}\n" == evaluate("--protocol", "calibration").stderr
        assert "smoke: evaluations: " in vitab("status").stdout
    shutil.rmtree(folder)
    assert succeeds(evaluate("--protocol", "calibration"))[0].endswith("1 to do, 3 already finished")


ON_A_CLUSTER = [  # distributed leaves sockets and coroutines to the garbage collector
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*never awaited:RuntimeWarning"),
]


@pytest.mark.parametrize("dask", [False, pytest.param(True, marks=ON_A_CLUSTER)])
def test_a_run_that_was_trained_again_is_evaluated_again(runs: Path, dask: bool) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    store, first = Store(runs), evaluations()
    plan = store.read_study("smoke")
    run = store.folder(plan.keys[0])
    environment = json.dumps(store.environment(plan.keys[0]) | {"cpu": "another"}).encode()
    done = json.loads((run / "DONE.json").read_bytes())
    done["sha256"]["environment.json"] = hashlib.sha256(environment).hexdigest()
    (run / "environment.json").write_bytes(environment)
    (run / "DONE.json").write_text(json.dumps(done))
    assert load_evaluations(store, plan).outdated == 1
    assert "smoke: evaluations: 3 finished, 1 outdated" in succeeds(vitab("status"))
    (key,) = [
        path.parent.name
        for path in (runs / "evaluations").glob("*/result.json")
        if json.loads(path.read_bytes())["run"] == plan.keys[0]
    ]
    assert vitab("reproduce", key).stderr == (
        f"error: run {run.name} was trained again after evaluation {key}; evaluate it again first\n"
    )
    if dask:
        distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
        with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
            lines = succeeds(vitab("evaluate", "--protocol", "calibration", "--dask", cluster.scheduler_address))
    else:
        lines = succeeds(evaluate("--protocol", "calibration"))
    assert lines[0] == "study smoke: 4 evaluations, 1 to do, 3 already finished"
    after = evaluations()
    assert {name for name in first if first[name] != after[name]} == {key}
    assert load_evaluations(store, plan).outdated == 0
    assert succeeds(evaluate("--protocol", "calibration"))[0].endswith("0 to do, 4 already finished")


# -- datasets --


def test_a_dataset_that_is_missing_or_has_changed_is_one_line(here: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)

    def write(level: int) -> None:
        for part, number in (("train", 6), ("test", 3)):
            for name in ("a", "b"):
                folder = here / "images" / part / name
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(number):
                    pixels = rng.integers(level, 256, (8, 8, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}.png")

    write(0)
    train = ["run", "--grid", "smoke", "--data", "folder", "--data-dir", "images", "--workers", "1", "--position"]
    succeeds(vitab(*train, "none", "--seeds", "1", "--epochs", "1", "--set", "per_class=5"))
    before = digests(here / "runs")
    shutil.rmtree("images")
    _read.cache_clear()
    command = ("--protocol", "calibration", "--data-dir", "images")
    assert "images" in refused(evaluate(*command))
    write(100)
    _read.cache_clear()
    (key,) = Store(Path("runs")).read_study("smoke").keys
    assert refused(evaluate(*command)) == (
        f"error: the data of run {key[:16]} (images) have changed since its training: 16 "
        f"images as before, but not the same\n"
    )
    assert not Path("runs/evaluations").exists()
    assert digests(here / "runs") == before


# -- interruptions and other processes --


def test_ctrl_c_says_that_the_same_command_resumes(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Calibration.measure

    def interrupted(self, run):
        if run.config.seed == 1:
            raise KeyboardInterrupt
        return measure(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "measure", interrupted)
        result = evaluate("--protocol", "calibration", "-q")
    assert result.exit_code == 130
    assert result.stderr == ("error: interrupted after 2 of 4 evaluations; run the same command again to resume\n")
    lines = succeeds(evaluate("--protocol", "calibration"))
    assert lines[0] == "study smoke: 4 evaluations, 2 to do, 2 already finished"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_real_process_is_interrupted_and_resumed(here: Path, trained: Path, workers: str) -> None:
    shutil.copytree(trained, here / "runs")
    (here / "slow.py").write_text(
        "import time\n"
        "from ablations.evaluation.protocols.calibration import Calibration\n"
        "from ablations.execution import pool\n"
        "def measure(self, run):\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
        "        run.heartbeat()\n"
        "Calibration.measure = measure\n"
        "worker_main = pool._worker_main\n"
        "def worker(*arguments):\n"
        "    worker_main(*arguments)\n"
        "pool._worker_main = worker\n"
    )
    program = "import slow, ablations.cli; ablations.cli.app()"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, "evaluate", "--protocol", "calibration", "--workers", workers],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(here.glob("runs/evaluations/*/attempt-0001.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == [
        "interrupted: ending the evaluations in progress; press Ctrl-C again to quit now",
        "error: interrupted after 0 of 4 evaluations; run the same command again to resume",
    ]
    folders = list(here.glob("runs/evaluations/*"))
    assert folders
    assert all(LeaseManager().is_free(folder) for folder in folders)
    assert evaluations() == {}
    succeeds(evaluate("--protocol", "calibration"))
    assert len(evaluations()) == 4


def test_an_evaluation_of_another_process_is_waited_for_and_not_repeated(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    store = EvaluationStore(runs / "evaluations")
    (key, *_) = (json.loads(path.read_bytes())["key"] for path in store.root.glob("*/DONE.json"))
    done = store.folder(key) / "DONE.json"
    done.rename(runs / "kept")
    lease = LeaseManager().acquire(store.folder(key))
    assert lease is not None

    def finishes(seconds: float) -> None:
        if not done.exists():
            (runs / "kept").rename(done)
            lease.release()

    monkeypatch.setattr("ablations.execution.inline.time.sleep", finishes)
    lines = succeeds(evaluate("--protocol", "calibration"))
    assert lines[0] == "study smoke: 4 evaluations, 1 to do, 3 already finished"
    assert lines[1] == "waiting for 1 evaluation of other processes; Ctrl-C stops waiting"
    assert lines[2].endswith(", finished by another process")
    assert last_attempt(store.folder(key)) == 2
