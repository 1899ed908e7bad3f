"""Who is at a run: any number of processes, on any number of machines, share a folder of runs by files alone.

::

    runs/<run>/attempt-0001.json    created by one process that thereby has the run, and written by no other

A process takes a run by creating the file of the next attempt, which only one can; the highest number has the run.
It touches the file every few seconds. Another may take the run over, as the next attempt, when the last one

- has said that it is over, or
- was made by a process of this machine that no longer exists, or
- has not been touched for `EXPIRY` seconds by the clock of the one that watches: clocks are never compared, so that
  one set back or wrong does no harm.

A process that was only asleep finds a higher number when it wakes, and leaves the run alone.
"""

import contextlib
import os
import platform
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ablations.files import or_say, read_json, to_json, write_file

BEAT = 5.0
"""Seconds between two signs of life."""
EXPIRY = 120.0
"""Seconds without one after which a run is taken over. Network file systems may show a file a minute late."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run; who holds it is the only writer of its file."""

    folder: Path
    number: int

    @property
    def path(self) -> Path:
        return self.folder / f"attempt-{self.number:04}.json"

    def held(self) -> bool:
        """Whether the run is still this attempt's: no other has taken it over."""
        return last_attempt(self.folder) == self.number

    def note(self, **facts: Any) -> None:
        """Add to what the file says; a disk that does not take it costs only the news."""
        content = read_json(self.path)
        with contextlib.suppress(OSError):
            if isinstance(content, dict):
                write_file(self.path, to_json(content | facts))

    def release(self) -> None:
        """Say that this attempt is over, whatever became of the run."""
        if self.held():
            self.note(over=True)

    def beating(self, every: float = BEAT) -> "Beat":
        """Signs of life from a thread of its own for as long as the context lasts."""
        return Beat(self, every)


class Beat(threading.Thread):
    """Touches the file of an attempt every few seconds, until it is over or finds that another has the run."""

    def __init__(self, attempt: Attempt, every: float) -> None:
        super().__init__(daemon=True)
        self.attempt, self.every = attempt, every
        self.over = threading.Event()
        self.lost = False

    def __enter__(self) -> "Beat":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(self.every):
            self.lost = self.lost or not self.attempt.held()
            if self.lost:
                return
            with contextlib.suppress(OSError):
                os.utime(self.attempt.path)


class Attempts:
    """Takes runs for processes of this machine, and remembers since when those of others have shown no life."""

    def __init__(self, expiry: float = EXPIRY) -> None:
        self.expiry = expiry
        self._seen: dict[Path, tuple[object, float]] = {}

    def free(self, folder: Path) -> bool:
        """Whether the run in this folder may be taken."""
        return self._follows(folder, last_attempt(folder))

    def _follows(self, folder: Path, number: int) -> bool:
        """Whether another attempt may follow this one."""
        return not number or self._over(Attempt(folder, number).path)

    def take(self, folder: Path, pid: int | None = None) -> Attempt | None:
        """The next attempt at the run, for this process or a child of it; None when another has it.

        Raises StorageError when the folder cannot be written.
        """
        with or_say(f"{folder} could not be written"):
            folder.mkdir(parents=True, exist_ok=True)
            last = last_attempt(folder)  # looked up once: what is created must follow the very one that is over
            if not self._follows(folder, last):
                return None
            attempt = Attempt(folder, last + 1)
            if not _create(attempt.path, to_json(_owner(attempt.number, pid or os.getpid()))):
                return None
        if not attempt.held():  # numbers passed this one by while it was being made
            attempt.path.unlink(missing_ok=True)
            return None
        for number in range(attempt.number - 1, 0, -1):
            earlier = Attempt(folder, number).path
            if not earlier.exists():
                break
            with contextlib.suppress(OSError):
                earlier.unlink()
        return attempt

    def _over(self, path: Path) -> bool:
        content = read_json(path)
        if isinstance(content, dict) and (content.get("over") is True or is_dead(content)):
            return True
        try:
            stat = path.stat()
        except OSError:
            return False  # its place was taken this moment
        sign = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        now = time.monotonic()
        seen, since = self._seen.get(path, (None, now))
        if seen != sign:
            self._seen[path] = (sign, now)
            return False
        return now - since >= self.expiry


def last_attempt(folder: Path) -> int:
    """The number of the last attempt at the run in this folder; 0 when there was none."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return 0
    numbers = [name[8:-5] for name in names if name.startswith("attempt-") and name.endswith(".json")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def at_work(folder: Path) -> dict[str, Any] | None:
    """What the last attempt at a run says of itself while it is not over, as far as can be told at a glance."""
    number = last_attempt(folder)
    content = read_json(Attempt(folder, number).path) if number else None
    if not isinstance(content, dict) or content.get("over") is True or is_dead(content):
        return None
    return content


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner of an attempt is a process of this machine that no longer exists."""
    here = machine()
    if here is None or owner.get("machine") != here or not isinstance(owner.get("pid"), int):
        return False
    return born(owner["pid"]) != owner.get("born")


@cache
def machine() -> str | None:
    """Where process numbers mean the same as here: this boot of this kernel and this container; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return None


def born(pid: int) -> str | None:
    """When a process of this machine began, in ticks since the boot; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def process(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from all others, as `is_dead` reads it."""
    return {"host": platform.node(), "pid": pid, "born": born(pid), "machine": machine()}


def _owner(number: int, pid: int) -> dict[str, Any]:
    return {"attempt": number} | process(pid) | {"begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "over": False}


def _create(path: Path, content: bytes) -> bool:
    """Create a file with its content at once; False when it exists."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: there the file is empty for a moment, which counts as alive
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
