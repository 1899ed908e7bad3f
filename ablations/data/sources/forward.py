"""Numbered pictures out of a stream that can only be read forward."""

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

from ablations.data.sources.source import Content


class Forward:
    """Gives pictures by number; a number below the last one starts the stream anew.

    Args:
        start: ``start(i)`` returns a number of at most i and the pictures from that one on.
        reason: What an exception of the stream means, as the exception to raise for a picture. A stream is not read
            beyond the place where it failed.
    """

    def __init__(
        self, start: Callable[[int], tuple[int, Iterator[Content]]], reason: Callable[[Exception], Exception]
    ) -> None:
        self._start, self._reason = start, reason
        self._lock = Lock()
        self._stream: Iterator[Content] = iter(())
        self._last, self._content = -1, None
        self._next: float = float("inf")
        self._broken: tuple[float, Any] = float("inf"), None

    def __call__(self, number: int) -> Content:
        """Return a picture. Raises what `reason` makes of an exception of the stream."""
        with self._lock:
            place, error = self._broken
            if number >= place:
                raise error
            if number < self._next:
                self._next, self._stream = self._start(number)
            content: Content = b""
            while self._next <= number:
                try:
                    content = next(self._stream)
                except Exception as problem:
                    self._broken = self._next, self._reason(problem)
                    self._next = float("inf")
                    raise self._broken[1] from problem
                self._next += 1
            return content
