"""The runs of a study in a tracker, while they are trained."""

import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ablations.config import count
from ablations.execution.tasks import Finished, Listener, Task
from ablations.storage import Store, StudyPlan
from ablations.tracking.process import TrackerError, TrackerProcess
from ablations.tracking.study import tracked_run, written_report
from ablations.tracking.tracker import TrackedRun

if TYPE_CHECKING:
    from ablations.training.trainer import EpochMetrics

QUEUE_LENGTH = 10_000
"""Maximum number of events that wait for the tracker."""
BUSY = 1000
"""Number of waiting events from which epochs are left out; they are copied when their run is finished."""
FLUSH_LIMIT = 30.0
"""Seconds to wait for the tracker after the last run."""
QUIET = 2.0
"""Seconds of that before a line says so."""


class LiveTracking:
    """Sends what happens to runs to a tracker.

    The events wait in a queue, from which a thread takes them to the process of the tracker. The first one that fails,
    takes too long or finds no place in the queue ends the tracking, with one warning; the runs go on. A run that
    another process has finished is left to `vitab track`, so that two processes do not copy the same run.

    `warn` and `say` print a line; `warn` is called from any thread. `later` is the command that copies finished runs.
    """

    def __init__(
        self, tracker: str, store: Store, *, later: str, warn: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        self.tracker, self.store, self.later, self.warn, self.say = tracker, store, later, warn, say
        self._plan: StudyPlan | None = None
        self._process: TrackerProcess | None = None
        self._queue: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._work, name="vitab tracking", daemon=True)
        self._ended = threading.Lock()
        self._sent: set[str] = set()
        self._answers: dict[str, Any] = {}
        """What the last call of each method has returned."""

    def listener(self, plan: StudyPlan, listener: Listener) -> Listener:
        """Return a listener for the runs of a plan that forwards every event, and sends it to the tracker."""
        self._plan = plan
        return _TrackingListener(self, plan, listener)

    @property
    def busy(self) -> bool:
        """Whether many events wait for the tracker."""
        return self._queue.qsize() >= BUSY

    def send(self, method: str, *arguments: Any) -> None:
        """Have a method of `Mirror` called. Returns at once."""
        self._sent.add(method)
        if self._process is None and not self._ended.locked():
            self._start()
        if not self._ended.locked():
            try:
                self._queue.put_nowait((method, arguments))
            except queue.Full:
                self._end(f"{QUEUE_LENGTH} events are waiting for it")

    def close(self) -> None:
        """Copy the report if the study has just been finished, wait for the tracker, and print where the runs are."""
        if self._plan is None:
            return
        if self._process is None:
            if not self._ended.locked():
                self.say(f"no run was trained; to copy finished runs to {self.tracker}: {self.later}")
            return
        try:
            with ExitStack() as stack:
                if "finish" in self._sent and all(map(self.store.done, self._plan.keys)):
                    self._send_report(stack)
                self.send("lacking", [tracked_run(self._plan, *item) for item in self._plan.runs.items()])
                self.send("close")
                self._flush()
            if "close" in self._answers:
                self._process.end()
        finally:
            self._process.kill()
        if "close" in self._answers:
            place, lacking = self._answers["close"], self._answers["lacking"]
            self.say("; ".join(filter(None, (f"{self.tracker}: {place['where']}", place["next_step"]))))
            if lacking:
                self.say(f"not in {self.tracker}: {count(lacking, 'finished run')}; to copy: {self.later}")

    def _start(self) -> None:
        assert self._plan is not None
        try:
            self._process = TrackerProcess(self.tracker, self.store, self._plan.study)
        except OSError as error:
            self._end(f"it cannot be started: {error.strerror or error}")
        else:
            self._thread.start()

    def _send_report(self, stack: ExitStack) -> None:
        """Write the report of the study to a folder that is removed when the stack is closed, and have it copied."""
        if self._plan is None or self._ended.locked():
            return
        self.say(f"writing the report for {self.tracker}")
        try:
            self.send("report", stack.enter_context(written_report(self.store, self._plan.study)))
        except Exception as error:
            self.warn(f"{self.tracker} gets no report: {error}")

    def _work(self) -> None:
        assert self._process is not None
        while (item := self._queue.get()) is not None:
            method, arguments = item
            try:
                self._answers[method] = self._process.call(method, *arguments)
            except TrackerError as error:
                self._end(str(error))
                return

    def _flush(self) -> None:
        """Wait until the queue has been worked off."""
        if not self._ended.locked():
            with suppress(queue.Full):
                self._queue.put(None, timeout=FLUSH_LIMIT)
        self._thread.join(QUIET)
        if self._thread.is_alive():
            self.say(f"waiting up to {FLUSH_LIMIT:g} s for {self.tracker}")
            self._thread.join(FLUSH_LIMIT - QUIET)
        if self._thread.is_alive():
            self._end(f"it was not done {FLUSH_LIMIT:g} s after the last run")

    def _end(self, reason: str) -> None:
        """End the tracking, once."""
        if self._ended.acquire(blocking=False):
            self.warn(f"tracking by {self.tracker} ended: {reason}; the runs are not affected. Later: {self.later}")
            if self._process is not None:
                self._process.kill()


class _TrackingListener:
    """Listener that sends events of runs to a tracker and forwards every event to another listener."""

    def __init__(self, live: LiveTracking, plan: StudyPlan, listener: Listener) -> None:
        self._live, self._plan, self._listener = live, plan, listener
        self._runs: dict[str, TrackedRun] = {}
        self.retrying, self.waiting, self.note = listener.retrying, listener.waiting, listener.note
        self.finished_elsewhere = listener.finished_elsewhere

    def started(self, task: Task) -> None:
        self._listener.started(task)
        self._live.send("start", self._run(task))

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None:
        self._listener.epoch(task, metrics)
        if not self._live.busy:
            row = {name: float(value) for name, value in asdict(metrics).items()} | {"epoch": metrics.epoch}
            self._live.send("epoch", self._run(task), row)

    def finished(self, task: Task, result: Finished) -> None:
        self._listener.finished(task, result)
        self._live.send("finish", self._run(task))

    def failed(self, task: Task, reason: str) -> None:
        self._listener.failed(task, reason)
        self._live.send("fail", self._run(task), reason)

    def _run(self, task: Task) -> TrackedRun:
        if task.key not in self._runs:
            self._runs[task.key] = tracked_run(self._plan, task.key, task.config)
        return self._runs[task.key]
