"""The commands of evaluations, and what they leave on disk."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ablations.cli import app
from ablations.errors import VitabError
from ablations.evaluation import Measurement
from ablations.evaluation.finished_run import FinishedRun
from ablations.evaluation.protocols.calibration import Calibration

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


def working_copy(trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy trained runs to `runs` in a folder, in which the test then works."""
    monkeypatch.chdir(folder)
    return Path(shutil.copytree(trained, folder / "runs"))


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
