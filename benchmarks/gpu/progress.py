"""What a worker does at the moment, in a file that its supervisor reads, also when the worker hangs."""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

SECONDS = 10.0
"""Seconds without a note after which a worker counts as hanging, unless its last note allows more."""
ON_HOST = 60.0
"""Seconds that work may take in which the GPU has no part, such as the reference of a check on a busy machine."""
_HEAD = struct.Struct("<Qdi")
_BYTES = 4096


@dataclass(frozen=True)
class Doing:
    """Last note: how many there have been, for how many seconds no further one need come, and what is done."""

    count: int = 0
    seconds: float = SECONDS
    what: str = "starting"


class Progress:
    """The file. The worker calls `note`, the supervisor `read`; neither waits for the other."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_BYTES))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _BYTES)
        self._count = 0

    def note(self, what: str, seconds: float = SECONDS) -> None:
        """Say what is done next, and for how long it may take."""
        text = what.encode()[: _BYTES - _HEAD.size]
        self._count += 1
        self._memory[: _HEAD.size + len(text)] = _HEAD.pack(self._count, seconds, len(text)) + text

    def read(self) -> Doing:
        count, seconds, length = _HEAD.unpack_from(self._memory)
        text = self._memory[_HEAD.size : _HEAD.size + length].decode(errors="replace")
        return Doing(count, seconds, text) if count else Doing()
