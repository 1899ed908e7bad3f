"""Leases: claims on runs, by which processes on any number of machines share a folder of runs through files alone.

::

    runs/<run>/attempt-0001.json    created and written by the one process that holds this lease

A process claims a run by creating the file of the next lease. Only one process can create it, and the highest number
holds the run. The holder touches the file every few seconds as long as the run makes progress. Another process may
claim the run, with the next number, when the last lease

- has been released, or
- belongs to a process of this machine that no longer exists, or
- has not been touched for `LEASE_TIMEOUT` seconds, measured by the clock of the process that observes it. Clocks of
  different machines are never compared, so a wrong or adjusted clock does no harm.

A process that was suspended finds a higher number when it continues, and stops working on the run. The lease in a file
with a wrong checksum counts as active until it expires.
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
"""Seconds between two heartbeats."""
LEASE_TIMEOUT = 120.0
"""Seconds without a heartbeat after which a lease expires. Network file systems may show a file a minute late."""
HANG_TIMEOUT = 600.0
"""Seconds without progress after which a run counts as hung. Evaluating many images can take long."""
LINKS_UNSUPPORTED = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors by which a file system reports that it has no hard links."""


@dataclass(frozen=True)
class Lease:
    """Claim on a run. Its holder is the only writer of its file."""

    folder: Path
    number: int
    expired: int = 0
    """Number of consecutive leases directly before this one that expired before the end of an epoch."""

    @property
    def path(self) -> Path:
        """The file of the lease."""
        return self.folder / f"attempt-{self.number:04}.json"

    def held(self) -> bool:
        """Touch the file and return whether no other process has taken the run over. For the holder only."""
        try:
            os.utime(self.path)  # also makes a file server look again, instead of a cache of this machine
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
        return last_attempt(self.folder) == self.number

    def update(self, **facts: Any) -> None:
        """Add values to the file. A failing disk loses only these values."""
        content = read_lease(self.path) or {"attempt": self.number}
        with contextlib.suppress(OSError):
            if self.path.exists():
                write_file(self.path, _with_checksum(self.path, content | facts))

    def release(self) -> None:
        """Give the run up, whether it is finished or not."""
        if self.held():
            self.update(over=True)

    def heartbeat(self, interval: float = HEARTBEAT_INTERVAL, hang_timeout: float = float("inf")) -> "Heartbeat":
        """Return a context with a thread that sends heartbeats as long as the run makes progress."""
        return Heartbeat(self, interval, hang_timeout)


class Heartbeat(threading.Thread):
    """Thread that touches the file of a lease at intervals, until the context ends or the lease is lost.

    It stops touching the file after `hang_timeout` seconds without a call of `record_progress`.
    """

    def __init__(self, lease: Lease, interval: float, hang_timeout: float) -> None:
        super().__init__(daemon=True)
        self.lease, self.interval, self.hang_timeout = lease, interval, hang_timeout
        self.ended = threading.Event()
        self.lost = False
        self.record_progress()

    def record_progress(self) -> None:
        """Record that the run makes progress."""
        self.last_progress = time.monotonic()

    def __enter__(self) -> "Heartbeat":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        while not self.ended.wait(self.interval):
            if time.monotonic() - self.last_progress < self.hang_timeout:
                self.lost = not self.lease.held()  # `held` touches the file
            else:
                self.lost = last_attempt(self.lease.folder) != self.lease.number
            if self.lost:
                return


