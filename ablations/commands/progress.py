"""How a study gets on: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablations.commands.display import add_row, duration, say
from ablations.execution.tasks import Finished, Task

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ablations.training.trainer import EpochMetrics

EPOCH_LINE_EVERY = 15.0
"""Seconds between two plain lines about the epochs of runs."""


class Progress:
    """Plain lines: one a finished or failed run, and now and then one about the epochs of a long run."""

    def __init__(self, console: "Console", tasks: Sequence[Task], *, skipped: int = 0) -> None:
        self.console = console
        self.total = len(tasks) + skipped
        self.count = skipped
        self.begun = time.monotonic()
        self.running: dict[Task, tuple[float, EpochMetrics | None]] = {}
        self._work = sum(task.weight for task in tasks)
        self._worked = 0.0
        self._last_line = self.begun

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None: ...

    def started(self, task: Task) -> None:
        """A run begins."""
        self.running[task] = (time.monotonic(), None)

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None:
        """A run has ended an epoch."""
        begun = self.running[task][0]
        self.running[task] = (begun, metrics)
        if time.monotonic() - self._last_line >= EPOCH_LINE_EVERY:
            self.line(
                f"  {task.label}: epoch {metrics.epoch}/{task.config.epochs}, loss {metrics.train_loss:.3f}, "
                f"validation {metrics.validation_accuracy:.1%}, {metrics.images_per_s:,.0f} images/s, "
                f"{_left(_run_left(task, begun, metrics))}"
            )

    def finished(self, task: Task, result: Finished) -> None:
        """A run is in the store."""
        self._over(task)
        self.line(
            f"{self.place()} {task.label}: test {result.test_accuracy:.1%}, validation "
            f"{result.validation_accuracy:.1%}, {duration(result.seconds)}; {_left(self.study_left())}"
        )

    def failed(self, task: Task, reason: str) -> None:
        """A run has failed."""
        self._over(task)
        self.line(f"{self.place()} {task.label}: FAILED: {reason}")

    def retrying(self, task: Task, reason: str) -> None:
        """A run was cut short by no fault of its own, and is tried once more."""
        self.running.pop(task, None)
        self.line(f"{task.label}: {reason}; once more")

    def finished_elsewhere(self, task: Task, result: Finished) -> None:
        """Another process has finished a run."""
        self._over(task)
        self.line(f"{self.place()} {task.label}: test {result.test_accuracy:.1%}, finished by another process")

    def waiting(self, runs: int) -> None:
        """Only runs that other processes are at are left."""
        self.line(f"waiting for {runs} run{'s' * (runs != 1)} that other processes are at; Ctrl-C leaves them to those")

    def note(self, task: Task, line: str) -> None:
        """Something about a run that goes on."""
        self.line(f"{task.label}: {line}")

    def line(self, text: str) -> None:
        """One line of text, as it is."""
        self._last_line = time.monotonic()
        say(self.console, text)

    def place(self) -> str:
        """[ 7/48]"""
        return f"[{self.count:>{len(str(self.total))}}/{self.total}]"

    def study_left(self) -> float | None:
        """Seconds until all runs are over; None before the first epoch is."""
        worked = self.worked()
        return (time.monotonic() - self.begun) * (self._work / worked - 1) if worked > 0 else None

    def worked(self) -> float:
        """The weight of what is done, parts of runs included."""
        return self._worked + sum(
            task.weight * metrics.epoch / task.config.epochs
            for task, (_, metrics) in list(self.running.items())
            if metrics is not None
        )

    def _over(self, task: Task) -> None:
        self.running.pop(task, None)
        self._worked += task.weight
        self.count += 1


class LiveProgress(Progress):
    """A table of the runs at work that redraws itself, below the lines of those that are over."""

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
        """One line above the table."""
        say(self.console, text, style="red" if "FAILED" in text else "")

    def table(self) -> "RenderableType":
        """The runs at work, and how far the study is."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
        table.add_column("run", no_wrap=True, overflow="ellipsis")
        for name in ("epoch", "loss", "accuracy", "images/s", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for task, (begun, metrics) in list(self.running.items()):
            if metrics is None:
                add_row(table, task.label, f"0/{task.config.epochs}", "", "", "", "")
                continue
            add_row(
                table,
                task.label,
                f"{metrics.epoch}/{task.config.epochs}",
                f"{metrics.train_loss:.3f}",
                f"{metrics.validation_accuracy:.1%}",
                f"{metrics.images_per_s:,.0f}",
                duration(_run_left(task, begun, metrics)),
            )
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"{self.count} of {self.total} runs",
            ProgressBar(total=self._work or 1, completed=self.worked(), width=30),
            f"{duration(time.monotonic() - self.begun)} so far, {_left(self.study_left())}",
        )
        return Group(table, bar)


def _run_left(task: Task, begun: float, metrics: "EpochMetrics") -> float:
    """Seconds until a run is over."""
    return max(0.0, (time.monotonic() - begun) * (task.config.epochs / metrics.epoch - 1))


def _left(seconds: float | None) -> str:
    return "time left unknown" if seconds is None else f"{duration(seconds)} left"
