"""`vitab evaluate` and `vitab protocols`: results, resumption, failures, interruptions and bad input."""

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
from typer.testing import CliRunner, Result

from ablations.cli import app
from ablations.data.loading import _read
from ablations.errors import VitabError
from ablations.evaluation import PROTOCOLS, Measurement, keys, load_evaluations, protocol, registry
from ablations.evaluation.finished_run import FinishedRun
from ablations.evaluation.protocols.attention import Attention
from ablations.evaluation.protocols.calibration import Calibration
from ablations.execution.lease import LeaseManager, last_attempt
from ablations.storage import EvaluationStore, Store

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ["run", "--grid", "smoke", "--set", "per_class=5", "--workers", "1"]


def vitab(*arguments: object, columns: int = 200) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})


def evaluate(*arguments: object) -> Result:
    workers = [] if "--workers" in arguments else ["--workers", "1"]
    return vitab("evaluate", *arguments, *workers)


def succeeds(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def refused(result: Result) -> str:
    """The one line of an error for bad input."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.splitlines()[-1:] == result.stderr.splitlines()
    return result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four runs of the smoke grid."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    succeeds(vitab(*SMOKE, "--runs", folder))
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runs(trained: Path, here: Path) -> Path:
    """A copy of the trained runs, which the test must leave as they are."""
    shutil.copytree(trained, here / "runs")
    before = digests(here / "runs")
    assert len(before) >= 4 * 7
    return here / "runs"


def digests(runs: Path) -> dict[str, str]:
    """SHA-256 and modification time of every file in a folder of runs, except evaluations."""
    return {
        str(path.relative_to(runs)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(runs.rglob("*"))
        if path.is_file() and "evaluations" not in path.parts
    }


def evaluations(runs: Path = Path("runs")) -> dict[str, int]:
    """Modification time of DONE.json, by folder of the finished evaluations."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (runs / "evaluations").glob("*/DONE.json")}


def files(runs: Path) -> dict[str, bytes]:
    """The files of evaluations that must not depend on how they were made."""
    found = {}
    for path in sorted((runs / "evaluations").glob("*/*")):
        if path.name in ("config.json", "arrays.npz"):
            found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
        elif path.name == "result.json":
            result = json.loads(path.read_bytes())
            del result["seconds"]
            found[f"{path.parent.name}/{path.name}"] = json.dumps(result).encode()
    return found


def measure_with_failures(self: Calibration, run: FinishedRun) -> Measurement:
    """Fails for seed 1, in two ways."""
    if run.config.seed == 1 and run.config.position == "none":
        raise VitabError("it cannot be measured")
    if run.config.seed == 1:
        raise ZeroDivisionError("division by zero\nsecond line")
    return MEASURE(self, run)


MEASURE = Calibration.measure


# -- results --


def test_evaluations_are_finished_once_and_the_runs_stay_as_they_are(runs: Path) -> None:
    before = digests(runs)
    lines = succeeds(evaluate("--protocol", "shift,calibration"))
    assert lines[0] == "study smoke: 8 evaluations, 8 to do"
    assert re.match(r"\[1/8\] shift: none, seed 0: accuracy after a shift by half a patch [\d.]+%, ", lines[1])
    assert lines[-1] == "all 8 evaluations are finished; next: vitab report smoke"
    assert digests(runs) == before
    first = evaluations()
    assert len(first) == 8
    assert sorted(path.name for path in (runs / "evaluations").iterdir()) == sorted(first)
    assert sorted(path.name for path in (runs / "evaluations" / next(iter(first))).iterdir()) == [
        "DONE.json",
        "arrays.npz",
        "attempt-0001.json",
        "config.json",
        "environment.json",
        "result.json",
    ]
    lines = succeeds(evaluate("smoke", "--protocol", " calibration , shift, calibration(bins=15)"))
    assert lines == [
        "study smoke: 8 evaluations, 0 to do, 8 already finished",
        "all 8 evaluations are finished; next: vitab report smoke",
    ]
    assert evaluations() == first
    lines = succeeds(evaluate("--protocol", "calibration,calibration(bins=5)"))
    assert lines[0] == "study smoke: 8 evaluations, 4 to do, 4 already finished"
    assert lines[1].startswith("[5/8] calibration(bins=5): none, seed 0: calibration error ")
    assert digests(runs) == before


def test_the_values_are_those_of_the_protocols(runs: Path) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    store = Store(runs)
    plan = store.read_study("smoke")
    found = load_evaluations(store, plan)
    assert (found.protocols, found.beforehand, found.outdated) == (("calibration",), frozenset(), 0)
    values = found.values.set_index(["key", "metric"])["value"]
    assert len(values) == 4 * 3
    for key in plan.keys:
        stored = store.predictions(key)
        of_labels = stored["probabilities"][np.arange(len(stored["labels"])), stored["labels"]]
        assert values[key, "nll"] == pytest.approx(-np.log(of_labels.astype(np.float64)).mean(), rel=1e-6)


def test_worker_processes_have_the_results_of_one_process(runs: Path, here: Path) -> None:
    shutil.copytree(runs, here / "other")
    before = digests(runs)
    asked = ("--protocol", "shift,shuffle,attention")
    succeeds(evaluate(*asked))
    lines = succeeds(evaluate(*asked, "--workers", "2", "--runs", "other", "-q"))
    assert lines[-1] == "all 12 evaluations are finished; next: vitab report smoke --runs other"
    assert files(here / "other") == files(runs)
    assert len(files(runs)) == 12 * 3
    assert {key.partition(" ")[0] for key in digests(here / "other").values()} == {
        key.partition(" ")[0] for key in before.values()
    }


def test_an_evaluation_is_repeated_if_the_code_of_its_protocol_has_changed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    old = evaluations()
    monkeypatch.setattr(keys, "_protocol_digest", lambda kind: "changed")
    keys.evaluation_code.cache_clear()
    store = Store(runs)
    plan = store.read_study("smoke")
    try:
        found = load_evaluations(store, plan)
        assert (found.protocols, found.outdated) == ((), 4)
        lines = succeeds(evaluate("--protocol", "calibration"))
        assert lines[0] == "study smoke: 4 evaluations, 4 to do"
        assert evaluations().items() > old.items()
        found = load_evaluations(store, plan)
        assert (found.protocols, found.outdated) == (("calibration",), 0)
    finally:
        keys.evaluation_code.cache_clear()


def test_an_evaluation_by_a_protocol_that_is_gone_is_outdated(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Calibration):
        name = "gone"

    monkeypatch.setitem(PROTOCOLS, "gone", Gone)
    succeeds(evaluate("--protocol", "gone,calibration"))
    monkeypatch.delitem(PROTOCOLS, "gone")
    registry._protocol.cache_clear()
    keys.evaluation_code.cache_clear()
    store = Store(runs)
    found = load_evaluations(store, store.read_study("smoke"))
    assert (found.outdated, found.protocols) == (4, ("calibration",))


# -- with `vitab run` --


def test_run_evaluates_by_protocols_that_are_kept_in_the_plan() -> None:
    command = [*SMOKE, "--protocol", "per-class,calibration(bins=15)", "--runs", "elsewhere"]
    lines = succeeds(vitab(*command))
    assert lines[0] == "study smoke: 4 runs, 4 to do"
    assert lines[5] == "study smoke: 8 evaluations, 8 to do"
    assert lines[-1] == "all 8 evaluations are finished; next: vitab report smoke --runs elsewhere"
    assert len([line for line in lines if "next: " in line]) == 1
    plan = Store(Path("elsewhere")).read_study("smoke")
    assert plan.protocols == ("per-class", "calibration")
    assert plan.command == "vitab run --grid smoke --set per_class=5 --protocol 'per-class,calibration(bins=15)'"
    again = succeeds(vitab(*command))
    assert "study smoke: 8 evaluations, 0 to do, 8 already finished" in again
    assert succeeds(evaluate("--runs", "elsewhere"))[0] == "study smoke: 8 evaluations, 0 to do, 8 already finished"
    found = load_evaluations(Store(Path("elsewhere")), plan)
    assert (found.protocols, found.beforehand) == (plan.protocols, {"per-class", "calibration"})


def test_a_dry_run_of_run_says_what_would_be_evaluated(here: Path) -> None:
    lines = succeeds(vitab(*SMOKE, "--protocol", "shift(fill=zero),calibration", "--dry-run"))
    assert "then 8 evaluations, by shift(fill=zero), calibration" in lines
    assert list(here.iterdir()) == []


GRID = 'seeds = 1\nbase = {per_class = 5, epochs = 1, width = 8, depth = 1}\naxes.position = ["none", "learned"]\n'


def test_a_grid_file_names_protocols() -> None:
    Path("mine.toml").write_text('protocols = ["calibration", "per-class"]\n' + GRID)
    lines = succeeds(vitab("run", "--grid", "mine.toml", "--workers", "1"))
    assert lines[-1] == "all 4 evaluations are finished; next: vitab report mine"
    assert Store(Path("runs")).read_study("mine").protocols == ("calibration", "per-class")
    lines = succeeds(vitab("run", "--grid", "mine.toml", "--workers", "1", "--protocol", "calibration"))
    assert Store(Path("runs")).read_study("mine").protocols == ("calibration",)


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        ('["shfit"]', "unknown protocol 'shfit' (did you mean 'shift'?); valid: resolution, shift"),
        ('["calibration(bins=1)"]', "bins of protocol calibration must be an integer of at least 2, got '1'"),
        ('"shift"', "protocols must be a list of names, such as [\"resolution\"], got 'shift'"),
        ("[1]", 'protocols must be a list of names, such as ["resolution"], got [1]'),
    ],
)
def test_a_grid_whose_protocols_do_not_exist_is_refused_before_any_training(
    here: Path, protocols: str, message: str
) -> None:
    Path("mine.toml").write_text(f"protocols = {protocols}\n{GRID}")
    assert message in refused(vitab("run", "--grid", "mine.toml", "--workers", "1"))
    assert [path.name for path in here.iterdir()] == ["mine.toml"]


