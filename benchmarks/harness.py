"""Overhead of the harness: `python -m benchmarks.harness [--json FILE]`.

The program measures, for each run in a worker process that has already trained a run, the time from the assignment of
the run to its first step, and the time from its last step to DONE.json, including the evaluation on the test set. It
also measures the time to plan a grid of 10,000 runs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.config import GRIDS, override
from ablations.execution import plan as study
from ablations.execution.pool import run_in_pool
from ablations.execution.tasks import ExecutionSettings, Finished, RunHooks, Task
from ablations.execution.worker import train_and_store
from ablations.storage import Store
from ablations.training import checkpoint as snapshot
from benchmarks.records import save_machine, save_records

RUNS = 40
PLANNED = 10_000
LIMITS = {"start": 0.5, "end": 0.5, "both": 0.5, "plan": 5.0}


@dataclass(frozen=True)
class Record:
    """Time of one part of the harness, over `runs` runs."""

    what: str
    runs: int
    median_s: float
    most_s: float
    limit_s: float

    @property
    def good(self) -> bool:
        return self.most_s < self.limit_s


def timed(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Train a run and write the times of its steps to a file. The worker pool executes this function as its job."""
    start, steps = time.monotonic(), []
    checkpointer_is_due = snapshot.Checkpointer.is_due

    def is_due(checkpointer: snapshot.Checkpointer, steps_ahead: float = 1.0) -> bool:
        steps.append(time.monotonic())
        return checkpointer_is_due(checkpointer, steps_ahead)

    snapshot.Checkpointer.is_due = is_due  # type: ignore[method-assign]
    try:
        result = train_and_store(task, settings, hooks)
    finally:
        snapshot.Checkpointer.is_due = checkpointer_is_due  # type: ignore[method-assign]
    times = {"taken": start, "first": steps[0], "second": steps[1], "last": steps[-1], "done": time.monotonic()}
    (settings.runs / f"{task.key}.times").write_text(json.dumps(times))
    return result


class EventTimes:
    """Listener that records the times at which each run was assigned and reported as finished."""

    def __init__(self) -> None:
        self.assigned: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    def started(self, task: Task) -> None:
        self.assigned[task.key] = time.monotonic()

    def finished(self, task: Task, result: Finished) -> None:
        self.ended[task.key] = time.monotonic()

    def epoch(self, task: Task, metrics: Any) -> None: ...

    def failed(self, task: Task, reason: str) -> None:
        raise SystemExit(f"{task.label}: {reason}")

    def retrying(self, task: Task, reason: str) -> None:
        raise SystemExit(f"{task.label}: {reason}")

    def finished_elsewhere(self, task: Task, result: Finished) -> None: ...

    def waiting(self, runs: int) -> None: ...


def overhead(runs: int) -> list[Record]:
    """Measure small runs of the grid `rope` in one worker process. The first run is not counted."""
    grid = override(
        GRIDS["rope"],
        axes={"position": ("rope",), "depth": (2,), "patch": (4,)},
        settings={"epochs": 2, "warmup_epochs": 0.2},
        seeds=runs + 1,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        plan = study.make_plan(grid, study="overhead")
        store.write_study(plan)
        tasks = study.tasks_of(plan, study.survey(plan, store), store)
        events = EventTimes()
        run_in_pool(tasks, ExecutionSettings(store.root), events, workers=1, job=timed)
        start, end = [], []
        for task in tasks[1:]:
            times = json.loads((store.root / f"{task.key}.times").read_text())
            step = times["second"] - times["first"]
            start.append(times["first"] - step - events.assigned[task.key])
            end.append(events.ended[task.key] - times["last"])
    both = [a + b for a, b in zip(start, end, strict=True)]
    return [_record(what, values) for what, values in (("start", start), ("end", end), ("both", both))]


def planning(runs: int, rounds: int = 3) -> Record:
    """Measure the time to plan a grid of 4 positions, 5 depths, 2 patch sizes and many seeds, and to write its plan."""
    grid = override(
        GRIDS["rope"],
        axes={"position": ("none", "learned", "sinusoidal", "rope"), "depth": (1, 2, 3, 4, 5), "patch": (2, 4)},
        seeds=runs // 40,
    )
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            store = Store(Path(folder))
            plan = study.make_plan(grid, study="plan")
            tasks = study.tasks_of(plan, study.survey(plan, store), store)
            store.write_study(plan)
            seconds.append(time.perf_counter() - start)
            assert len(tasks) == runs
    return Record("plan", runs, float(np.median(seconds)), max(seconds), LIMITS["plan"])


def _record(what: str, values: Sequence[float]) -> Record:
    return Record(what, len(values), float(np.median(values)), max(values), LIMITS[what])


WORDS = {
    "start": "from the assignment of a run to its first step",
    "end": "from its last step to DONE.json, with evaluation",
    "both": "both, per run",
    "plan": "planning the grid and writing the plan",
}


def table(records: Sequence[Record]) -> str:
    """Return the records as a text table, one line per record."""
    lines = [f"{'':<50}{'runs':>8}{'median s':>10}{'max s':>9}{'limit s':>9}"]
    lines += [
        f"{WORDS[r.what]:<50}{r.runs:>8,}{r.median_s:>10.3f}{r.most_s:>9.3f}{r.limit_s:>9.1f}"
        + ("" if r.good else "  MISSED")
        for r in records
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS, help=f"number of runs to train (default: {RUNS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records to FILE")
    options = parser.parse_args(arguments)
    records = [*overhead(options.runs), planning(PLANNED)]
    if options.json:
        save_machine(options.json)
        save_records(options.json, records)
    print(table(records))
    return 0 if all(record.good for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
