"""A run in the middle: all that its next step depends on, in one file that is trusted only when it is whole.

::

    resume.bin      64 hex digits (SHA-256 of the rest), a newline, a safetensors file whose metadata is JSON

Random streams are addressed by counters (`vit.random`), so no generator's state is needed. A snapshot of another run,
of other code, of another backend or with a bit flipped is as good as none: the run starts from its seed.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.files import write_file

INTERVAL = 60.0
"""Seconds between two snapshots of a run, and so the most work that a killed process loses."""


@dataclass(frozen=True)
class Snapshot:
    """Plain values for JSON, and arrays, by name."""

    notes: dict[str, Any]
    arrays: dict[str, np.ndarray]


def to_bytes(snapshot: Snapshot, identity: dict[str, str]) -> bytes:
    """The file of a snapshot of the run that `identity` tells apart from all others."""
    from safetensors.numpy import save

    metadata = {"vitab": json.dumps({"identity": identity, "notes": snapshot.notes})}
    body = save({name: np.ascontiguousarray(value) for name, value in snapshot.arrays.items()}, metadata)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def from_bytes(content: bytes, identity: dict[str, str]) -> Snapshot | None:
    """The snapshot in a file; None when it is damaged or of something else."""
    from safetensors.numpy import load

    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    written = json.loads(header["__metadata__"]["vitab"])
    return Snapshot(written["notes"], load(body)) if written["identity"] == identity else None


class Keeper:
    """Keeps the snapshot of one run in `path`, one each `interval` seconds, and one when `stop` asks the run to end.

    A disk that does not take a snapshot costs the resume and not the run.
    """

    def __init__(
        self,
        path: Path | None = None,
        identity: dict[str, str] | None = None,
        *,
        interval: float = INTERVAL,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path, self.identity, self.interval, self.stop = path, identity or {}, interval, stop
        self._last = time.monotonic()

    def load(self) -> Snapshot | None:
        """What an earlier attempt at this run has left; None when there is nothing to be trusted."""
        if self.path is None:
            return None
        try:
            return from_bytes(self.path.read_bytes(), self.identity)
        except OSError:
            return None

    def due(self) -> bool:
        """Whether it is time for a snapshot; asked after every step."""
        return self.stop() or time.monotonic() - self._last >= self.interval

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot. Raises KeyboardInterrupt, after that, when the run was asked to end."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                write_file(self.path, to_bytes(snapshot, self.identity))
        self._last = time.monotonic()
        if self.stop():
            raise KeyboardInterrupt
