"""PyTorch in separate processes (peers), compiled in the background, and timed alternately with vitab.

A peer that fails, hangs or runs out of memory affects only its own measurements. Every wait has a timeout.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from benchmarks.gpu.steps import Way
from benchmarks.shapes import GPU_SHAPES

WARM_UP_STEPS = 10
ANSWER_TIMEOUT = 30.0
"""Maximum seconds to wait for an answer."""
EXIT_TIMEOUT = 5.0
"""Maximum seconds to wait for a killed process to release its GPU memory."""


class PeerError(RuntimeError):
    """A peer failed, exited or did not answer."""


class Stepper(Protocol):
    """Model in training. `start` starts a number of steps of `batch` images, and `wait` waits for them."""

    batch: int

    def start(self, steps: int) -> None: ...

    def wait(self) -> None: ...


Make = Callable[[str, str, bool], Stepper]
"""Function that returns a Stepper for a shape, a position, and whether to compile the model. Must be picklable."""


def torch_stepper(shape: str, position: str, compiled: bool) -> Stepper:
    if compiled:  # several models are compiled at the same time
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    from benchmarks.torch_gpu import TorchGpuStepper

    return TorchGpuStepper(GPU_SHAPES[shape], position, compiled=compiled)


class Peer:
    """Process that trains one model at a time."""

    def __init__(self, make: Make = torch_stepper, *, compiled: bool = False) -> None:
        self.name = "torch compiled" if compiled else "torch eager"
        context = multiprocessing.get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_peer_main, args=(remote, make, compiled))
        self._process.start()
        remote.close()
        self.pending = 0
        """Number of answers that have not been received."""

    def make(self, shape: str, position: str) -> None:
        """Start to create and warm up a model. The answer is the number of images per step."""
        self._send("make", shape, position)

    @property
    def answered(self) -> bool:
        """Whether `answer` would return or raise without waiting."""
        return self._connection.poll(0)

    def answer(self, seconds: float = ANSWER_TIMEOUT) -> Any:
        """Return the answer to the last request. Raise PeerError if it fails or takes longer than `seconds`."""
        end, done, value = time.monotonic() + seconds, True, None
        try:
            while self.pending:
                if not self._connection.poll(max(0.0, end - time.monotonic())):
                    raise PeerError(f"{self.name} did not answer within {seconds:.0f} s")
                done, value = self._connection.recv()
                self.pending -= 1
        except (EOFError, OSError):
            raise PeerError(f"the process of {self.name} exited") from None
        if not done:
            raise PeerError(f"{self.name}: {value}")
        return value

    def way(self, images: int) -> Way:
        """Return the model as a way to be timed alternately with others."""

        def start(steps: int) -> None:
            self._send("steps", steps)

        return Way(self.name, images, start, self.answer)

    def close(self) -> None:
        """Kill the process and its children."""
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid or 0, signal.SIGKILL)  # the process group that `os.setsid` created
            self._process.kill()
        self._process.join(EXIT_TIMEOUT)
        self._connection.close()

    def _send(self, *command: object) -> None:
        try:
            self._connection.send(command)
            self.pending += 1
        except OSError:
            raise PeerError(f"the process of {self.name} exited") from None


def _peer_main(connection: Connection, make: Make, compiled: bool) -> None:
    """Execute requests until the connection is closed."""
    os.setsid()
    stepper: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            kind, *arguments = connection.recv()
            try:
                if kind == "make":
                    stepper = None  # free its memory
                    stepper = make(*arguments, compiled)
                    stepper.start(WARM_UP_STEPS)
                    stepper.wait()
                    answer: Any = stepper.batch
                else:
                    answer = stepper.start(*arguments)
                    stepper.wait()
            except Exception as error:
                lines = f"{type(error).__name__}: {error}".splitlines()
                connection.send((False, lines[0][:200]))
            else:
                connection.send((True, answer))


class Compilations:
    """Peers that each compile one model, several at a time, in the given order. Call `look` at intervals."""

    def __init__(self, wanted: Sequence[tuple[str, str]], make: Make = torch_stepper, at_once: int = 3) -> None:
        self._waiting, self._make, self._at_once = [*wanted], make, at_once
        self._running: dict[tuple[str, str], Peer] = {}
        self.ready: dict[tuple[str, str], tuple[Peer, int]] = {}
        """Peers and their images per step, by shape and position."""
        self.failed: dict[tuple[str, str], str] = {}

    def look(self) -> None:
        """Collect finished peers, and start others for the remaining models."""
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
        """Kill the peers that have not finished."""
        for what, peer in self._running.items():
            peer.close()
            self.failed[what] = "torch compile took too long"
        self.failed |= dict.fromkeys(self._waiting, "no time for torch compile")
        self._running, self._waiting = {}, []

    def close(self) -> None:
        """Kill all peers."""
        self.stop()
        for peer, _ in self.ready.values():
            peer.close()
        self.ready = {}
