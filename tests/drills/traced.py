"""The program vitab with a trace: the time of each step of each run is written to the folder in VITAB_TRACE.

Worker processes start with `worker`, so their steps are traced too.
"""

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ablations.cli import app
from ablations.execution import pool
from ablations.training import checkpoint as snapshot

_load, _is_due, _worker_main = snapshot.Checkpointer.load, snapshot.Checkpointer.is_due, pool._worker_main


def load(checkpointer: snapshot.Checkpointer) -> snapshot.TrainingState | None:
    """Load a checkpoint and start a trace at its step."""
    found = _load(checkpointer)
    checkpointer.step = 0 if found is None else found.progress["optimizer_step"]
    name = f"{checkpointer.path.parent.name}-{time.monotonic_ns()}-{os.getpid()}-{os.getpgrp()}"
    checkpointer.trace = os.open(Path(os.environ["VITAB_TRACE"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    note(checkpointer)
    return found


def is_due(checkpointer: snapshot.Checkpointer, steps: float = 1.0) -> bool:
    """Record a step."""
    checkpointer.step += 1
    note(checkpointer)
    return _is_due(checkpointer, steps)


def note(checkpointer: snapshot.Checkpointer) -> None:
    os.write(checkpointer.trace, f"{time.monotonic()} {checkpointer.step}\n".encode())


@dataclass
class Trace:
    """Trace of an attempt at a run: the time of each step, from its first one."""

    rows: list[tuple[float, int]]
    pid: int
    ended: float

    @property
    def start(self) -> float:
        return self.rows[0][0]


def read(folder: Path, killed: dict[int, float], groups: dict[int, float]) -> list[list[Trace]]:
    """Return the attempts at each run, in order.

    `killed` and `groups` have the times of the kills, by process id and process group. An attempt lasts until its last
    step or its kill.
    """
    runs = defaultdict(list)
    for path in folder.iterdir():
        run, _, pid, group = path.name.split("-")
        rows = [(float(at), int(step)) for at, step in map(str.split, path.read_text().splitlines())]
        end = max(rows[-1][0], killed.get(int(pid), 0.0), groups.get(int(group), 0.0))
        runs[run].append(Trace(rows, int(pid), end))
    return [sorted(attempts, key=lambda trace: trace.start) for attempts in runs.values()]


def work_redone(runs: list[list[Trace]]) -> list[float]:
    """Return the seconds between the state from which the next attempt resumed and the end of each attempt."""
    redone = []
    for attempts in runs:
        for before, after in pairwise(attempts):
            kept = [at for at, step in before.rows if step <= after.rows[0][1]]
            if len(before.rows) > 1:  # it had started training
                redone.append(before.ended - (kept[-1] if kept else before.start))
    return redone


def at_once(runs: list[list[Trace]]) -> int:
    """Return how often two processes trained a run at the same time."""
    return sum(
        before.rows[-1][0] > after.start and before.pid != after.pid
        for attempts in runs
        for before, after in pairwise(attempts)
    )


def trace() -> None:
    """Trace the runs of this process."""
    snapshot.Checkpointer.load, snapshot.Checkpointer.is_due = load, is_due


def worker(*arguments: Any) -> None:
    """Trace the runs of a worker process."""
    trace()
    _worker_main(*arguments)


if __name__ == "__main__":
    from tests.drills import traced  # worker processes import it by this name

    traced.trace()
    pool._worker_main = traced.worker
    app()
