"""Encodings in files and of installed packages, in every command."""

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

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from ablations.cli import app
from ablations.config import GRIDS, override, position_description, run_key, standard_position
from ablations.execution.dask import runs as cluster_runs
from ablations.execution.dask import worker as cluster_worker
from ablations.execution.plan import make_plan, survey, tasks_of
from ablations.storage import Store
from ablations.storage.code_version import code_version, position_sources
from tests.support import fake_trainer
from tests.support.own_encoding import write
from vit.positions import own

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--set", "per_class=5", "--set", "width=8", "--set", "patch=4", "--set", "depth=1", "--epochs", "1"]
SMOKE = ["run", "--grid", "smoke", *TINY, "--workers", "1"]
CHANGE = ('description = "learned', 'description = "changed')


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("lab").mkdir()
    write(Path("lab/mine.py"))
    return tmp_path


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained."""
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)


@pytest.fixture
def package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the entry point `fancy`."""
    Path("fancy_pack").mkdir()
    Path("fancy_pack/__init__.py").write_text("")
    Path("fancy_pack/helper.py").write_text("")
    write(Path("fancy_pack/encoding.py"), ("import threading", "from fancy_pack import helper"))
    monkeypatch.syspath_prepend(str(here))
    point = EntryPoint("fancy", "fancy_pack.encoding:Mine", own.ENTRY_POINTS)
    monkeypatch.setattr(own, "entry_points", lambda: {"fancy": point})


