"""Progress of a study in a notebook: one display, which is updated."""

import time
from collections.abc import Iterable, Sequence
from html import escape
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from ablations.commands.display import duration
from ablations.commands.progress import COLUMNS, Progress
from ablations.config.safe_text import one_line
from ablations.execution.tasks import Finished, Task

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.training.trainer import EpochMetrics

UPDATE_EVERY = 0.5
"""Seconds between two updates of the display; messages are shown at once."""


class NotebookProgress(Progress):
    """Shows how far a study is and a table of the running runs, above messages about runs that failed or diverged."""

    def __init__(self, console: "Console", tasks: Sequence[Task], *, skipped: int = 0) -> None:
        super().__init__(console, tasks, skipped=skipped)
        self.lines: list[str] = []
        self.over = False
        self._last_line = float("inf")  # no lines about epochs
        self._last_update = 0.0
        self._display: Any = None

    def __enter__(self) -> "NotebookProgress":
        from IPython.display import HTML, display

        self._display = display(HTML(self.html()), display_id=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.over = True
        self.update()

    def started(self, task: Task) -> None:
        super().started(task)
        self.update_if_due()

    def epoch(self, task: Task, metrics: "EpochMetrics") -> None:
        super().epoch(task, metrics)
        self.update_if_due()

    def finished(self, task: Task, result: Finished) -> None:
        if result.diverged:
            super().finished(task, result)
        else:
            self._end_run(task)
            self.update_if_due()

    def line(self, text: str) -> None:
        """Show a message below the table."""
        self.lines.append(text)
        self.update()

    def update_if_due(self) -> None:
        """Update the display if the last update was a while ago."""
        if time.monotonic() - self._last_update >= UPDATE_EVERY:
            self.update()

    def update(self) -> None:
        """Update the display."""
        from IPython.display import HTML

        self._last_update = time.monotonic()
        self._display.update(HTML(self.html()))

    def html(self) -> str:
        """Return what the display shows; after the end without the bar and the table."""
        messages = "".join(f"<div>{escape(one_line(line))}</div>" for line in self.lines)
        if self.over:
            return f"<div>{self.so_far()} in {duration(time.monotonic() - self.begun)}</div>{messages}"
        bar = f'<progress value="{self.share():.3f}" max="1"></progress>'
        rows = "".join(f"<tr>{_cells('td', row)}</tr>" for row in self.rows())
        table = f"<table><tr>{_cells('th', COLUMNS)}</tr>{rows}</table>"
        return f"<div>{self.so_far()} {bar} {self.timing()}</div>{table}{messages}"


def _cells(tag: str, texts: Iterable[str]) -> str:
    """Return texts as cells, the first aligned left and the others right."""
    sides = chain(("left",), repeat("right"))
    return "".join(
        f'<{tag} style="text-align:{side}">{escape(one_line(text))}</{tag}>'
        for side, text in zip(sides, texts, strict=False)
    )
