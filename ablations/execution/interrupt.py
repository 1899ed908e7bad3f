"""Handling of Ctrl-C and SIGTERM: the first stops in order, the second quits at once."""

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Context in which the first signal makes the object return True and a second one raises KeyboardInterrupt.

    The first prints what is done before the end. Only the main thread receives signals: elsewhere nothing is changed.
    """

    def __init__(self, last_work: str = "saving checkpoints") -> None:
        self.requested = False
        self.last_work = last_work
        self._previous: list[Any] = []

    def __call__(self) -> bool:
        return self.requested

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = [signal.signal(number, self._handle) for number in SIGNALS]
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in zip(SIGNALS, self._previous, strict=False):
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # os.write, because the signal may interrupt a print
        os.write(2, f"interrupted: {self.last_work}; press Ctrl-C again to quit now\n".encode())