def vitab(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def succeeds(*arguments: str) -> str:
    result = vitab(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    """The one line of an error for bad input."""
    result = vitab(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def keys(study: str = "smoke") -> tuple[str, ...]:
    return Store(Path("runs")).read_study(study).keys


def test_from_run_to_report_and_compare() -> None:
    succeeds(*SMOKE, "--position", "none,lab/mine.py:Mine,lab/mine.py:Mine(start=2)+rope")
    succeeds("report", "smoke")
    text = Path("reports/smoke/README.md").read_text(encoding="utf-8")
    assert "position none, Mine, Mine(start=2)+rope" in text
    assert "Mine (learned penalty on distant patches)" in text
    assert "| code of the position mine.py:Mine (SHA-256) |" in text
    runs = pd.read_csv("reports/smoke/tables/runs.csv")
    assert sorted(set(runs["position"])) == ["Mine", "Mine(start=2)+rope", "none"]
    assert Path("reports/smoke/tables/environments.csv").read_text().count("class Mine") == 0
    succeeds("report", "smoke", "--check")
    assert "| Mine | none |" in succeeds("compare", "Mine", "none", "--study", "smoke")
    assert "Mine(start=2)+rope" in succeeds("compare", "Mine(start=2)+rope", "none", "--study", "smoke")
    assert "all files" in succeeds("verify")
    assert "bitwise identical" in succeeds("reproduce", keys()[1])
    environment = json.loads(Path("runs", keys()[1][:16], "environment.json").read_bytes())
    source = Path("lab/mine.py").read_text()
    assert environment["encodings"] == {
        "Mine": {
            "name": f"lab/mine.py:Mine@{own.digest_of_source(source)}",
            "description": "learned penalty on distant patches",
            "source": source,
        }
    }
    assert environment["code"]["position mine.py:Mine"] == own.digest_of_source(source)


@pytest.mark.slow
def test_the_encoding_in_the_documentation_passes_its_check_and_trains() -> None:
    document = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- mine\.py -->\n```python\n(.*?)```\n\n```bash\n(.*?)```", document, re.DOTALL)
    assert found is not None
    source, commands = found[1], found[2].splitlines()
    assert len(source.splitlines()) < 40
    Path("mine.py").write_text(source)
    check, run, _, compare = [shlex.split(line, comments=True)[1:] for line in commands]
    checked = succeeds(*check)
    assert "all checks passed" in checked
    assert "a replay equals a direct pass" in checked
    assert "all in kernels" in checked
    run[run.index("rope")] = "smoke"
    assert "all 8 runs are finished" in succeeds(*run, *TINY, "--workers", "1")
    assert "| Mine | rope |" in succeeds(*compare)


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--workers", "2"], ["--workers", "2", "--stack", "2"]])
def test_worker_processes_and_stacks_have_the_results_of_one_process(options: list[str]) -> None:
    """In processes that are started anew, although the file changes while they work."""
    arguments = [*SMOKE[:-2], "--position", "lab/mine.py:Mine,lab/mine.py:Mine(start=2)"]
    succeeds(*arguments, "--workers", "1", "--stack", "1", "--runs", "one")
    process = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ablations.cli", *arguments, *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    for key in keys():
        for name in ("predictions.npz", "checkpoint.safetensors", "config.json"):
            assert Path("one", key[:16], name).read_bytes() == Path("runs", key[:16], name).read_bytes()


def test_a_worker_process_needs_no_file() -> None:
    """It is given the source: the file may change after the study has begun."""
    grid = override(GRIDS["smoke"], axes={"position": (standard_position("lab/mine.py:Mine"),)})
    plan, store = make_plan(grid, study="smoke"), Store(Path("runs"))
    tasks = tasks_of(plan, survey(plan, store), store)
    assert [task.sources for task in tasks] == [(Path("lab/mine.py").read_text(),)] * 2
    code = (
        "import sys, pickle\n"
        "from ablations.config import remember_sources\n"
        "from vit.positions import encoding\n"
        "task = pickle.loads(sys.stdin.buffer.read())\n"
        "remember_sources(task.sources)\n"
        "print(encoding(task.config.position).description)\n"
    )
    shutil.rmtree("lab")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(tasks[0]), capture_output=True, env=environment
    )
    assert found.stdout.decode() == "learned penalty on distant patches\n", found.stderr


def test_a_grid_file_with_a_baseline(trainer: None) -> None:
    text = 'seeds = 2\nbaseline = "Mine"\nbase = {per_class = 5, epochs = 1}\n'
    text += 'axes.position = ["none", "lab/mine.py:Mine"]\n'
    for baseline in ("Mine", "lab/mine.py:Mine"):
        Path("mine.toml").write_text(text.replace('baseline = "Mine"', f'baseline = "{baseline}"'))
        succeeds("run", "--grid", "mine.toml", "--workers", "1")
        assert Store(Path("runs")).read_study("mine").baseline == "Mine"
    succeeds("report", "mine")
    assert "Whether **none** differs from **Mine**" in Path("reports/mine/README.md").read_text(encoding="utf-8")
    Path("mine.toml").write_text(text.replace('baseline = "Mine"', 'baseline = "Yours"'))
    assert "unknown baseline of position 'Yours'" in refused("run", "--grid", "mine.toml")


def test_keys_depend_on_the_source_and_not_on_the_folder(trainer: None) -> None:
    succeeds(*SMOKE, "--position", "none,lab/mine.py:Mine")
    before = keys()
    Path("elsewhere").mkdir()
    shutil.move("lab/mine.py", "elsewhere/mine.py")
    moved = succeeds(*SMOKE, "--position", "none,elsewhere/mine.py:Mine")
    assert "4 runs, 0 to do, 4 already finished" in moved
    assert keys() == before
    write(Path("elsewhere/mine.py"), CHANGE)
    changed = succeeds(*SMOKE, "--position", "none,elsewhere/mine.py:Mine", "--study", "changed")
    assert "4 runs, 2 to do, 2 already finished" in changed
    assert len({*keys("changed")} & {*before}) == 2
    config = Store(Path("runs")).read_study("smoke").configs[1]
    assert run_key(config, "data") != run_key(Store(Path("runs")).read_study("changed").configs[1], "data")


def test_runs_stay_valid_and_reportable_when_the_file_is_gone(trainer: None) -> None:
    succeeds(*SMOKE, "--position", "none,lab/mine.py:Mine")
    name = Store(Path("runs")).read_study("smoke").configs[1].position
    shutil.rmtree("lab")
    assert position_description("lab/other.py:Mine@0123456789ab") is None
    own._sources.clear()
    own._class_in_file.cache_clear()
    assert succeeds("status").splitlines()[1].split()[:4] == ["smoke", "4", "4", "0"]
    succeeds("report", "smoke")
    assert "Mine (learned penalty on distant patches)" in Path("reports/smoke/README.md").read_text(encoding="utf-8")
    succeeds("compare", "Mine", "none")
    succeeds("verify")
    assert "has no failed run" in succeeds("retry")
    assert "has no stale run" in succeeds("retry", "--stale")
    key = keys()[1]
    assert refused("reproduce", key) == (
        f"error: cannot read lab/mine.py: there is no such file; the source of the encoding is in "
        f"runs/{key[:16]}/environment.json (encodings)\n"
    )
    assert name.startswith("lab/mine.py:Mine@")


def test_failed_runs_are_retried_with_the_file_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train_with_failures)
    assert vitab(*SMOKE, "--position", "none,lab/mine.py:Mine").exit_code == 1
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    own._sources.clear()
    text = write(Path("lab/mine.py"), CHANGE).read_text()
    digests = [own.digest_of(Store(Path("runs")).read_study("smoke").configs[1].position), own.digest_of_source(text)]
    assert refused("retry") == (
        f"error: lab/mine.py:Mine has changed: its SHA-256 must start with {digests[0]}, got {digests[1]}\n"
    )
    write(Path("lab/mine.py"))
    assert "all 4 runs are finished" in succeeds("retry", "--workers", "1")


def test_status_calls_runs_stale_when_a_module_that_the_encoding_imports_has_changed(
    trainer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        Path("lab/turned.py"),
        ("from vit import ConfigError", "from vit.positions.rope import rotary_angles"),
    )
    position = standard_position("lab/turned.py:Mine")
    assert [Path(path).name for path in position_sources(position)] == ["rope.py"]
    assert {"position turned.py:Mine", "position turned.py:Mine (imports)"} <= code_version(position, "numpy").keys()
    assert not position_sources(standard_position("lab/mine.py:Mine"))
    succeeds(*SMOKE, "--position", "lab/turned.py:Mine")
    monkeypatch.setattr("ablations.storage.code_version.component_digest", lambda patterns: "changed")
    code_version.cache_clear()
    try:
        assert "(model, training, backend numpy, position turned.py:Mine (imports))" in succeeds("status")
    finally:
        code_version.cache_clear()


@pytest.mark.usefixtures("package")
def test_an_encoding_of_an_installed_package(trainer: None) -> None:
    succeeds(*SMOKE, "--position", "none,fancy")
    position = Store(Path("runs")).read_study("smoke").configs[1].position
    assert position == f"fancy@{own.digest_of_source(Path('fancy_pack/encoding.py').read_text())}"
    assert [Path(path).name for path in position_sources(position)] == ["__init__.py", "helper.py"]
    succeeds("report")
    assert "fancy (learned penalty on distant patches)" in Path("reports/smoke/README.md").read_text(encoding="utf-8")
    succeeds("compare", "fancy", "none")
    assert "unknown position 'fanc' (did you mean 'fancy'?)" in refused(*SMOKE, "--position", "fanc")


def test_a_request_to_a_cluster_has_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = override(GRIDS["smoke"], axes={"position": (standard_position("lab/mine.py:Mine"),)})
    plan, store = make_plan(grid, study="smoke"), Store(Path("runs"))
    task = tasks_of(plan, survey(plan, store), store)[0]
    client = cluster_runs.ClusterRuns.__new__(cluster_runs.ClusterRuns)
    client.settings = cluster_worker.ExecutionSettings(Path("runs"))
    client.cluster = type("Cluster", (), {"code": "", "folder": "runs#1", "runs": "runs"})()
    client.key_prefix, client.submissions, client.memory = "vitab-", {}, {}
    request = json.loads(json.dumps(client.request_for(task)))
    assert request["sources"] == [Path("lab/mine.py").read_text()]


BAD = [
    ("none,lab/none.py:Mine", "cannot read lab/none.py: there is no such file"),
    ("none,lab/mine.py", "position must be FILE.py:CLASS for an encoding in a file, got 'lab/mine.py'"),
    ("none,lab/mine.py:Yours", "lab/mine.py defines no class 'Yours'; its encodings are Mine"),
    ("none,lab/bad.py:Mine", "cannot import lab/bad.py: SyntaxError: "),
    ("none,lab/plain.py:Mine", "lab/plain.py:Mine must be decorated with @dataclass(frozen=True)"),
    ("none,lab/mine.py:Mine(end=1)", "options of position lab/mine.py:Mine must be one of start, got 'end'"),
    ("none,lab/mine.py:Mine(start=-1)", "start of position lab/mine.py:Mine must be above 0, got '-1'"),
    ("none,lab/mine.py:Mine+none", "position must not add 'none' to another encoding"),
    ("lab/mine.py:Mine,lab/same.py:Mine", "position must have levels with different labels, got lab/mine.py:Mine and "),
    ("none,lab/even.py:Mine", "the grid must be even, got 1 (8x8 images of digits)"),
    (
        "none,lab/hook.py:Mine",
        "position lab/hook.py:Mine raises ZeroDivisionError: division by zero (hook.py, line 48); to",
    ),
    ("none,lab/check.py:Mine", "position lab/check.py:Mine raises ZeroDivisionError: division by zero (check.py, line"),
]


@pytest.mark.parametrize(("positions", "message"), BAD)
def test_bad_encodings_are_one_line_and_nothing_is_written(positions: str, message: str) -> None:
    check = "    def check(self, config):\n        {}\n\n    def declare"
    Path("lab/bad.py").write_text("def :")
    write(Path("lab/same.py"), CHANGE)
    write(Path("lab/plain.py"), ("@dataclass(frozen=True)\n", ""))
    even = "if config.grid % 2: raise ConfigError(f'the grid must be even, got {config.grid}')"
    write(Path("lab/even.py"), ("    def declare", check.format(even)))
    write(Path("lab/check.py"), ("    def declare", check.format("1 / 0")))
    write(Path("lab/hook.py"), ("        bias, dbias =", "        1 / 0\n        bias, dbias ="))
    patch = ["--set", "patch=8"] if "even" in positions else []
    assert refused(*SMOKE, *patch, "--position", positions).startswith(f"error: {message}")
    assert [path.name for path in Path().iterdir()] == ["lab"]
