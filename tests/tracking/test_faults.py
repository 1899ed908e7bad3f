"""A tracker that fails, hangs, dies or cannot keep up costs no run, no time to speak of, and one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from ablations.commands.progress import Progress
from ablations.execution.tasks import Finished, Task
from ablations.storage import EpochMetrics, Store
from ablations.tracking import live, process
from tests.support import fake_trainer
from tests.support.evaluations import succeeds, vitab
from tests.support.fake_trackers import FAULT, calls
from tests.tracking.conftest import SMOKE

pytestmark = pytest.mark.slow


def contents(runs: Path) -> dict[str, bytes]:
    """What the files of runs and studies contain, besides times and processes."""
    found = {}
    for path in sorted(runs.rglob("*")):
        name = path.relative_to(runs).as_posix()
        if not path.is_file() or name.startswith("tracking/"):
            continue
        found[name] = path.read_bytes()
        if path.name.startswith("attempt-") or path.name == "DONE.json":
            found[name] = b""
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CALL_LIMIT", 8.0)


@pytest.mark.parametrize(
    ("method", "kind"),
    [*((method, "raise") for method in ("*", "connect", "start_run", "log", "finish", "report")), ("finish", "die")],
)
def test_a_tracker_that_fails_costs_no_run(here: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str) -> None:
    succeeds(vitab(*SMOKE, "--runs", "alone"))
    monkeypatch.setenv(FAULT, f"{method}:{kind}")
    result = vitab(*SMOKE, "--track", "fake")
    lines = succeeds(result)
    assert lines[5] == "all 4 runs are finished; next: vitab report smoke"
    assert lines[6:] in ([], ["writing the report for fake"])
    reason = "ConnectionError: the server is down" if kind == "raise" else "its process ended unexpectedly"
    assert [line for line in result.stderr.splitlines() if "no difference can" not in line] == [
        f"warning: tracking by fake ended: {reason}; the runs are not affected. Later: vitab track smoke --to fake"
    ]
    assert contents(here / "runs") == contents(here / "alone")
    monkeypatch.delenv(FAULT)
    assert succeeds(vitab("track", "--to", "fake"))[0].startswith("copied ")
    names = [call[1] for call in calls() if call[0] == "finish"]
    assert sorted(names) == ["none, seed 0", "none, seed 1", "rope, seed 0", "rope, seed 1"]


@pytest.mark.parametrize("method", ["connect", "finish"])
def test_a_tracker_that_hangs_costs_no_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, quick: None, method: str
) -> None:
    succeeds(vitab(*SMOKE, "--runs", "alone"))
    monkeypatch.setenv(FAULT, f"{method}:hang")
    started: list[process.TrackerProcess] = []
    monkeypatch.setattr(
        live, "TrackerProcess", lambda *rest: started.append(process.TrackerProcess(*rest)) or started[0]
    )
    begun = time.monotonic()
    result = vitab(*SMOKE, "--track", "fake")
    assert time.monotonic() - begun < 60
    lines = succeeds(result)
    assert lines[5:] == [
        "all 4 runs are finished; next: vitab report smoke",
        "writing the report for fake",
        "waiting up to 30 s for fake",
    ]
    assert [line for line in result.stderr.splitlines() if "no difference can" not in line] == [
        "warning: tracking by fake ended: no answer within 8 s; the runs are not affected. Later: vitab track smoke "
        "--to fake"
    ]
    assert contents(here / "runs") == contents(here / "alone")
    assert started[0].process.returncode == -signal.SIGKILL


def test_a_tracker_that_is_not_done_at_the_end_is_abandoned(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULT, "finish:hang")
    monkeypatch.setattr(live, "FLUSH_LIMIT", 3.0)
    result = vitab(*SMOKE, "--track", "fake")
    assert succeeds(result)[-1] == "waiting up to 3 s for fake"
    assert "tracking by fake ended: it was not done 3 s after the last run; the runs are not affected" in result.stderr
    assert result.stderr.count("warning: tracking") == 1


def test_a_tracker_that_cannot_keep_up_is_abandoned(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULT, "connect:hang")
    monkeypatch.setattr(live, "QUEUE_LENGTH", 3)
    result = vitab(*SMOKE, "--track", "fake")
    assert succeeds(result)[-1] == "all 4 runs are finished; next: vitab report smoke"
    assert "tracking by fake ended: 3 events are waiting for it; the runs are not affected" in result.stderr
    assert result.stderr.count("warning: tracking") == 1


def test_a_tracker_that_is_busy_gets_epochs_with_the_end_of_their_run(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAULT, "connect:pause")
    monkeypatch.setattr(live, "BUSY", 2)
    store, lines = Store(finished), list[str]()
    plan = store.read_study("smoke")
    tracking = live.LiveTracking("fake", store, later="", warn=lines.append, say=lambda line: None)
    task = Task(plan.keys[0], plan.configs[0], "none, seed 0")
    listener = tracking.listener(plan, Progress(Console(), [task]))
    listener.started(task)
    for epoch in (1, 2, 3):
        listener.epoch(task, EpochMetrics(epoch, 1e-3, 2.0, 1.5, 0.5, 0.25, 1000.0))
    assert tracking.busy
    listener.finished(task, Finished("", 1.0))
    tracking.close()
    assert lines == []
    assert [epoch for call in calls() if call[0] == "log" for epoch in call[2]] == [1, 2, 3]


def test_a_tracker_whose_folder_cannot_be_written(here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "tracking").write_text("a file")
    result = vitab(*SMOKE, "--track", "fake")
    assert succeeds(result)[-1] == "all 4 runs are finished; next: vitab report smoke"
    assert "warning: tracking by fake ended: it cannot be started: " in result.stderr
    failed = vitab("track", "--to", "fake")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: cannot start fake in runs: ")


def test_a_report_that_cannot_be_written_costs_no_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*rest: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(live, "written_report", fails)
    result = vitab(*SMOKE, "--track", "fake")
    assert succeeds(result)[-1] == "fake: notes in runs/tracking/fake; to look: cat"
    assert "warning: fake gets no report: no\n" in result.stderr
    assert "report" not in [call[0] for call in calls()]


@pytest.mark.parametrize(("kind", "reason"), [("raise", "ConnectionError: the server is down"), ("hang", "no answer")])
def test_track_says_why_it_failed_and_goes_on_from_there(
    finished: Path, monkeypatch: pytest.MonkeyPatch, quick: None, kind: str, reason: str
) -> None:
    monkeypatch.setenv(FAULT, f"report:{kind}")
    failed = vitab("track", "--to", "fake")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"error: fake failed after 4 runs: {reason}")
    assert failed.stderr.endswith("; it printed runs/tracking/fake/vitab/log\n")
    assert len(failed.stderr.splitlines()) == 1
    monkeypatch.delenv(FAULT)
    assert succeeds(vitab("track", "--to", "fake"))[0] == (
        "copied 0 runs of study smoke to fake, 4 were there: notes in runs/tracking/fake"
    )


def test_runs_that_fail_or_are_interrupted_are_stopped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config, dataset, *, on_epoch, **rest):
        if config.seed == 1:
            raise KeyboardInterrupt
        fake_trainer.train(config, dataset, on_epoch=on_epoch, **rest)
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr("ablations.training.trainer.train", train)
    result = vitab(*SMOKE, "--track", "fake")
    assert result.exit_code == 130
    assert result.stdout.splitlines()[-1] == "fake: notes in runs/tracking/fake; to look: cat"
    stopped = [call for call in calls() if call[0] == "stop"]
    assert [call[1:] for call in stopped] == [
        ["none, seed 0", "ZeroDivisionError: no luck"],
        ["rope, seed 0", "ZeroDivisionError: no luck"],
        ["none, seed 1", None],
    ]
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    (here / "runs" / "tracking" / "fake" / "calls.jsonl").unlink()
    succeeds(vitab(*SMOKE, "--track", "fake"))
    made = [call for call in calls() if call[0] in ("start_run", "log")]
    assert made[:3] == [
        ["start_run", "none, seed 0", False],
        ["log", "none, seed 0", [1]],
        ["log", "none, seed 0", [2]],
    ]
    assert ["start_run", "none, seed 1", True] in made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_process_of_the_tracker_ends_with_the_program(here: Path, number: int) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from ablations.storage import Store\n"
        "from ablations.tracking import registry\n"
        "from ablations.tracking.process import TrackerProcess\n"
        "registry.TRACKERS['fake'] = 'tests.support.fake_trackers:Notebook'\n"
        "from pathlib import Path\n"
        "with TrackerProcess('fake', Store(Path('runs')), 'smoke') as process:\n"
        "    process.call('lacking', [])\n"
        "    print(process.process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    started = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    started.send_signal(number)
    started.wait(60)
    started.stdout.close()
    assert gone(pid)


def gone(pid: int) -> bool:
    """Return whether a process ends within a minute."""
    for _ in range(1200):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False
