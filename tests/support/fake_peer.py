"""What stands for PyTorch's models in other processes: makers, by what becomes of them."""

import os
import time

BATCH = 8


class Stepper:
    batch = BATCH

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0

    def start(self, steps: int) -> None:
        self.steps += steps

    def wait(self) -> None:
        time.sleep(self.seconds * self.steps)
        self.steps = 0


def quick(shape: str, position: str, compiled: bool) -> Stepper:
    """A step takes 2 ms, or 1 where it is compiled."""
    return Stepper(1e-3 if compiled else 2e-3)


def failing(shape: str, position: str, compiled: bool) -> Stepper:
    if compiled or position == "learned":
        raise RuntimeError("out of memory\nwith a second line")
    return quick(shape, position, compiled)


def hanging(shape: str, position: str, compiled: bool) -> Stepper:
    if compiled:
        time.sleep(600)
    return quick(shape, position, compiled)


def dying(shape: str, position: str, compiled: bool) -> Stepper:
    os._exit(3)
