"""CIFAR-10 and CIFAR-100 from their official binary and python archives, packed or unpacked.

What is checked: an archive under its official name must have the official MD5. Unpacked files, and archives
under any other name, are taken as they are so long as they hold a whole number of records, no more of them
than the official file, with every label in range: that lets a reordered copy or a small set of one's own be
read, and refuses what was truncated or has grown.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.data.dataset import Dataset
from ablations.data.datasets.archives import check_md5, read_folder, read_tar
from ablations.data.datasets.fetch import Remote
from ablations.data.datasets.unpickle import byte_rows, integers, read_pickle, texts
from ablations.data.locations import not_found, search_folder
from ablations.errors import UsageError

URL = "https://www.cs.toronto.edu/~kriz"
SIZE, CHANNELS = 32, 3
PIXELS = SIZE * SIZE * CHANNELS
Batch = tuple[NDArray[np.uint8], Mapping[str, NDArray[np.int64]]]


@dataclass(frozen=True)
class Archive:
    """One official archive: its name and MD5, the folder in it and the files in that.

    Attributes:
        train: Training files and how many records each has.
        test: The test file and how many records it has.
        names: The file of class names, for each set of labels.
    """

    file: str
    md5: str
    folder: str
    train: Mapping[str, int]
    test: Mapping[str, int]
    names: Mapping[str, str]
    pickled: bool

    @property
    def remote(self) -> Remote:
        """Where it is published."""
        return Remote(f"{URL}/{self.file}", self.md5)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that reading needs."""
        return tuple(dict.fromkeys((*self.train, *self.test, *self.names.values())))

    def limits(self, label_bytes: int) -> dict[str, int]:
        """Return the maximum size of each file. Pickles contain file names, and may encode a byte as two."""
        record, extra = (2 * PIXELS + 256, 1 << 20) if self.pickled else (PIXELS + label_bytes, 0)
        limits = {file: records * record + extra for file, records in {**self.train, **self.test}.items()}
        return limits | dict.fromkeys(self.names.values(), 1 << 20)


@dataclass(frozen=True)
class Cifar:
    """One of the two datasets: its sets of labels in record order, and its archives, the preferred one first."""

    name: str
    label_sets: Mapping[str, int]
    archives: tuple[Archive, ...]


_TEN_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))

CIFAR10 = Cifar(
    name="cifar10",
    label_sets={"fine": 10},
    archives=(
        Archive(
            file="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train={f"{name}.bin": 10_000 for name in _TEN_TRAIN},
            test={"test_batch.bin": 10_000},
            names={"fine": "batches.meta.txt"},
            pickled=False,
        ),
        Archive(
            file="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            train=dict.fromkeys(_TEN_TRAIN, 10_000),
            test={"test_batch": 10_000},
            names={"fine": "batches.meta"},
            pickled=True,
        ),
    ),
)

CIFAR100 = Cifar(
    name="cifar100",
    label_sets={"coarse": 20, "fine": 100},
    archives=(
        Archive(
            file="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train={"train.bin": 50_000},
            test={"test.bin": 10_000},
            names={"fine": "fine_label_names.txt", "coarse": "coarse_label_names.txt"},
            pickled=False,
        ),
        Archive(
            file="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            train={"train": 50_000},
            test={"test": 10_000},
            names={"fine": "meta", "coarse": "meta"},
            pickled=True,
        ),
    ),
)


def find(cifar: Cifar, data_dir: Path | None) -> Path | None:
    """Return the folder or archive that `read` would use, or None."""
    where = search_folder(cifar.name, data_dir)
    if where.is_file():
        return where
    for archive in cifar.archives:
        for folder in (where, where / archive.folder):
            if any((folder / file).is_file() for file in (*archive.train, *archive.test)):
                return folder
    for archive in cifar.archives:
        if (where / archive.file).is_file():
            return where / archive.file
    return None


