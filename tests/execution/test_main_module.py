"""Worker processes import the main module only for a job that is defined there."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from pathlib import Path

from {place} import job
from ablations.config import RunConfig
from ablations.execution.pool import run_in_pool
from ablations.execution.tasks import ExecutionSettings, Finished, Task

print("imported", __name__)


{own}class Log:
    def __getattr__(self, name):
        return lambda task, *rest: print(name, *(result.summary for result in rest if isinstance(result, Finished)))


if __name__ == "__main__":
    run_in_pool([Task("key", RunConfig(), "a run")], ExecutionSettings(Path("runs")), Log(), workers=1, job=job)
"""
OWN = """def job(task, settings, hooks):
    return Finished(__name__, 0.1)


"""


@pytest.mark.parametrize(
    ("own", "printed"),
    [
        pytest.param("", {"imported __main__", "started", "epoch", "finished test 50.0%"}, marks=pytest.mark.slow),
        (OWN, {"imported __main__", "imported __mp_main__", "started", "finished __mp_main__"}),
    ],
    ids=["elsewhere", "main module"],
)
def test_the_main_module_is_imported_for_its_own_job(tmp_path: Path, own: str, printed: set[str]) -> None:
    (tmp_path / "script.py").write_text(PROGRAM.format(place="tests.support.fake_trainer", own=own))
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-u", "-W", "error", "script.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.splitlines()) == printed
