"""Protocols of one's own, in files and installed packages: keys, workers, reproduction, and bad input in one line."""

import hashlib
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ablations.cli import app
from ablations.evaluation import keys, load_evaluations, own, protocol, protocol_label, registry
from ablations.execution.dask import runs as cluster_runs
from ablations.execution.evaluation import evaluation_work
from ablations.execution.tasks import ExecutionSettings
from ablations.storage import EvaluationStore, Store
from tests.support.evaluations import working_copy

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ["run", "--grid", "smoke", "--set", "per_class=5", "--workers", "1"]
CODE = '''
from dataclasses import dataclass

import numpy as np

from ablations.evaluation import Measurement, Metric, Protocol, option


@dataclass(frozen=True)
class Mine(Protocol):
    """Accuracy on images of another brightness."""

    factor: float = option(0.5, "above 0", lambda value: value > 0, "factor of all pixels")

    description = "accuracy on darker images"

    def metrics(self):
        return [Metric("accuracy", "accuracy on darker images")]

    def measure(self, run):
        return Measurement({"accuracy": run.accuracy(run.images * np.float32(self.factor))})
'''


def write(path: Path, *changes: tuple[str, str]) -> Path:
    """Write the protocol with parts of its source replaced."""
    text = CODE
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


def vitab(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def succeeds(*arguments: object) -> list[str]:
    result = vitab(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def refused(*arguments: object) -> str:
    """The one line of an error for bad input."""
    result = vitab(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def evaluate(*protocols: str) -> list[str]:
    return succeeds("evaluate", "--protocol", ",".join(protocols), "--workers", "1")


def forget() -> None:
    """Forget all sources, as a new process does."""
    own._sources.clear()
    own._class_in_file.cache_clear()
    registry._protocol.cache_clear()
    keys.evaluation_code.cache_clear()


@pytest.fixture(autouse=True)
def store(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Four finished runs, and the protocol in lab/mine.py."""
    working_copy(trained, tmp_path, monkeypatch)
    Path("lab").mkdir()
    write(Path("lab/mine.py"))
    forget()
    return Store(Path("runs"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the entry points `fancy` and `broken`."""
    name = f"fancy_{tmp_path.name}"
    Path(name).mkdir()
    Path(name, "__init__.py").write_text("")
    Path(name, "helper.py").write_text("")
    write(Path(name, "fancy.py"), ("import numpy as np", f"import numpy as np\n\nfrom {name} import helper"))
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {
        "fancy": EntryPoint("fancy", f"{name}.fancy:Mine", own.ENTRY_POINTS),
        "broken": EntryPoint("broken", "no_such_module:Mine", own.ENTRY_POINTS),
    }
    monkeypatch.setattr(own, "entry_points", lambda: points)


def evaluations(store: Store) -> dict[str, dict]:
    """The finished evaluations by key."""
    return EvaluationStore.beside(store).finished(store.read_study("smoke").keys)


def test_evaluated_by_a_class_in_a_file(store: Store) -> None:
    lines = evaluate("lab/mine.py:Mine", "lab/mine.py:Mine(factor=2)")
    assert lines[0] == "study smoke: 8 evaluations, 8 to do"
    assert lines[1].startswith("[1/8] Mine: none, seed 0: accuracy on darker images ")
    assert lines[5].startswith("[5/8] Mine(factor=2): none, seed 0: accuracy on darker images ")
    digest = own.digest_of_source(Path("lab/mine.py").read_text())
    found = load_evaluations(store, store.read_study("smoke"))
    assert found.protocols == (f"lab/mine.py:Mine@{digest}", f"lab/mine.py:Mine@{digest}(factor=2)")
    assert list(map(protocol_label, found.protocols)) == ["Mine", "Mine(factor=2)"]
    assert len(found.values) == 8
    assert [metric.name for metric in found.metrics(found.protocols[0])] == ["accuracy"]
    environment = EvaluationStore.beside(store).environment(next(iter(evaluations(store))))
    assert environment["protocol"] == {
        "name": f"lab/mine.py:Mine@{digest}",
        "description": "accuracy on darker images",
        "source": Path("lab/mine.py").read_text(),
    }
    assert "smoke: evaluations: 8 finished" in succeeds("status")
    assert succeeds("verify") == ["all files of 4 finished runs and 8 evaluations are intact"]
    key = next(iter(evaluations(store)))
    assert " by Mine" in succeeds("reproduce", key)[0]
    assert succeeds("reproduce", key)[0].endswith(": bitwise identical")
    assert evaluate("lab/mine.py:Mine(factor=0.5)")[0] == "study smoke: 4 evaluations, 0 to do, 4 already finished"


def test_the_protocol_in_the_documentation(store: Store) -> None:
    document = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- mirror\.py -->\n```python\n(.*?)```\n\n```bash\n(.*?)```", document, re.DOTALL)
    assert found is not None
    source, commands = found[1], found[2].splitlines()
    assert len(source.splitlines()) < 40
    Path("mirror.py").write_text(source)
    show, measure, run = [shlex.split(line, comments=True)[1:] for line in commands]
    shown = succeeds(*show)
    assert shown[0] == f"mirror.py:Mirror@{own.digest_of_source(source)}"
    assert "axis    columns  columns or rows  what is reversed" in [line.rstrip() for line in shown]
    assert succeeds(*measure, "--workers", "1")[-1] == "all 12 evaluations are finished; next: vitab report smoke"
    run[run.index("rope")] = "smoke"
    lines = succeeds(*run, *SMOKE[3:])
    assert "study smoke: 4 evaluations, 0 to do, 4 already finished" in lines
    plan = store.read_study("smoke")
    assert plan.command.endswith("--protocol mirror.py:Mirror --set per_class=5")
    key = plan.keys[0]
    loaded = load_evaluations(store, plan)
    text = next(text for text in loaded.protocols if text.startswith("mirror.py:Mirror@") and "rows" not in text)
    predicted = loaded.arrays(key, text)["predicted"]
    labels = store.predictions(key)["labels"]
    values = loaded.values.set_index(["key", "protocol", "metric"])["value"]
    assert values[key, text, "accuracy"] == np.mean(predicted == labels)
    assert values[key, text, "changed"] == np.mean(predicted != store.predictions(key)["predicted"])


def test_a_changed_file_is_another_protocol_and_a_missing_one_is_left_out(store: Store) -> None:
    evaluate("lab/mine.py:Mine")
    before = evaluations(store)
    write(Path("lab/mine.py"), ("Accuracy on images of another", "Accuracy on images with another"))
    forget()
    lines = succeeds("status")
    assert "smoke: evaluations: 0 finished, 4 outdated" in lines
    assert evaluate("lab/mine.py:Mine")[0] == "study smoke: 4 evaluations, 4 to do"
    assert evaluations(store).items() > before.items()
    plan = store.read_study("smoke")
    assert len(load_evaluations(store, plan).protocols) == 1
    shutil.rmtree("lab")
    forget()
    found = load_evaluations(store, plan)
    assert (found.protocols, found.outdated) == ((), 8)
    key = next(iter(before))
    assert refused("reproduce", key) == "error: cannot read lab/mine.py: there is no such file\n"
    assert succeeds("verify") == ["all files of 4 finished runs and 8 evaluations are intact"]


def test_a_grid_file_names_a_protocol_in_a_file() -> None:
    grid = 'seeds = 1\nprotocols = ["lab/mine.py:Mine(factor=2)"]\nbase = {per_class = 5, epochs = 1}\n'
    Path("mine.toml").write_text(grid + 'axes.position = ["none", "rope"]\n')
    lines = succeeds("run", "--grid", "mine.toml", "--workers", "1")
    assert lines[-1] == "all 2 evaluations are finished; next: vitab report mine"
    (text,) = Store(Path("runs")).read_study("mine").protocols
    assert text == f"lab/mine.py:Mine@{own.digest_of_source(Path('lab/mine.py').read_text())}(factor=2)"
    assert succeeds("evaluate", "mine", "--workers", "1")[0].startswith("study mine: 2 evaluations, 0 to do")
    write(Path("lab/mine.py"), ('darker images"\n\n    def metrics', 'dark images"\n\n    def metrics'))
    forget()
    assert "lab/mine.py:Mine has changed: its SHA-256 must start with " in refused("evaluate", "mine")


@pytest.mark.slow
def test_worker_processes_have_the_results_of_one_process(store: Store) -> None:
    shutil.copytree("runs", "other")
    evaluate("lab/mine.py:Mine", "lab/mine.py:Mine(factor=2)")
    arguments = ["evaluate", "--protocol", "lab/mine.py:Mine,lab/mine.py:Mine(factor=2)", "--workers", "2"]
    process = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ablations.cli", *arguments, "--runs", "other"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    here, there = evaluations(store), evaluations(Store(Path("other")))
    assert here.keys() == there.keys()
    assert {key: result["metrics"] for key, result in here.items()} == {
        key: result["metrics"] for key, result in there.items()
    }


def test_a_worker_process_needs_no_file(store: Store) -> None:
    """It is given the source: the file may change after the evaluations have begun."""
    text = str(protocol("lab/mine.py:Mine"))
    tasks = evaluation_work(store.read_study("smoke"), store, [text]).tasks
    assert [task.sources for task in tasks] == [(Path("lab/mine.py").read_text(),)] * 4
    code = (
        "import sys, pickle\n"
        "from ablations.config import remember_sources\n"
        "from ablations.evaluation import protocol\n"
        "task = pickle.loads(sys.stdin.buffer.read())\n"
        "remember_sources(task.sources)\n"
        "print(protocol(task.evaluation.protocol).description)\n"
    )
    shutil.rmtree("lab")
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(tasks[0]),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert found.stdout.decode() == "accuracy on darker images\n", found.stderr
    client = cluster_runs.ClusterRuns.__new__(cluster_runs.ClusterRuns)
    client.settings = ExecutionSettings(Path("runs/evaluations"))
    client.cluster = type("Cluster", (), {"code": "", "folder": "runs#1", "runs": "runs"})()
    client.key_prefix, client.submissions, client.memory = "vitab-", {}, {}
    request = json.loads(json.dumps(client.request_for(tasks[0])))
    assert request["sources"] == list(tasks[0].sources)
    assert request["evaluation"] == {"run": store.read_study("smoke").keys[0], "protocol": text}


@pytest.mark.usefixtures("package")
def test_a_protocol_of_an_installed_package(store: Store, tmp_path: Path) -> None:
    assert evaluate("fancy")[1].startswith("[1/4] fancy: none, seed 0: accuracy on darker images ")
    listed = "\n".join(succeeds("protocols"))
    assert re.search(r"^fancy +accuracy on darker images", listed, re.MULTILINE)
    assert "cannot load the entry point broken: ModuleNotFoundError: No module named 'no_such_module'" in listed
    assert succeeds("protocols", "fancy")[0].startswith("fancy@")
    assert "unknown protocol 'fanc' (did you mean 'fancy'?)" in refused("evaluate", "--protocol", "fanc")
    assert "cannot load the entry point broken: " in refused("evaluate", "--protocol", "broken")
    before = keys.evaluation_code(str(protocol("fancy")), "none")["protocol"]
    Path(f"fancy_{tmp_path.name}/helper.py").write_text("changed = True\n")
    forget()
    assert keys.evaluation_code(str(protocol("fancy")), "none")["protocol"] != before


def test_errors_of_a_protocol_fail_its_evaluations_in_one_line_with_the_place(store: Store) -> None:
    before = hashlib.sha256(Path("runs/studies/smoke.json").read_bytes()).hexdigest()
    cases = [
        (
            "return Measurement({",
            "1 / 0\n        return Measurement({",
            "ZeroDivisionError: division by zero (mine.py, line 21)",
        ),
        (
            '{"accuracy": run.acc',
            '{"acuracy": run.acc',
            "metrics measured by protocol lab/mine.py:Mine must be accuracy, got 'acuracy'",
        ),
        (
            "return Measurement({",
            "return dict({",
            "measure of protocol lab/mine.py:Mine must return a Measurement, got dict",
        ),
        (
            "run.accuracy(run.images * np.float32(self.factor))",
            "'much'",
            "metric accuracy of protocol lab/mine.py:Mine must be a number, got 'much'",
        ),
    ]
    for old, new, reason in cases:
        write(Path("lab/mine.py"), (old, new))
        forget()
        result = vitab("evaluate", "--protocol", "lab/mine.py:Mine,calibration", "--workers", "1")
        assert result.exit_code == 1, result.output
        assert result.stderr.splitlines()[0] == f"failed: Mine: none, seed 0: {reason}"
        assert result.stderr.splitlines()[-1].startswith("4 of 8 evaluations failed; ")
        assert f"smoke: Mine: none, seed 0 failed: {reason} (runs/evaluations/" in vitab("status").stdout
    write(Path("lab/mine.py"))
    forget()
    assert evaluate("lab/mine.py:Mine")[0] == "study smoke: 4 evaluations, 4 to do"
    assert "smoke: evaluations: 8 finished" in succeeds("status")
    assert hashlib.sha256(Path("runs/studies/smoke.json").read_bytes()).hexdigest() == before


BAD = [
    ("lab/none.py:Mine", "cannot read lab/none.py: there is no such file"),
    ("lab/mine.py", "protocol must be FILE.py:CLASS for a protocol in a file, got 'lab/mine.py'"),
    ("lab/mine.py:Yours", "lab/mine.py defines no class 'Yours'; its protocols are Mine"),
    ("lab/bad.py:Mine", "cannot import lab/bad.py: SyntaxError: "),
    ("lab/plain.py:Mine", "lab/plain.py:Mine must be decorated with @dataclass(frozen=True)"),
    ("lab/base.py:Mine", "lab/base.py:Mine must be a subclass of ablations.evaluation.Protocol, got <class "),
    ("lab/same.py:Shift", "lab/same.py defines no class 'Shift'; its protocols are Mine"),
    ("lab/mine.py:Mine(end=1)", "options of protocol lab/mine.py:Mine must be one of factor, got 'end'"),
    ("lab/mine.py:Mine(factor=-1)", "factor of protocol lab/mine.py:Mine must be above 0, got '-1'"),
    ("lab/mine.py:Mine@0123456789ab", "lab/mine.py:Mine has changed: its SHA-256 must start with 0123456789ab, got "),
    ("lab/mine.py:Mine,lab/same.py:Mine", "protocols must have different labels, got lab/mine.py:Mine and lab/same.py"),
    ("lab/silent.py:Mine", "description of protocol lab/silent.py:Mine must be a string, got None"),
    (
        "lab/none_listed.py:Mine",
        "metrics of protocol lab/none_listed.py:Mine must be a list of at least one Metric, got",
    ),
    ("lab/raises.py:Mine", "metrics of protocol lab/raises.py:Mine raises ZeroDivisionError: division by zero (raises"),
    ("lab/twice.py:Mine", "metrics of protocol lab/twice.py:Mine must have different names, got accuracy, accuracy"),
    ("lab/passes.py:Mine", "passes of protocol lab/passes.py:Mine raises ZeroDivisionError: division by zero (passes"),
]


@pytest.mark.parametrize(("protocols", "message"), BAD)
def test_bad_protocols_are_one_line_and_nothing_is_written(protocols: str, message: str) -> None:
    Path("lab/bad.py").write_text("def :")
    metrics = '        return [Metric("accuracy", "accuracy on darker images")]'
    write(Path("lab/same.py"), ("another brightness", "other brightness"))
    write(Path("lab/plain.py"), ("@dataclass(frozen=True)\n", ""))
    write(Path("lab/base.py"), ("class Mine(Protocol)", "class Mine"))
    write(Path("lab/silent.py"), ('    description = "accuracy on darker images"\n', ""))
    write(Path("lab/none_listed.py"), (metrics, "        return []"))
    write(Path("lab/raises.py"), (metrics, "        return 1 / 0"))
    write(Path("lab/twice.py"), (metrics, metrics.replace("[", "2 * [")))
    write(
        Path("lab/passes.py"),
        ("    def measure", "    def passes(self, config):\n        return 1 / 0\n\n    def measure"),
    )
    assert refused("evaluate", "--protocol", protocols, "--workers", "1").startswith(f"error: {message}")
    assert not Path("runs/evaluations").exists()
    if "passes" not in protocols:
        grid = ["run", "--grid", "smoke", "--runs", "new", "--workers", "1", "--protocol", protocols]
        assert refused(*grid).startswith(f"error: {message}")
        assert not Path("new").exists()
