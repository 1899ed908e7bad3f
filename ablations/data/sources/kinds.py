"""The kinds of sources by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ablations.data.sources import csv, folder, idx, npz, parquet
from ablations.data.sources.source import Source
from ablations.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """What is known about a kind of source.

    Attributes:
        wanted: What ``--data-dir`` must be.
        find: ``find(path)``, what would be read there, or None; opens no picture.
        read: ``read(path, columns)``.
    """

    name: str
    description: str
    wanted: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path, str], Source]


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "folder",
            "your own pictures in --data-dir, one folder per class",
            "a folder with one folder of pictures for each class",
            folder.find,
            lambda path, columns: folder.read(path),
        ),
        Kind(
            "csv",
            "your own pictures, listed in the file --data-dir with a label for each",
            "a CSV file with a column of files and one of labels",
            csv.find,
            csv.read,
        ),
        Kind(
            "npz",
            "your own arrays in the file --data-dir, named as by Keras or MedMNIST",
            "an .npz file of arrays such as x_train, y_train, x_test and y_test",
            npz.find,
            lambda path, columns: npz.read(path),
        ),
        Kind(
            "parquet",
            "your own Parquet file or folder of shards in --data-dir, as on the Hugging Face Hub",
            "a .parquet file or a folder of them",
            parquet.find,
            parquet.read,
        ),
        Kind(
            "idx",
            "your own files in --data-dir in the format of MNIST, gzipped or not",
            "a folder with the files of MNIST, or files of the same form",
            idx.find,
            lambda path, columns: idx.read(path),
        ),
    )
}


def open_source(kind: str, data_dir: Path | None, columns: str = "") -> Source:
    """List the pictures of a source.

    Raises:
        UsageError: if there is nothing to read, or it is not clear what is what.
    """
    known = KINDS[kind]
    if data_dir is None:
        raise UsageError(f"--data-dir must be {known.wanted}, got none")
    path = data_dir.expanduser()
    if not path.exists():
        raise UsageError(f"--data-dir must be {known.wanted}, got {data_dir}, which does not exist")
    try:
        return known.read(path, columns)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise UsageError(f"cannot read {error.filename or path} ({reason})") from error


def find_source(kind: str, data_dir: Path | None) -> Path | None:
    """Return what `open_source` would read, None if there is nothing of this kind."""
    return None if data_dir is None or not data_dir.exists() else KINDS[kind].find(data_dir.expanduser())
