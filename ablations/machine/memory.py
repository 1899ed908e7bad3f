"""Available memory, and sizes as text."""

from collections.abc import Iterator
from pathlib import Path


def format_bytes(size: int) -> str:
    """Return a size as text, in units of 2^20 and 2^30 bytes: 212 MB, 1.4 GB."""
    return f"{size / 2**20:.0f} MB" if size < 1000 * 2**20 else f"{size / 2**30:.1f} GB"


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the free memory in bytes, of the machine and of the control groups of this process.

    What the kernel would give back (caches) counts as available. None where it does not say.
    """
    free = [_kilobytes(root / "proc/meminfo", "MemAvailable:"), *_left_in_groups(root)]
    return min((value for value in free if value is not None), default=None)


def _left_in_groups(root: Path) -> Iterator[int | None]:
    """Yield the remaining bytes of each control group of this process and of its ancestors."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2
            mount, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):  # version 1
            mount, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        folder = mount / path.strip("/")
        for group in (folder, *folder.parents):  # a container may show its own group as the root
            values = [_number(group / name) for name in (limit, usage)]
            if values[0] is not None and values[1] is not None:
                yield max(0, values[0] - values[1] + (_field(group / "memory.stat", cache) or 0))
            if group == mount:
                break


def _number(path: Path) -> int | None:
    """Return the integer in a file; None for `max` or if there is none."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """Return the number after a name in a file of names and numbers."""
    for line in _lines(path):
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdecimal():
            return int(words[1])
    return None


def _kilobytes(path: Path, name: str) -> int | None:
    value = _field(path, name)
    return None if value is None else 1024 * value


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
