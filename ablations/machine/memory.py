"""Available memory, and sizes as text."""

from collections.abc import Iterator
from pathlib import Path


def format_bytes(size: int) -> str:
    """Bytes for people, in 2^20 and 2^30: 212 MB, 1.4 GB."""
    return f"{size / 2**20:.0f} MB" if size < 1000 * 2**20 else f"{size / 2**30:.1f} GB"


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that processes here may still take: of the machine, and of the control groups around this one.

    What the kernel would give back (caches) counts as available. None where it does not say.
    """
    free = [_kilobytes(root / "proc/meminfo", "MemAvailable:"), *_left_in_groups(root)]
    return min((value for value in free if value is not None), default=None)


def _left_in_groups(root: Path) -> Iterator[int | None]:
    """What is left of the limit of each control group that this process is in, and of those around it."""
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
    """The whole number in a file; None for `max`, and where there is none."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """The number behind a name in a file of names and numbers."""
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