def read(cifar: Cifar, data_dir: Path | None, labels: str = "fine") -> Dataset:
    """Read the dataset from a folder, an archive, or a folder that contains either; the cache when None.

    Args:
        labels: Which set of labels to use, a key of ``cifar.label_sets``.

    Raises:
        UsageError: if nothing is found, or what is found is not what it should be (see the module).
    """
    path = find(cifar, data_dir)
    if path is None:
        wanted = [name for archive in cifar.archives for name in (archive.folder + "/", archive.file)]
        raise not_found(cifar.name, search_folder(cifar.name, data_dir), wanted)
    limits = {
        name: limit for archive in cifar.archives for name, limit in archive.limits(len(cifar.label_sets)).items()
    }
    if path.is_file():
        for archive in cifar.archives:
            if path.name == archive.file:
                check_md5(path, archive.md5)
        contents = read_tar(path, limits)
    else:
        contents = read_folder(path, limits)
    archive = _archive_of(cifar, path, contents)
    train = _read_part(cifar, archive, path, contents, archive.train, labels)
    test = _read_part(cifar, archive, path, contents, archive.test, labels)
    return Dataset(cifar.name, *train, *test, class_names=_names(cifar, archive, path, contents, labels))


def _archive_of(cifar: Cifar, path: Path, contents: Mapping[str, bytes]) -> Archive:
    """Return the official layout with the most files present. All of its files must be present."""
    archive = max(cifar.archives, key=lambda archive: sum(file in contents for file in archive.files))
    missing = [file for file in archive.files if file not in contents]
    if missing:
        raise UsageError(
            f"{path} must contain all files of the published {archive.file}; missing: {', '.join(missing)}"
        )
    return archive


def _read_part(
    cifar: Cifar,
    archive: Archive,
    path: Path,
    contents: Mapping[str, bytes],
    files: Mapping[str, int],
    labels: str,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, 32, 32, 3) and the chosen labels (n,) of several files, concatenated."""
    images, chosen = [], []
    for file, most in files.items():
        parse = _parse_pickle if archive.pickled else _parse_records
        pixels, label_sets = parse(contents[file], path / file, tuple(cifar.label_sets))
        if not 1 <= len(pixels) <= most:
            raise UsageError(f"{path / file} must have 1 to {most:,} images, got {len(pixels):,}")
        for label_set, classes in cifar.label_sets.items():
            _check_labels(path / file, label_set, label_sets[label_set], classes)
        planes = pixels.reshape(-1, CHANNELS, SIZE, SIZE)
        images.append(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
        chosen.append(label_sets[labels])
    return (images[0] if len(images) == 1 else np.concatenate(images)), np.concatenate(chosen)


def _check_labels(path: Path, label_set: str, labels: NDArray[np.int64], classes: int) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(
            f"{path}: {label_set} labels must be 0 to {classes - 1}, got {labels.min()} to {labels.max()} "
            "(damaged, or not a CIFAR file)"
        )


def _parse_records(data: bytes, path: Path, label_sets: Sequence[str]) -> Batch:
    """Parse records of one byte per label, then 3,072 bytes of pixels: red, green and blue plane, by rows."""
    record = len(label_sets) + PIXELS
    if len(data) % record:
        raise UsageError(
            f"{path}: the size must be a multiple of {record:,} bytes, got {len(data):,}: "
            "truncated or damaged; fetch it again"
        )
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, record)
    labels = {name: records[:, column].astype(np.int64) for column, name in enumerate(label_sets)}
    return records[:, len(label_sets) :], labels


def _parse_pickle(data: bytes, path: Path, label_sets: Sequence[str]) -> Batch:
    """Parse a dictionary of ``data`` (n, 3072), planes as in the binary files, and a list per label set."""
    batch = read_pickle(data, path)
    pixels = byte_rows(batch.get("data"), path, PIXELS)
    labels = {}
    for name in label_sets:
        key = "labels" if len(label_sets) == 1 else f"{name}_labels"
        labels[name] = integers(batch.get(key), path, key)
        if len(labels[name]) != len(pixels):
            raise UsageError(f"{path}: {len(labels[name])} {key} for {len(pixels)} images; fetch it again")
    return pixels, labels


def _names(cifar: Cifar, archive: Archive, path: Path, contents: Mapping[str, bytes], labels: str) -> tuple[str, ...]:
    file = archive.names[labels]
    if archive.pickled:
        key = "label_names" if len(cifar.label_sets) == 1 else f"{labels}_label_names"
        names = texts(read_pickle(contents[file], path / file).get(key), path / file, key)
    else:
        names = tuple(contents[file].decode("utf-8-sig", "replace").split())
    if len(names) != cifar.label_sets[labels] or len(set(names)) != len(names):
        raise UsageError(
            f"{path / file} must have {cifar.label_sets[labels]} different class names, got {len(set(names))}"
        )
    return names
