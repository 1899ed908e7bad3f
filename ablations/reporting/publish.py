"""Atomic replacement of the generated files in a folder; other files there are kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ablations.errors import UsageError


@contextmanager
def published(folder: Path, owned: tuple[str, ...], option: str = "--out") -> Iterator[Path]:
    """Yield an empty folder to write into; at the end the `owned` names in it replace those in `folder`.

    An owned name that was not written is removed from `folder`; every other file there is kept. If an error is
    raised, `folder` is unchanged. Raises UsageError immediately if `folder` cannot be written.
    """
    made = _missing_parents(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        _remove_empty(made)
        where = folder.parent if error.filename is None else Path(str(error.filename))
        reason = error.strerror or str(error)
        raise UsageError(
            f"{option} {folder.parent} is not writable ({where}: {reason}); choose another folder"
        ) from error
    try:
        new, old = work / "new", work / "old"
        new.mkdir()
        old.mkdir()
        yield new
        _swap(new, old, folder, owned)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        _remove_empty(made)
        raise
    shutil.rmtree(work, ignore_errors=True)


def _swap(new: Path, old: Path, folder: Path, owned: tuple[str, ...]) -> None:
    moved: list[tuple[Path, Path]] = []
    try:
        for name in owned:
            for source, target in ((folder / name, old / name), (new / name, folder / name)):
                if source.exists() or source.is_symlink():
                    source.rename(target)
                    moved.append((source, target))
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise


def _missing_parents(folder: Path) -> list[Path]:
    missing = []
    with suppress(OSError):
        for path in (folder, *folder.parents):
            if path.exists():
                break
            missing.append(path)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
