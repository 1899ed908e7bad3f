"""Ctrl-C and SIGTERM: the first asks to end in order, the second ends at once."""

import os
import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Within this context the first signal makes the object say yes; a second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False
        self._before: list[Any] = []

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> "Interrupt":
        self._before = [signal.signal(number, self._handle) for number in SIGNALS]
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        # not by print: the signal may have come in the middle of one
        os.write(2, b"interrupted: writing down where the runs are; once more to stop now\n")
