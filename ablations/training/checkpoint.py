"""Checkpoints of unfinished runs: everything that the next step depends on, in one file with a checksum.

::

    resume.bin      64 hex digits (SHA-256 of the rest), a newline, a safetensors file whose metadata is JSON

Random streams are addressed by counters (`vit.random`), so no state of a generator is needed. A checkpoint of another
run, other code or another backend, or with a wrong checksum, is ignored: the run starts from its seed.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.storage import write_file

INTERVAL = 60.0
"""Maximum number of seconds of work that a killed process loses."""
EARLY = 0.9
"""Share of the interval between two checkpoints; the rest is for writing one."""


@dataclass(frozen=True)
class TrainingState:
    """State of a run between two steps: plain values for JSON and arrays, by name."""

    progress: dict[str, Any]
    arrays: dict[str, np.ndarray]


def to_bytes(snapshot: TrainingState, identity: dict[str, str]) -> bytes:
    """Return the content of a checkpoint file; `identity` identifies the run and its code."""
    from safetensors.numpy import save

    metadata = {"vitab": json.dumps({"identity": identity, "notes": snapshot.progress})}
    body = save({name: np.ascontiguousarray(value) for name, value in snapshot.arrays.items()}, metadata)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def from_bytes(content: bytes, identity: dict[str, str]) -> TrainingState | None:
    """Return the checkpoint in a file; None if it is damaged or has another identity."""
    from safetensors.numpy import load

    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        written = json.loads(header["__metadata__"]["vitab"])
        return TrainingState(written["notes"], load(body)) if written["identity"] == identity else None
    except (ValueError, KeyError, TypeError):  # whole, and of another version
        return None


class Checkpointer:
    """Saves checkpoints of one run to `path`: at most `interval` seconds of work are lost; also when `stop` is true.

    A failed write is reported through `log` and does not fail the run. Nothing is written once `holds_lease` returns
    False. `heartbeat` is called where the run cannot stop; `place` describes where it is trained, as in
    environment.json.
    """

    def __init__(
        self,
        path: Path | None = None,
        identity: dict[str, str] | None = None,
        *,
        interval: float = INTERVAL,
        stop: Callable[[], bool] = lambda: False,
        heartbeat: Callable[[], object] = lambda: None,
        holds_lease: Callable[[], bool] = lambda: True,
        log: Callable[[str], None] = lambda line: None,
        place: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.identity, self.interval, self.stop = path, identity or {}, interval, stop
        self.heartbeat, self.holds_lease, self.log, self.place = heartbeat, holds_lease, log, place or {}
        self._kept = self._asked = time.monotonic()
        self._refused = False

    def load(self) -> TrainingState | None:
        """Return the checkpoint of an earlier attempt, None if there is no valid one."""
        if self.path is None:
            return None
        try:
            return from_bytes(self.path.read_bytes(), self.identity)
        except OSError:
            return None

    def is_due(self, steps: float = 1.0) -> bool:
        """Return whether to save a checkpoint now. Called after every step; `steps` is the work until the next call."""
        now = time.monotonic()
        step, self._asked = now - self._asked, now
        return self.stop() or now - self._kept + steps * step >= EARLY * self.interval

    def save(self, snapshot: TrainingState) -> None:
        """Write a checkpoint, then raise KeyboardInterrupt if the run was asked to stop."""
        self._kept = self._asked  # the checkpoint holds the state of that moment
        stopping = self.stop()
        if self.path is not None and self.holds_lease():
            try:
                write_file(self.path, to_bytes(snapshot, self.identity))
                self._refused = False
            except OSError as error:
                if stopping or not self._refused:
                    self.log(f"cannot write checkpoint: {error.strerror or error}")
                self._refused = True
        self._asked = time.monotonic()
        if stopping or self.stop():
            raise KeyboardInterrupt
