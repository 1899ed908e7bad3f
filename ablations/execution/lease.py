"""Who is at a run: any number of processes, on any number of machines, share a folder of runs by files alone.

::

    runs/<run>/attempt-0001.json    created by one process that thereby has the run, and written by no other

A process takes a run by creating the file of the next attempt, which only one can; the highest number has the run.
It touches the file every few seconds for as long as the run gets on. Another may take the run over, as the next
attempt, when the last one

- has said that it is over, or
- was made by a process of this machine that no longer exists, or
- has not been touched for `LEASE_TIMEOUT` seconds by the clock of the one that watches: clocks are never compared, so that
  one set back or wrong does no harm.

A process that was only asleep finds a higher number when it wakes, and leaves the run alone. A file that is not what
was written says nothing: its attempt counts as alive until it expires.
"""

import contextlib
import errno
import hashlib
import os
import platform
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ablations.machine import exists
from ablations.storage import read_json, storage_errors, sync_folder, to_json, write_file

HEARTBEAT_INTERVAL = 5.0
"""Seconds between two signs of life."""
LEASE_TIMEOUT = 120.0
"""Seconds without one after which a run is taken over. Network file systems may show a file a minute late."""
PATIENCE = 600.0
"""Seconds without a step after which a run counts as hung. A test on many images is one such silence."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""How a file system says that it makes no links."""


@dataclass(frozen=True)
class Lease:
    """One attempt at a run; who holds it is the only writer of its file."""

    folder: Path
    number: int
    expired: int = 0
    """Leases in a row before this one that fell silent before they had come to the end of an epoch."""

    @property
    def path(self) -> Path:
        return self.folder / f"attempt-{self.number:04}.json"

    def held(self) -> bool:
        """Whether the run is still this attempt's: no other has taken it over. To be asked by its owner only."""
        try:
            os.utime(self.path)  # a file server is asked anew, whatever this machine remembers of the folder
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
        return last_attempt(self.folder) == self.number

    def note(self, **facts: Any) -> None:
        """Add to what the file says; a disk that does not take it costs only the news."""
        content = read_attempt(self.path) or {"attempt": self.number}
        with contextlib.suppress(OSError):
            if self.path.exists():
                write_file(self.path, _sealed(self.path, content | facts))

    def release(self) -> None:
        """Say that this attempt is over, whatever became of the run."""
        if self.held():
            self.note(over=True)

    def heartbeat(self, every: float = HEARTBEAT_INTERVAL, patience: float = float("inf")) -> "Heartbeat":
        """Signs of life from a thread of its own within the context, while a `sign` is younger than `patience`."""
        return Heartbeat(self, every, patience)


class Heartbeat(threading.Thread):
    """Touches the file of an attempt every few seconds, until it is over or finds that another has the run."""

    def __init__(self, attempt: Lease, every: float, patience: float) -> None:
        super().__init__(daemon=True)
        self.attempt, self.every, self.patience = attempt, every, patience
        self.over = threading.Event()
        self.lost = False
        self.sign()

    def sign(self) -> None:
        """The run gets on: a thread that only lives is no sign of that."""
        self.signed = time.monotonic()

    def __enter__(self) -> "Heartbeat":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(self.every):
            if time.monotonic() - self.signed < self.patience:
                self.lost = not self.attempt.held()  # which touches the file
            else:
                self.lost = last_attempt(self.attempt.folder) != self.attempt.number
            if self.lost:
                return