class LeaseManager:
    """Acquires leases for processes of this machine, and records when the leases of others last changed."""

    def __init__(self, timeout: float = LEASE_TIMEOUT) -> None:
        self.timeout = timeout
        self._last_change: dict[Path, tuple[object, float]] = {}

    def is_free(self, folder: Path) -> bool:
        """Return whether the run in this folder may be claimed."""
        return self._may_follow(folder, last_attempt(folder))

    def _may_follow(self, folder: Path, number: int) -> bool:
        """Return whether another lease may follow this one."""
        return not number or self._has_ended(Lease(folder, number).path)

    def acquire(self, folder: Path, pid: int | None = None) -> Lease | None:
        """Acquire the next lease of the run for this process or a child; None when another process holds the run.

        Raises StorageError when the folder cannot be written.
        """
        with storage_errors(f"cannot write {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            last = last_attempt(folder)  # read once: the new lease must follow the very lease that has ended
            if not self._may_follow(folder, last):
                return None
            lease = Lease(folder, last + 1, _count_expired(Lease(folder, last).path))
            content = _new_content(lease, pid or os.getpid())
            if not _create(lease.path, _with_checksum(lease.path, content)):
                return None
            if not last:
                sync_folder(folder.parent)
        if not lease.held():  # higher numbers were created meanwhile
            lease.path.unlink(missing_ok=True)
            return None
        for number in range(lease.number - 1, 0, -1):
            earlier = Lease(folder, number).path
            if not earlier.exists():
                break
            with contextlib.suppress(OSError):
                earlier.unlink()
        return lease

    def _has_ended(self, path: Path) -> bool:
        content = read_lease(path)
        if content is not None and (content.get("over") is True or is_dead(content)):
            return True
        try:
            stat = path.stat()
        except OSError:
            return False  # another process has just taken the run over
        state = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        now = time.monotonic()
        last_state, since = self._last_change.get(path, (None, now))
        if last_state != state:
            self._last_change[path] = (state, now)
            return False
        return now - since >= self.timeout


def last_attempt(folder: Path) -> int:
    """Return the number of the last lease of the run in this folder; 0 when there is none."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return 0
    numbers = [name[8:-5] for name in names if name.startswith("attempt-") and name.endswith(".json")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def active_lease(folder: Path) -> dict[str, Any] | None:
    """Return the content of a run's last lease if it seems active, without waiting for it to expire.

    `silent` is added, the seconds since its last heartbeat by the clock of this machine: for display only.
    """
    number = last_attempt(folder)
    path = Lease(folder, number).path
    content = read_lease(path) if number else None
    if content is None or content.get("over") is True or is_dead(content):
        return None
    try:
        return content | {"silent": time.time() - path.stat().st_mtime}
    except OSError:
        return None


def read_lease(path: Path) -> dict[str, Any] | None:
    """Return the content of a lease file; None when its checksum is wrong or it belongs to another run."""
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("sha256", None) != _checksum(path, content):
        return None
    return content


def _with_checksum(path: Path, content: dict[str, Any]) -> bytes:
    return to_json(content | {"sha256": _checksum(path, content)})


def _checksum(path: Path, content: dict[str, Any]) -> str:
    """Return the SHA-256 of a lease's folder name, file name and content."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode() + to_json(content)).hexdigest()


def is_dead(owner: dict[str, Any]) -> bool:
    """Return whether the owner of a lease is a process of this machine that no longer exists."""
    here, pid = machine_identity(), owner.get("pid")
    if here is None or owner.get("machine") != here or not isinstance(pid, int) or pid < 1:
        return False
    if owner.get("process_start_time") is None:
        return True  # the process ended before its lease was created
    found = process_start_time(pid)
    return found != owner["process_start_time"] if found is not None else not exists(pid) or _is_zombie(pid)


@cache
def machine_identity() -> str | None:
    """Return what a process id is unique in: host name, boot of the kernel and PID namespace; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return None


def process_start_time(pid: int) -> str | None:
    """Return when a process of this machine started, in ticks since the boot; None if it has ended or is hidden."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def _is_zombie(pid: int) -> bool:
    """Return whether the process has ended but its parent has not waited for it yet."""
    fields = _stat(pid)
    return fields is not None and fields[0] in "ZX"


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None when there is no such process or it is hidden."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def process_identity(pid: int) -> dict[str, Any]:
    """Return what identifies a process of this machine, in the form that `is_dead` reads."""
    return {
        "host": platform.node(),
        "pid": pid,
        "process_start_time": process_start_time(pid),
        "machine": machine_identity(),
    }


def _new_content(lease: Lease, pid: int) -> dict[str, Any]:
    start = {"begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "expired": lease.expired, "over": False}
    return {"attempt": lease.number} | process_identity(pid) | start


def _count_expired(last: Path) -> int:
    """Return how many leases in a row, up to the last one, expired before the end of an epoch.

    A lease whose owner is known to be dead has not expired.
    """
    content = read_lease(last)
    if content is None or content.get("over") is True or is_dead(content) or "epoch" in content:
        return 0
    return int(content.get("expired", 0)) + 1


def _create(path: Path, content: bytes) -> bool:
    """Create a file with its content atomically; False when it exists. Raises OSError, and then leaves no file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return temporary.stat().st_nlink == 2  # a file server repeated a request that had succeeded
        except OSError as error:
            if error.errno not in LINKS_UNSUPPORTED:
                raise
            return _create_without_link(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_without_link(path: Path, content: bytes) -> bool:
    """Create a file as `_create` does, on a file system without hard links.

    The file is empty for a moment; an empty lease counts as active.
    """
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
