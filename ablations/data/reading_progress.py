"""The progress of reading many pictures, for those who show it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How many pictures of a source have been decoded."""

    path: Path
    """The source."""
    done: int
    total: int
    size: int
    """Bytes of all of them."""
    folder: Path | None
    """Where they are kept, None if in memory."""


Listener = Callable[[Progress], object]
_listener: ContextVar[Listener] = ContextVar("listener", default=lambda progress: None)


@contextmanager
def progress_listener(listener: Listener) -> Iterator[None]:
    """Call the listener with the progress of reading in this context of this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report_progress(path: Path, done: int, total: int, size: int, folder: Path | None) -> None:
    """Tell the listener."""
    _listener.get()(Progress(path, done, total, size, folder))