class LeaseManager:
    """Takes runs for processes of this machine, and remembers since when those of others have shown no life."""

    def __init__(self, expiry: float = LEASE_TIMEOUT) -> None:
        self.expiry = expiry
        self._seen: dict[Path, tuple[object, float]] = {}

    def free(self, folder: Path) -> bool:
        """Whether the run in this folder may be taken."""
        return self._follows(folder, last_attempt(folder))

    def _follows(self, folder: Path, number: int) -> bool:
        """Whether another attempt may follow this one."""
        return not number or self._over(Lease(folder, number).path)

    def take(self, folder: Path, pid: int | None = None) -> Lease | None:
        """The next attempt at the run, for this process or a child of it; None when another has it.

        Raises StorageError when the folder cannot be written.
        """
        with storage_errors(f"{folder} could not be written"):
            folder.mkdir(parents=True, exist_ok=True)
            last = last_attempt(folder)  # looked up once: what is created must follow the very one that is over
            if not self._follows(folder, last):
                return None
            attempt = Lease(folder, last + 1, _expired(Lease(folder, last).path))
            owner = _owner(attempt, pid or os.getpid())
            if not _create(attempt.path, _sealed(attempt.path, owner)):
                return None
            if not last:
                sync_folder(folder.parent)
        if not attempt.held():  # numbers passed this one by while it was being made
            attempt.path.unlink(missing_ok=True)
            return None
        for number in range(attempt.number - 1, 0, -1):
            earlier = Lease(folder, number).path
            if not earlier.exists():
                break
            with contextlib.suppress(OSError):
                earlier.unlink()
        return attempt

    def _over(self, path: Path) -> bool:
        content = read_attempt(path)
        if content is not None and (content.get("over") is True or is_dead(content)):
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


def active_lease(folder: Path) -> dict[str, Any] | None:
    """What the last attempt at a run says of itself while it is not over, as far as can be told at a glance.

    With `silent`, the seconds since its last sign of life, by the clock of whoever asks: for people only.
    """
    number = last_attempt(folder)
    path = Lease(folder, number).path
    content = read_attempt(path) if number else None
    if content is None or content.get("over") is True or is_dead(content):
        return None
    try:
        return content | {"silent": time.time() - path.stat().st_mtime}
    except OSError:
        return None


def read_attempt(path: Path) -> dict[str, Any] | None:
    """What the file of an attempt says; None when it is not what was written, or is of another run."""
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("sha256", None) != _checksum(path, content):
        return None
    return content


def _sealed(path: Path, content: dict[str, Any]) -> bytes:
    return to_json(content | {"sha256": _checksum(path, content)})


def _checksum(path: Path, content: dict[str, Any]) -> str:
    """Of what the file of an attempt says, and of its place."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode() + to_json(content)).hexdigest()


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner of an attempt is a process of this machine that no longer exists."""
    here, pid = machine(), owner.get("pid")
    if here is None or owner.get("machine") != here or not isinstance(pid, int) or pid < 1:
        return False
    if owner.get("process_start_time") is None:
        return True  # it had ended before its attempt was written down
    found = process_start_time(pid)
    return found != owner["process_start_time"] if found is not None else not exists(pid) or _has_ended(pid)


@cache
def machine() -> str | None:
    """Where process numbers mean the same as here: this boot of this kernel and this container; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return None


def process_start_time(pid: int) -> str | None:
    """When a process of this machine began, in ticks since the boot; None when it has ended or is not shown."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def _has_ended(pid: int) -> bool:
    """Whether a number is still taken by a process that has ended, which nobody has asked about yet."""
    fields = _stat(pid)
    return fields is not None and fields[0] in "ZX"


def _stat(pid: int) -> list[str] | None:
    """What /proc says of a process; None when there is none, or users do not see those of others."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def process(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from all others, as `is_dead` reads it."""
    return {"host": platform.node(), "pid": pid, "process_start_time": process_start_time(pid), "machine": machine()}


def _owner(attempt: Lease, pid: int) -> dict[str, Any]:
    begun = {"begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "expired": attempt.expired, "over": False}
    return {"attempt": attempt.number} | process(pid) | begun


def _expired(last: Path) -> int:
    """Leases in a row up to the last one that fell silent before the end of an epoch, and were not seen to die."""
    content = read_attempt(last)
    if content is None or content.get("over") is True or is_dead(content) or "epoch" in content:
        return 0
    return int(content.get("expired", 0)) + 1


def _create(path: Path, content: bytes) -> bool:
    """Create a file with its content at once; False when it exists. Raises OSError, and leaves nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return temporary.stat().st_nlink == 2  # the answer of a file server was lost, and it was asked twice
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create_open(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_open(path: Path, content: bytes) -> bool:
    """The same without links: the file is empty for a moment, which counts as alive."""
    try:
        with path.open("xb") as file:
            try:
                file.write(content)
                file.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        return False
    return True
