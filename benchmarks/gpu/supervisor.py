"""Running of a stage in worker processes: results are written after every row, and what hangs or dies is named.

A worker carries out the items of a stage in order. If it hangs, ends or loses the GPU, the item is a problem, and a new
worker goes on with the next one. Launches are asynchronous, so an item that hangs is tried once more with a wait after
every launch, which tells the kernel.

This module imports nothing but the standard library, and so works where everything else fails.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.progress import Doing, Progress

WORKER = (sys.executable, "-m", "benchmarks.gpu.worker")
STARTING = 40.0
"""Seconds in which a worker must have imported everything."""
MARGIN = 3.0
"""Seconds before the time limit at which a stage ends, to kill its processes and write the results."""
WAITING = ("smoke",)
"""Stages that wait after every launch from the beginning, as they are about kernels and not about speed."""
LAST_LINES = 30
ROOT = Path(__file__).parents[2]

Row = dict[str, Any]


@dataclass
class Stage:
    """A stage and its results so far, as they are written to JSON."""

    name: str
    seconds: float
    """Time limit."""
    path: Path
    rows: list[Row] = field(default_factory=list)
    """Results in order. "passed" is whether a check holds; measurements have none."""
    problems: list[Row] = field(default_factory=list)
    """Errors, hangs and crashes: the item, what happened, and the traceback."""
    items: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    machine: Row = field(default_factory=dict)
    summarise: Callable[[list[Row]], list[Row]] | None = None
    """Returns what the rows say together, such as whether aims are reached."""
    ended: str = "running"
    taken: float = 0.0

    @property
    def not_run(self) -> list[str]:
        return [item for item in self.items if item not in self.done]

    @property
    def passed(self) -> bool:
        """Whether everything was run and nothing failed."""
        failed = any(row.get("passed") is False for row in self.rows)
        return bool(self.items) and not (self.problems or self.not_run or failed)

    @property
    def aims(self) -> list[Row]:
        return self.summarise(self.rows) if self.summarise else []

    def save(self) -> None:
        """Write everything so far; a machine that goes away costs at most the row that is being measured."""
        about = {"stage": self.name, "passed": self.passed, "ended": self.ended}
        about |= {"seconds": round(self.taken, 1), "limit_s": self.seconds, "machine": self.machine}
        about |= {"aims": self.aims} if self.summarise else {}
        about |= {"problems": self.problems, "not_run": self.not_run, "rows": self.rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(json.dumps(about, indent=1) + "\n")
        unfinished.replace(self.path)


class Supervisor:
    """Runs one stage. `worker` is the command of a worker, and `tell` shows a line to the user."""

    def __init__(
        self,
        stage: Stage,
        options: Row | None = None,
        *,
        worker: Sequence[str] = WORKER,
        tell: Callable[[str], object] = print,
        patience: float = 1.0,
    ) -> None:
        """`patience` is a factor on the time after which something counts as hanging."""
        self.stage, self.options, self.worker, self.tell, self.patience = stage, options or {}, worker, tell, patience
        self.start = time.monotonic()
        self.launched: list[str] = []
        """Kernels that the workers have launched."""

    def run(self) -> Stage:
        """Run the items until all are done or the time is over."""
        stage = self.stage
        stage.save()
        with tempfile.TemporaryDirectory() as folder:
            again: str | None = None
            while stage.ended == "running":
                worker = _Worker(self, Path(folder), again)
                try:
                    outcome = worker.follow()
                finally:
                    worker.close()
                again = self._after(worker, outcome)
        self._keep()
        return stage

    @property
    def left(self) -> float:
        """Seconds until the end of the stage."""
        return self.stage.seconds - MARGIN - (time.monotonic() - self.start)

    def _after(self, worker: "_Worker", outcome: str) -> str | None:
        """Note what has become of a worker. Return the item to try again with a wait after every launch."""
        stage, item = self.stage, worker.item
        if outcome == "time":
            stage.ended = f"stopped at the time limit, in {item or 'the start'}: {worker.doing.what}"
        elif outcome == "hung" and item and not worker.waits:
            self._problem(
                item, f"no sign of life for {worker.patience:.0f} s: {worker.doing.what}", worker.last_words()
            )
            return item
        elif outcome in ("hung", "died"):
            how = f"no sign of life for {worker.patience:.0f} s" if outcome == "hung" else f"ended with {worker.status}"
            self._problem(item or "start", f"{how}: {worker.doing.what}", worker.last_words())
            if item:
                stage.done.append(item)
            else:
                stage.ended = "the worker cannot start"
        elif stage.ended == "running" and not worker.ended_items and stage.not_run:
            stage.ended = "the worker ends without a result"
        if not stage.not_run and stage.items and stage.ended == "running":
            stage.ended = "finished"
        return None

    def receive(self, message: Row) -> None:
        """Take in a message of a worker."""
        stage = self.stage
        if "items" in message:
            stage.items, stage.machine = message["items"], message["machine"]
        elif "row" in message:
            stage.rows.append(message["row"])
            self.tell(f"{self._time()} {text_of(message['row'])}")
        elif "problem" in message:
            self._problem(**message["problem"])
        elif "end" in message:
            stage.done.append(message["end"])
            self.launched = message["launched"]
        elif "stop" in message:
            stage.ended = message["stop"]
        self._keep()

    def _problem(self, item: str, what: str, traceback: str) -> None:
        self.stage.problems.append({"item": item, "what": what, "traceback": traceback})
        self.tell(f"{self._time()} PROBLEM {item}: {what}")
        self._keep()

    def _keep(self) -> None:
        self.stage.taken = time.monotonic() - self.start
        self.stage.save()

    def _time(self) -> str:
        return f"{time.monotonic() - self.start:5.1f} s"


class _Worker:
    """A worker process, its messages, and what it does at the moment."""

    def __init__(self, supervisor: Supervisor, folder: Path, again: str | None) -> None:
        """With `again`, the worker runs this item alone, with a wait after every launch."""
        stage = supervisor.stage
        self.supervisor, self.waits = supervisor, again is not None or stage.name in WAITING
        self.item: str | None = None
        self.ended_items = 0
        self.doing, self.patience, self.status = Doing(), STARTING, ""
        number = len([*folder.glob("errors*")])
        self._errors = folder / f"errors{number}"
        self._progress = Progress(folder / f"progress{number}")
        reading, writing = os.pipe()
        job = {"stage": stage.name, "pipe": writing, "progress": str(folder / f"progress{number}")}
        job |= {
            "rows": stage.rows,
            "skip": stage.done,
            "only": again,
            "waits": self.waits,
            "options": supervisor.options,
        }
        job |= {"seconds": supervisor.left, "launched": supervisor.launched}
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*supervisor.worker, json.dumps(job)],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(writing,),
                env=os.environ | {"TMPDIR": str(folder)},  # which is removed, however the worker ends
                cwd=ROOT,
            )
        os.close(writing)
        self._messages: queue.Queue[Row | None] = queue.Queue()
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()

    def _read(self, pipe: int) -> None:
        with os.fdopen(pipe) as lines, suppress(ValueError):
            for line in lines:
                self._messages.put(json.loads(line))
        self._messages.put(None)

    def follow(self) -> str:
        """Receive messages until the worker is "done", has "died", has "hung", or the "time" is over."""
        changed = time.monotonic()
        started = False
        while True:
            try:
                message = self._messages.get(timeout=0.05)
            except queue.Empty:
                message = {}
            if message is None:
                return self._ended()
            if message:
                started, changed = True, time.monotonic()
                self.item = message.get("begin", None if "end" in message else self.item)
                self.ended_items += "end" in message
                self.supervisor.receive(message)
            if (doing := self._progress.read()).count != self.doing.count:
                self.doing, changed = doing, time.monotonic()
            self.patience = self.doing.seconds * self.supervisor.patience if started else STARTING
            if self.supervisor.left <= 0:
                return "time"
            if time.monotonic() - changed > self.patience:
                return "hung"

    def _ended(self) -> str:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "hung"
        self.status = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return "done" if code == 0 else "died"

    def last_words(self) -> str:
        """Return the end of what the worker has printed: with a hang or a crash, the stacks of its threads."""
        lines = self._errors.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if not line.startswith("Extension modules:")][-LAST_LINES:])

    def close(self) -> None:
        """Make the worker print its stacks, if it still runs, and kill it with all the processes it has started."""
        started = descendants(self._process.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGABRT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        for process in (*started, self._process.pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that the driver holds cannot be waited for
            self._process.wait(2)


def descendants(process: int) -> list[int]:
    """Return the processes that a process has started, directly or not, as far as /proc tells."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            children.setdefault(int(entry.read_text().rpartition(")")[2].split()[1]), []).append(int(entry.parent.name))
    found, waiting = [], [process]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def text_of(row: Row) -> str:
    """Return a row as a line."""
    mark = {True: "ok    ", False: "FAILED", None: "      "}[row.get("passed")]
    values = [f"{name} {_shown(value)}" for name, value in row.items() if name not in ("item", "passed", "note")]
    values = [value.splitlines()[-1] if value.startswith("traceback") else value for value in values if value]
    note = f" ({row['note']})" if row.get("note") else ""
    return f"{mark} {row['item']}: {', '.join(values)}{note}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "-" if value is None else str(value)
