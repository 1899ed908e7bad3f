"""A tracker that writes down its calls, and fails, hangs or dies in the one that an environment variable names."""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.tracking.tracker import TrackedRun, Tracker

FAULT = "VITAB_TEST_FAULT"
"""METHOD:KIND, with the kinds raise, hang, die and pause; METHOD is * for all."""


class Notebook(Tracker):
    """Writes <folder>/calls.jsonl."""

    def __init__(self, folder: Path, study: str) -> None:
        self.where, self.next_step = f"notes in {folder}", "to look: cat"
        self.file = folder / "calls.jsonl"
        self._note("connect", study)

    def start_run(self, run: TrackedRun, *, resume: bool) -> bool:
        self._note("start_run", run.name, resume)
        return resume

    def log(self, run: TrackedRun, epochs: Sequence[Mapping[str, float]]) -> None:
        self._note("log", run.name, [metrics["epoch"] for metrics in epochs])

    def finish(self, run: TrackedRun, epochs: int, results: Mapping[str, float]) -> None:
        self._note("finish", run.name, epochs, results["result/test_accuracy"])

    def stop(self, run: TrackedRun, failure: str | None) -> None:
        self._note("stop", run.name, failure)

    def report(self, folder: Path) -> None:
        self._note("report", sorted(path.name for path in folder.iterdir()))

    def _note(self, method: str, *details: Any) -> None:
        where, _, kind = os.environ.get(FAULT, "").partition(":")
        if where in (method, "*"):
            fault(kind)
        with self.file.open("a") as file:
            file.write(json.dumps([method, *details]) + "\n")


def fault(kind: str) -> None:
    if kind == "raise":
        raise ConnectionError("the server\nis down")
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "pause":
        time.sleep(1)
    if kind == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)


def calls(runs: Path = Path("runs")) -> list[list[Any]]:
    """The calls of a notebook, each a method and its details."""
    return [json.loads(line) for line in (runs / "tracking" / "fake" / "calls.jsonl").read_text().splitlines()]
