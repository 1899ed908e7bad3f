"""Heartbeats from long-running work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_told: ContextVar[Callable[[], object]] = ContextVar("told", default=lambda: None)


@contextmanager
def heartbeat_listener(listener: Callable[[], object]) -> Iterator[None]:
    """Call the listener at every heartbeat in this context of this thread."""
    token = _told.set(listener)
    try:
        yield
    finally:
        _told.reset(token)


def alive() -> None:
    """Send a heartbeat."""
    _told.get()()
