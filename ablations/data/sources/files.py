"""Files in a folder: which are pictures, which count as passed over, and which do not count."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ablations.data.heartbeat import send_heartbeat
from ablations.data.pictures import SUFFIXES
from ablations.errors import UsageError

IGNORED = frozenset(("__macosx", "@eadir", "thumbs.db", "desktop.ini", "lost+found"))
"""Names that operating systems leave behind, in lower case. Hidden files and folders are ignored, too."""


def is_ignored(name: str) -> bool:
    """Return whether a file or folder of this name is passed over without being counted."""
    return name.startswith(".") or name.lower() in IGNORED


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, by name."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_ignored(entry.name) and entry.is_dir()]
    return [folder / name for name in sorted(names)]


def pictures_below(folder: Path, skipped: Counter[str]) -> list[str]:
    """Return the paths of the pictures in a folder and its subfolders, relative to it with ``/``, by their parts.

    Other files are counted in ``skipped`` by their suffix.
    """
    found: list[tuple[str, ...]] = []
    for place, name in files_below(folder):
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if suffix in SUFFIXES:
            found.append((*place, name))
        else:
            skipped[suffix or "without a suffix"] += 1
    return ["/".join(parts) for parts in sorted(found)]


def files_below(folder: Path, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the subfolders (after ``place``) and the name of each file below a folder that is not ignored."""
    send_heartbeat()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path), (*place, entry.name))
            elif entry.is_file():
                yield place, entry.name


def only_file(path: Path, suffix: str) -> Path:
    """Return a path to a file, or the only file with this suffix in a folder.

    Raises:
        UsageError: if the folder has none, or several.
    """
    if not path.is_dir():
        return path
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == suffix and not is_ignored(file.name))
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:10])
        raise UsageError(f"--data-dir must name one {suffix} file in {path}, got {names or 'none there'}")
    return found[0]
