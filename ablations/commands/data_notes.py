"""What a command says of its data before it uses them."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.commands.base import echo

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

    from ablations.config import RunConfig
    from ablations.data.reading_progress import Progress

SAID_FROM = 64 << 20
"""Bytes of decoded pictures from which their size and place are said before."""


@contextmanager
def decoding_shown(console: "Console") -> "Iterator[None]":
    """Show the progress of decoding pictures, and say before how much room they take in the cache."""
    from ablations.data.reading_progress import progress_listener

    with DecodingBar(console) as bar, progress_listener(bar.show):
        yield


class DecodingBar:
    """A bar that is on a terminal while pictures are decoded."""

    def __init__(self, console: "Console") -> None:
        self.console = console
        self.bars: Bars | None = None

    def __enter__(self) -> "DecodingBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def show(self, progress: "Progress") -> None:
        """Show how many pictures are decoded."""
        if self.bars is None and progress.done < progress.total:
            self._start(progress)
        if self.bars is not None:
            self.bars.update(self.bars.task_ids[0], completed=progress.done)
        if progress.done == progress.total:
            self._stop()

    def _start(self, progress: "Progress") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        from ablations.commands.display import say
        from ablations.config.safe_text import one_line

        if progress.size >= SAID_FROM:
            place = f"in {progress.folder}" if progress.folder else "in memory, as no cache folder can be written"
            size = f"{progress.size / 1e6:,.0f} MB {place}"
            say(self.console, f"note: decoding {progress.total:,} pictures of {progress.path.name}: {size}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bars = Bars(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.bars.add_task(f"decoding {one_line(progress.path.name)}", total=progress.total)
        self.bars.start()

    def _stop(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


def to_stderr(line: str) -> None:
    echo(line, err=True)


def say_about_data(
    configs: "Iterable[RunConfig]", data_dir: Path | None, say: Callable[[str], object] = to_stderr
) -> None:
    """Print what to know of the datasets of runs: what was skipped, duplicates, class sizes."""
    from ablations.data.loading import datasets_for
    from ablations.data.quality.remarks import remarks

    said = set()
    for config, dataset in datasets_for(configs, data_dir):
        lines = [line for line in remarks(dataset) if line not in said]
        said.update(lines)
        for line in lines:
            say(f"note: {line}")
        if any(line != dataset.grouping for line in lines):
            say(f"note: {check_command(config, data_dir)} says more")


def check_command(config: "RunConfig", data_dir: Path | None) -> str:
    """Return the command that checks the data of a run, read as the run reads them."""
    from ablations.config.run_config import DEFAULTS

    command = ["vitab", "data", "check", config.data]
    command += [] if data_dir is None else ["--data-dir", str(data_dir)]
    for field in ("columns", "group_pattern", "labels"):
        if (value := getattr(config, field)) != DEFAULTS[field]:
            command += [f"--{field.replace('_', '-')}", value]
    for field in ("image_size", "channels", "resize"):
        if (value := getattr(config, field)) != DEFAULTS[field]:
            command += ["--set", f"{field}={value}"]
    return shlex.join(command)
