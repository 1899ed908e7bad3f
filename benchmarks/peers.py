"""PyTorch in processes of its own: compiled beside other work, timed in turn with vitab, or many of them at once.

A peer that fails, hangs or takes all the memory costs its own figures and nothing else: nobody waits for one without
end.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from benchmarks.gpu_speed import Way
from benchmarks.shapes import GPU_SHAPES

WARM_UP_STEPS = 10
PATIENCE = 30.0
"""Seconds for an answer that comes within few."""


ENDING = 5.0
"""Seconds that a killed process may take to give its GPU memory back."""


class PeerError(RuntimeError):
    """A peer that failed, ended or did not answer."""


class Stepper(Protocol):
    """A model that is trained: `start` starts so many steps of `batch` images, `wait` waits for them."""

    batch: int

    def start(self, steps: int) -> None: ...

    def wait(self) -> None: ...


Make = Callable[[str, str, bool], Stepper]
"""Makes one of a shape and a position, compiled or not. Has a name in its module, as other processes call it."""


def torch_stepper(shape: str, position: str, compiled: bool) -> Stepper:
    if compiled:  # some are compiled at once
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    from benchmarks.torch_gpu import TorchGpuStepper

    return TorchGpuStepper(GPU_SHAPES[shape], position, compiled=compiled)


class Peer:
    """A process that trains one model at a time."""

    def __init__(self, make: Make = torch_stepper, *, compiled: bool = False) -> None:
        self.name = "torch compile" if compiled else "torch eager"
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, compiled))
        self._process.start()
        theirs.close()
        self.owed = 0
        """Answers that were not heard yet."""

    def make(self, shape: str, position: str) -> None:
        """Begins to make a model, and to warm it up. The answer is the images of a step."""
        self._tell("make", shape, position)

    def time(self, seconds: float) -> None:
        """Begins to train for so long. The answer is images a second."""
        self._tell("time", seconds)

    @property
    def answered(self) -> bool:
        """Whether `answer` would return, or fail, at once."""
        return self._connection.poll(0)

    def answer(self, seconds: float = PATIENCE) -> Any:
        """Of what was begun last. Raises PeerError where that failed or takes longer than so many seconds."""
        end, done, value = time.monotonic() + seconds, True, None
        try:
            while self.owed:
                if not self._connection.poll(max(0.0, end - time.monotonic())):
                    raise PeerError(f"{self.name} did not answer within {seconds:.0f} s")
                done, value = self._connection.recv()
                self.owed -= 1
        except (EOFError, OSError):
            raise PeerError(f"the process of {self.name} ended") from None
        if not done:
            raise PeerError(f"{self.name}: {value}")
        return value

    def way(self, images: int) -> Way:
        """Its model, in turn with others in this process."""

        def start(steps: int) -> None:
            self._tell("steps", steps)

        return Way(self.name, images, start, self.answer)

    def close(self) -> None:
        """Ends it, and all that it has started, at once."""
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid or 0, signal.SIGKILL)  # a session of its own, once it runs
            self._process.kill()
        self._process.join(ENDING)
        self._connection.close()

    def _tell(self, *command: object) -> None:
        try:
            self._connection.send(command)
            self.owed += 1
        except OSError:
            raise PeerError(f"the process of {self.name} ended") from None


def _serve(connection: Connection, make: Make, compiled: bool) -> None:
    """Does what it is told until nobody is there to tell it."""
    os.setsid()
    stepper: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            kind, *arguments = connection.recv()
            try:
                if kind == "make":
                    stepper = None  # its memory goes first
                    stepper = make(*arguments, compiled)
                    stepper.start(WARM_UP_STEPS)
                    stepper.wait()
                    answer: Any = stepper.batch
                elif kind == "steps":
                    answer = stepper.start(*arguments)
                    stepper.wait()
                else:
                    answer = _train(stepper, *arguments)
            except Exception as error:
                lines = f"{type(error).__name__}: {error}".splitlines()
                connection.send((False, lines[0][:200]))
            else:
                connection.send((True, answer))


def _train(stepper: Stepper, seconds: float) -> float:
    begun, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds:
        stepper.start(5)
        stepper.wait()
        images += 5 * stepper.batch
    return images / passed


class Compilations:
    """Peers that compile a model each, some at a time, in the order wanted; `look` has to be called now and then."""

    def __init__(self, wanted: Sequence[tuple[str, str]], make: Make = torch_stepper, at_once: int = 3) -> None:
        self._waiting, self._make, self._at_once = [*wanted], make, at_once
        self._running: dict[tuple[str, str], Peer] = {}
        self.ready: dict[tuple[str, str], tuple[Peer, int]] = {}
        """Peers by shape and position, each with the images of its step."""
        self.failed: dict[tuple[str, str], str] = {}

    def look(self) -> None:
        """Takes note of those that are done, and starts others in their place."""
        for what, peer in [*self._running.items()]:
            if peer.answered:
                del self._running[what]
                try:
                    self.ready[what] = peer, peer.answer(0)
                except PeerError as error:
                    self.failed[what] = str(error)
                    peer.close()
        while self._waiting and len(self._running) < self._at_once:
            what = self._waiting.pop(0)
            self._running[what] = peer = Peer(self._make, compiled=True)
            peer.make(*what)

    @property
    def over(self) -> bool:
        return not (self._running or self._waiting)

    def stop(self) -> None:
        """Ends those that are not done."""
        for what, peer in self._running.items():
            peer.close()
            self.failed[what] = "torch compile took too long"
        self.failed |= dict.fromkeys(self._waiting, "no time for torch compile")
        self._running, self._waiting = {}, []

    def close(self) -> None:
        """Ends all of them."""
        self.stop()
        for peer, _ in self.ready.values():
            peer.close()
        self.ready = {}


class Crowd:
    """Many peers at once, each with a model of its own."""

    def __init__(self, most: int, make: Make = torch_stepper) -> None:
        self._peers = [Peer(make) for _ in range(most)]

    def make(self, shape: str, position: str, within: float) -> None:
        """Gives each a model, all at once. Raises PeerError."""
        for peer in self._peers:
            peer.make(shape, position)
        end = time.monotonic() + within
        for peer in self._peers:
            peer.answer(end - time.monotonic())

    def images_per_s(self, count: int, seconds: float) -> float:
        """Of the first `count` of them together, training for so long. Raises PeerError."""
        for peer in self._peers[:count]:
            peer.time(seconds)
        end = time.monotonic() + seconds + PATIENCE
        return float(sum(peer.answer(end - time.monotonic()) for peer in self._peers[:count]))

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