def test_an_unknown_protocol_of_run_is_refused_before_any_training(here: Path) -> None:
    assert "unknown protocol 'shfit' (did you mean 'shift'?)" in refused(vitab(*SMOKE, "--protocol", "shfit"))
    assert list(here.iterdir()) == []


# -- bad input --

BAD = [
    (["--protocol", "shfit"], "unknown protocol 'shfit' (did you mean 'shift'?); valid: resolution, shift"),
    (["--protocol", "shift(fill=red)"], "fill of protocol shift must be edge or zero, got 'red'"),
    (
        ["--protocol", "shift(flil=zero)"],
        "options of protocol shift must be one of fill, got 'flil' (did you mean fill?)",
    ),
    (["--protocol", "per-class(top=5)"], "options of protocol per-class do not exist, got 'top'"),
    (["--protocol", "resolution(factors=1/1)"], "factors of protocol resolution must be different numbers above 0"),
    (["--protocol", "shift("], "protocol must be NAME or NAME(OPTION=VALUE, ...), got 'shift('"),
    (["--protocol", ""], "protocol must be NAME or NAME(OPTION=VALUE, ...), got ''"),
    ([], "--protocol must name a protocol, such as resolution; to list them: vitab protocols"),
    (["nope", "--protocol", "shift"], "no study 'nope' in runs; studies there: smoke"),
    (["--protocol", "shift", "--runs", "nowhere"], "no study has a finished run; there are no studies in nowhere yet"),
    (["--protocol", "shift", "--workers", "0"], "--workers must be auto or an integer of at least 1, got '0'"),
    (["--protocol", "shift", "--backend", "jax"], "--backend must be auto, numpy, cupy, got 'jax'"),
    (["--protocol", "shift", "--dask", "nonsense"], "--workers is for this machine and cannot be combined with --dask"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(runs: Path, arguments: list[str], message: str) -> None:
    before = digests(runs)
    assert refused(evaluate(*arguments)).startswith(f"error: {message}")
    assert [path.name for path in Path().iterdir()] == ["runs"]
    assert not (runs / "evaluations").exists()
    assert digests(runs) == before


def test_a_study_without_a_finished_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args, **rest):
        raise ValueError("no")

    monkeypatch.setattr("ablations.training.trainer.train", fails)
    vitab(*SMOKE)
    for option in ([], ["--dry-run"]):
        assert "study smoke has no finished run to evaluate; run it first" in refused(
            evaluate("smoke", "--protocol", "shift", *option)
        )
    assert "no study has a finished run" in refused(evaluate("--protocol", "shift"))
    assert not Path("runs/evaluations").exists()


def test_a_dry_run_writes_nothing(runs: Path) -> None:
    before = digests(runs)
    lines = succeeds(evaluate("--protocol", "shift(fill=zero),resolution", "--dry-run"))
    assert lines[0].split() == ["protocol", "what", "is", "measured", "to", "do", "about"]
    assert lines[1].startswith("shift(fill=zero)  accuracy on translated images")
    assert re.search(r" 4  +[\d.]+ s$", lines[1].rstrip())
    assert digests(runs) == before
    assert not (runs / "evaluations").exists()


def test_a_folder_that_cannot_be_written(runs: Path) -> None:
    (runs / "evaluations").write_text("a file")
    assert "error: cannot write to --runs runs/evaluations: " in evaluate("--protocol", "calibration").stderr
    assert (runs / "evaluations").read_text() == "a file"


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
        f"error: the dataset must be the one that run {key[:16]} was trained on, got a different folder\n"
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


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_real_process_is_interrupted_and_resumed(here: Path, trained: Path, workers: str) -> None:
    shutil.copytree(trained, here / "runs")
    (here / "slow.py").write_text(
        "import sys, time\n"
        "from ablations.cli import app\n"
        "from ablations.evaluation.protocols.calibration import Calibration\n"
        "def measure(self, run):\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
        "        run.heartbeat()\n"
        "Calibration.measure = measure\n"
        "if __name__ == '__main__':\n"
        "    app()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "slow.py", "evaluate", "--protocol", "calibration", "--workers", workers],
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


# -- status, verify, reproduce --


def test_status_counts_evaluations_of_studies_that_have_any(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "evaluations" not in vitab("status").stdout
    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "measure", measure_with_failures)
        assert evaluate("--protocol", "calibration,per-class").exit_code == 1
    succeeds(vitab(*SMOKE, "--study", "other", "--epochs", "3"))
    lines = succeeds(vitab("status"))
    assert lines.count("smoke: evaluations: 6 finished, 2 failed") == 1
    failed = next(line for line in lines if "calibration: none, seed 1 failed: " in line)
    assert re.fullmatch(
        r"smoke: calibration: none, seed 1 failed: it cannot be measured "
        r"\(runs/evaluations/[0-9a-f]{16}/failure\.json\)",
        failed,
    )
    assert not [line for line in lines if line.startswith("other: evaluations")]
    assert "smoke: evaluations: 6 finished, 2 failed" in succeeds(vitab("status", "smoke"))
    assert "evaluations: " not in vitab("status", "other").stdout


def test_status_says_where_an_evaluation_is_running(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(self: Calibration, run: FinishedRun) -> Measurement:
        if not seen:
            seen.extend(succeeds(vitab("status")))
        return MEASURE(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "measure", look)
        succeeds(evaluate("--protocol", "calibration"))
    assert "smoke: evaluations: 0 finished, 1 running" in seen
    (line,) = [line for line in seen if " is running on " in line]
    assert line.startswith(
        f"smoke: calibration: none, seed 0 is running on {os.uname().nodename} (process {os.getpid()}"
    )
    assert "smoke: evaluations: 4 finished" in succeeds(vitab("status"))


def test_status_counts_outdated_evaluations_and_forgets_failures_of_older_code(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "measure", measure_with_failures)
        evaluate("--protocol", "calibration")
    monkeypatch.setattr(keys, "_protocol_digest", lambda kind: "changed")
    keys.evaluation_code.cache_clear()
    try:
        assert "smoke: evaluations: 0 finished, 2 outdated" in succeeds(vitab("status"))
    finally:
        keys.evaluation_code.cache_clear()


def test_verify_reads_every_file_of_an_evaluation(runs: Path) -> None:
    assert succeeds(vitab("verify")) == ["all files of 4 finished runs are intact"]
    succeeds(evaluate("--protocol", "calibration"))
    for command in (["verify"], ["verify", "smoke"]):
        assert succeeds(vitab(*command)) == ["all files of 4 finished runs and 4 evaluations are intact"]
    first, second, *_ = sorted((runs / "evaluations").iterdir())
    (first / "arrays.npz").write_bytes(b"x")
    (second / "DONE.json").write_bytes(b"{")
    for command in (["verify"], ["verify", "smoke"]):
        result = vitab(*command)
        assert result.exit_code == 1
        assert result.stdout.splitlines() == [
            f"runs/evaluations/{first.name}: arrays.npz does not match its checksum",
            f"runs/evaluations/{second.name}: DONE.json is damaged",
        ]
        assert result.stderr == "error: 2 of 4 evaluations are damaged; delete their folders\n"
    result = vitab("status", "--verify")
    assert result.exit_code == 1
    assert f"smoke: runs/evaluations/{first.name} is damaged: arrays.npz does not match" in result.stdout
    done = next(runs.glob("*/DONE.json"))
    done.write_bytes(b"{")
    assert vitab("verify").stderr == (
        "error: 1 of 4 finished runs and 2 of 4 evaluations are damaged; delete their folders\n"
    )


def test_reproduce_measures_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeds(evaluate("--protocol", "attention"))
    key = next(iter(evaluations()))
    run = json.loads((runs / "evaluations" / key / "result.json").read_bytes())["run"]
    before, done = digests(runs), evaluations()
    (line,) = succeeds(vitab("reproduce", key[:8]))
    assert line == (
        f"evaluation {key} of run {run[:16]} by attention, with the same code, packages and processor: "
        "bitwise identical"
    )
    assert (digests(runs), evaluations()) == (before, done)
    measure = Attention.measure

    def changed(metric: float, array: float):
        def changed_measure(self: Attention, finished: FinishedRun) -> Measurement:
            found = measure(self, finished)
            metrics = {**found.metrics, "entropy": found.metrics["entropy"] + metric}
            return Measurement(metrics, {name: value + array for name, value in found.arrays.items()})

        return changed_measure

    for here, metric, array, code in (
        (True, 1e-9, 0, 1),
        (True, 0, 1e-9, 1),
        (False, 0.005, 1.0, 0),
        (False, 0.1, 0, 1),
        (False, float("nan"), 0, 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Attention, "measure", changed(metric, array))
            if not here:
                patch.setattr("ablations.storage.provenance.cpu_model", lambda: "another")
            result = vitab("reproduce", key)
        assert result.exit_code == code, result.output
        where = "with the same code, packages and processor" if here else "in another environment"
        assert f"{where}: not bitwise identical" in result.stdout
        assert ("times the tolerance (entropy)" in result.stdout) == (metric != 0)
        assert result.stderr == ("error: the evaluation was not reproduced\n" if code else "")
    (runs / "evaluations" / key / "arrays.npz").write_bytes(b"x")
    assert vitab("reproduce", key).stderr == (
        f"error: evaluation {key} is damaged: arrays.npz does not match its checksum\n"
    )
    assert "no finished run or evaluation in runs with a key that begins with 'x'" in refused(vitab("reproduce", "x"))


def test_an_evaluation_of_a_damaged_run_is_not_reproduced(runs: Path) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    key = next(iter(evaluations()))
    run = json.loads((runs / "evaluations" / key / "result.json").read_bytes())["run"]
    (runs / run[:16] / "predictions.npz").write_bytes(b"x")
    assert vitab("reproduce", key).stderr == (
        f"error: run {run[:16]}, which was evaluated, is damaged: predictions.npz does not match its checksum\n"
    )


# -- vitab protocols --


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_has_every_protocol_and_fits_the_terminal(columns: int) -> None:
    lines = succeeds(vitab("protocols", columns=columns))
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")][1:] == [*PROTOCOLS]
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert "fill=edge (edge or zero): pixels that come in: those of the edge, or black" in text
    assert "metrics: accuracy-half, changed-half, accuracy-patch, changed-patch" in text


@pytest.mark.parametrize("name", [*PROTOCOLS, "shift(fill=zero)"])
def test_one_protocol_in_full(name: str) -> None:
    lines = succeeds(vitab("protocols", name, columns=80))
    assert lines[0] == name
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert all(metric.name in text for metric in protocol(name).metrics())
    if name == "shift":
        assert "Changed: the prediction differs from that of the image in place." in text
        assert "changed-patch share of predictions changed by a shift by one % lower patch" in text
        assert "fill edge edge or zero pixels that come in: those of the edge, or black" in text
        assert lines[-1] == "source: Azulay and Weiss 2018, arXiv 1805.12177"


def test_an_unknown_protocol_is_one_line() -> None:
    assert refused(vitab("protocols", "shfit")).startswith("error: unknown protocol 'shfit' (did you mean 'shift'?)")
