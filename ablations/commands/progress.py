"""Progress of a study: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablations.commands.display import add_row, duration, say
from ablations.config import count
from ablations.execution.tasks import Finished, Task

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ablations.training.trainer import EpochMetrics

EPOCH_LINE_EVERY = 15.0
"""Seconds between two plain lines about epochs."""
COLUMNS = ("run", "epoch", "loss", "accuracy", "images/s", "left")
"""Of the table of the running runs."""


class Progress:
    """Prints plain lines: one per finished or failed run, and one every 15 s about the epochs of long runs."""

    def __init__(self, console: "Console", tasks: Sequence[Task], *, skipped: int = 0) -> None:
        self.console = console
        self.total = len(tasks) + skipped
        self.count = skipped
        self.evaluating = any(task.evaluation for task in tasks)
        self.begun = time.monotonic()
        self.running: dict[Task, tuple[float, EpochMetrics | None]] = {}
        self._work = sum(task.weight for task in tasks)
        self._worked = 0.0
        self._last_line = self.begun

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None: ...

    def started(self, task: Task) -> None:
        """Register a run that starts."""
        self.running[task] = (time.monotonic(), None)

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None:
        """Register the metrics of an epoch."""
        begun = self.running[task][0]
        self.running[task] = (begun, metrics)
        if time.monotonic() - self._last_line >= EPOCH_LINE_EVERY:
            self.line(
                f"  {task.label}: epoch {metrics.epoch}/{task.config.epochs}, loss {metrics.train_loss:.3f}, "
                f"validation {metrics.validation_accuracy:.1%}, {metrics.images_per_s:,.0f} images/s, "
                f"{_left(_run_left(task, begun, metrics))}"
            )

    def finished(self, task: Task, result: Finished) -> None:
        """Report a finished run."""
        self._end_run(task)
        self.line(
            f"{self.counter()} {task.label}: {_diverged(result) or result.summary}, {duration(result.seconds)}; "
            f"{_left(self.study_left())}"
        )

    def failed(self, task: Task, reason: str) -> None:
        """Report a failed run."""
        self._end_run(task)
        self.line(f"{self.counter()} {task.label}: FAILED: {reason}")

    def retrying(self, task: Task, reason: str) -> None:
        """Report a run that failed for a transient reason and is retried."""
        self.running.pop(task, None)
        self.line(f"{task.label}: {reason}; retrying")

    def finished_elsewhere(self, task: Task, result: Finished) -> None:
        """Report a run that another process has finished."""
        self._end_run(task)
        self.line(f"{self.counter()} {task.label}: {_diverged(result) or result.summary}, finished by another process")

    def waiting(self, runs: int) -> None:
        """Report that all remaining runs are being trained or evaluated by other processes."""
        what = f"{count(runs, 'evaluation')} of" if self.evaluating else f"{count(runs, 'run')} being trained by"
        self.line(f"waiting for {what} other processes; Ctrl-C stops waiting")

    def note(self, task: Task, line: str) -> None:
        """Report a message about a running run."""
        self.line(f"{task.label}: {line}")

    def line(self, text: str) -> None:
        """Print one line."""
        self._last_line = time.monotonic()
        say(self.console, text)

    def counter(self) -> str:
        """Return the number of the run that has just ended, such as [ 7/48]."""
        return f"[{self.count:>{len(str(self.total))}}/{self.total}]"

    def study_left(self) -> float | None:
        """Return the estimated seconds left for the study; None before the first epoch has ended."""
        worked = self.worked()
        return (time.monotonic() - self.begun) * (self._work / worked - 1) if worked > 0 else None

    def worked(self) -> float:
        """Return the weight of the work done, including parts of runs."""
        return self._worked + sum(
            task.weight * metrics.epoch / task.config.epochs
            for task, (_, metrics) in list(self.running.items())
            if metrics is not None
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return the running runs as rows of COLUMNS."""
        found: list[tuple[str, ...]] = []
        for task, (begun, metrics) in list(self.running.items()):
            if metrics is None:
                found.append((task.label, "" if task.evaluation else f"0/{task.config.epochs}", "", "", "", ""))
                continue
            found.append(
                (
                    task.label,
                    f"{metrics.epoch}/{task.config.epochs}",
                    f"{metrics.train_loss:.3f}",
                    f"{metrics.validation_accuracy:.1%}",
                    f"{metrics.images_per_s:,.0f}",
                    duration(_run_left(task, begun, metrics)),
                )
            )
        return found

    def so_far(self) -> str:
        """Return how many runs have ended."""
        return f"{self.count} of {self.total} {'evaluations' if self.evaluating else 'runs'}"

    def share(self) -> float:
        """Return the share of the work that is done, 0 to 1."""
        return self.worked() / self._work if self._work else 1.0

    def timing(self) -> str:
        """Return the time since the start, and the estimated time left."""
        return f"{duration(time.monotonic() - self.begun)} elapsed, {_left(self.study_left())}"

    def _end_run(self, task: Task) -> None:
        self.running.pop(task, None)
        self._worked += task.weight
        self.count += 1


class LiveProgress(Progress):
    """Shows a live table of the running runs, below the lines of those that have ended."""

    def __init__(self, console: "Console", tasks: Sequence[Task], *, skipped: int = 0) -> None:
        from rich.live import Live

        super().__init__(console, tasks, skipped=skipped)
        self._last_line = float("inf")
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveProgress":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def line(self, text: str) -> None:
        """Print one line above the table."""
        say(self.console, text, style="red" if "FAILED" in text or "DIVERGED" in text else "")

    def table(self) -> "RenderableType":
        """Return the table of the running runs and the progress of the study."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
        for name in COLUMNS:
            table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True, overflow="ellipsis")
        for row in self.rows():
            add_row(table, *row)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(self.so_far(), ProgressBar(total=1.0, completed=self.share(), width=30), self.timing())
        return Group(table, bar)


def _diverged(result: Finished) -> str:
    """Return that a run diverged; empty for one that was trained to the end."""
    return f"DIVERGED: the loss was not finite in epoch {result.diverged}" if result.diverged else ""


def _run_left(task: Task, begun: float, metrics: "EpochMetrics") -> float:
    """Return the estimated seconds left for a run."""
    return max(0.0, (time.monotonic() - begun) * (task.config.epochs / metrics.epoch - 1))


def _left(seconds: float | None) -> str:
    return "time left unknown" if seconds is None else f"{duration(seconds)} left"
