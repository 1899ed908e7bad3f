"""A tree of folders, one for each class, in one part or in the folders ``train``, ``val`` and ``test``.

A folder of a part is told from one of a class by its name and by what is in it: parts hold folders, and classes hold
pictures. Where both do not agree, the tree is refused rather than misread.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from ablations.config import count
from ablations.data.pictures import SUFFIXES
from ablations.data.sources.files import files_below, folders_in, is_ignored, pictures_below
from ablations.data.sources.part_names import VALID, part_of, part_within, repeated
from ablations.data.sources.source import Source
from ablations.errors import UsageError

SHOWN = 10
"""Folders that a message lists."""


def find(data_dir: Path) -> Path | None:
    """Return the folder if it looks like a tree of classes, else None. Lists no pictures."""
    try:
        tops = folders_in(data_dir)
    except OSError:
        return None
    return data_dir if len(tops) > 1 or any(part_of(top.name) for top in tops) else None


def read(data_dir: Path) -> Source:
    """List the pictures of a tree.

    Raises:
        UsageError: if there are no classes, a class has no pictures, or it is not clear which folders are parts.
    """
    if not data_dir.is_dir():
        raise UsageError(f"--data-dir must be a folder with one folder of pictures for each class, got {data_dir}")
    parts = _parts(data_dir)
    skipped: Counter[str] = Counter()
    names: list[str] = []
    labels: list[str] = []
    of: list[str] = []
    for part, root in parts:
        prefix = "" if root == data_dir else f"{root.name}/"
        for label, picture in _pictures(root, skipped):
            names.append(prefix + picture)
            labels.append(label)
            of.append(part)
    if parts != [("", data_dir)]:
        _count_outside(data_dir, {root for _, root in parts}, skipped)
    class_names, numbers = np.unique(np.array(labels), return_inverse=True)
    return Source(
        kind="folder",
        path=data_dir,
        names=names,
        labels=numbers.astype(np.int64),
        parts=np.array(of, dtype="<U10"),
        class_names=tuple(map(str, class_names)),
        read=lambda i: (data_dir / names[i]).read_bytes(),
        files=[f"{data_dir}/{name}" for name in names],
        skipped=dict(skipped),
    )


def _parts(root: Path) -> list[tuple[str, Path]]:
    """Return the parts of a tree with their folders; one part without a name if the tree is not divided."""
    tops = folders_in(root)
    named = [(part_of(top.name), top) for top in tops]
    parts = [(part, top) for part, top in named if part is not None]
    if repeated([part for part, _ in parts]):
        raise UsageError(
            f"{root}: more than one folder for one part, {_listed([t for _, t in parts])}; keep one of each"
        )
    if len(parts) > 1:
        if all(part != "train" for part, _ in parts):
            raise UsageError(f"{root}: there is no train/ beside {_listed([top for _, top in parts])}")
        return parts
    like = [top for top in tops if part_within(top.name)]
    if len({part_within(top.name) for top in like}) > 1 and (len(like) == len(tops) or all(map(_holds_folders, like))):
        raise UsageError(
            f"{root}: {_listed(like)} look like parts of a dataset, not like classes; name the folders {VALID}"
        )
    if parts and _holds_folders(parts[0][1]):
        ((part, top),) = parts
        if len(tops) > 1:
            others = _listed([other for other in tops if other != top])
            raise UsageError(
                f"{root}: {top.name}/ holds folders as a part of a dataset does, but not {others}; "
                f"name the parts {VALID}, or give --data-dir {top}"
            )
        if part != "train":
            raise UsageError(f"{root}: there is {top.name}/ but no train/")
        return [("", top)]
    for top in tops:
        inner = [part_of(folder.name) for folder in folders_in(top)]
        if inner and all(inner) and len(set(inner)) > 1:
            raise UsageError(
                f"{root}: the parts must be above the classes, as in train/{top.name}/, got them inside {top.name}/"
            )
    if len(tops) == 1 and not _holds_pictures(tops[0]) and len(folders_in(tops[0])) > 1:
        raise UsageError(f"{root}: there must be at least 2 class folders, got 1; did you mean --data-dir {tops[0]}?")
    return [("", root)]


def _pictures(root: Path, skipped: Counter[str]) -> list[tuple[str, str]]:
    """Return class name and path of each picture of one part."""
    folders = folders_in(root)
    outside: Counter[str] = Counter()
    flat = _files_at(root, outside)
    if len(folders) < 2:
        hint = "for those, see --data csv"
        if part_of(root.name) in ("validation", "test"):
            hint = f"if they have no labels, move {root.name}/ elsewhere: a test part is then cut off"
        raise UsageError(
            f"{root}: there must be at least 2 class folders with pictures, got {len(folders)}"
            + (f" and {count(flat, 'picture')} in no class folder ({hint})" if flat else "")
        )
    skipped.update(outside)
    found = []
    for folder in folders:
        pictures = pictures_below(folder, skipped)
        if not pictures:
            raise UsageError(f"{folder}: every class must have at least one picture, got none")
        found += [(folder.name, f"{folder.name}/{picture}") for picture in pictures]
    return found


def _files_at(root: Path, skipped: Counter[str]) -> int:
    """Count the files that lie in no class folder, and return how many of them are pictures."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if not is_ignored(entry.name) and entry.is_file()]
    suffixes = [os.path.splitext(name)[1].lower() for name in names]  # noqa: PTH122
    found = Counter("in no class folder" if suffix in SUFFIXES else suffix or "without a suffix" for suffix in suffixes)
    skipped.update(found)
    return found["in no class folder"]


def _count_outside(root: Path, parts: set[Path], skipped: Counter[str]) -> None:
    """Count files beside the folders of the parts, and those in other folders."""
    _files_at(root, skipped)
    for top in folders_in(root):
        if top not in parts:
            skipped["in other folders"] += sum(1 for _ in files_below(top))


def _holds_folders(folder: Path) -> bool:
    return bool(folders_in(folder)) and not _holds_pictures(folder)


def _holds_pictures(folder: Path) -> bool:
    return _files_at(folder, Counter()) > 0


def _listed(folders: list[Path]) -> str:
    names = [f"{folder.name}/" for folder in folders[:SHOWN]]
    if len(folders) > SHOWN:
        names.append(f"{len(folders) - SHOWN:,} more")
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
