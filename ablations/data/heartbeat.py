"""Heartbeats from long-running work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[], object]] = ContextVar("listener", default=lambda: None)


@contextmanager
def heartbeat_listener(listener: Callable[[], object]) -> Iterator[None]:
    """Call the listener at every heartbeat in this context of this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def send_heartbeat() -> None:
    """Send a heartbeat."""
    _listener.get()()
