"""Fashion-MNIST from its IDX files, plain or gzipped.

What is checked: the header of every file against its size, every label, and, for a file of the published
length, the published MD5 of its content (unpacked, so that it does not matter who compressed it). MNIST has
files of the same names and sizes; it is refused here, and read by ``--data idx``. Shorter files, a set of
one's own, are taken as they are.

Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.data import idx
from ablations.data.dataset import Dataset
from ablations.data.datasets.fetch import Remote
from ablations.data.locations import not_found, search_folder
from ablations.errors import UsageError

NAME = "fashion-mnist"
URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FOLDERS = ("", "fashion-mnist", "FashionMNIST/raw")


@dataclass(frozen=True)
class IdxFile:
    """One published file: name, number of examples, MD5 unpacked and MD5 as published with gzip."""

    name: str
    examples: int
    md5: str
    gzip_md5: str

    @property
    def remote(self) -> Remote:
        """Where it is published."""
        return Remote(f"{URL}/{self.name}.gz", self.gzip_md5)


FILES = (
    IdxFile(
        "train-images-idx3-ubyte",
        60_000,
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    ),
    IdxFile(
        "train-labels-idx1-ubyte",
        60_000,
        "9018921c3c673c538a1fc5bad174d6f9",
        "25c81989df183df01b3e8a0aad5dffbe",
    ),
    IdxFile(
        "t10k-images-idx3-ubyte",
        10_000,
        "8181f5470baa50b63fa0f6fddb340f0a",
        "bef4ecab320f06d8554ea6380940ec79",
    ),
    IdxFile(
        "t10k-labels-idx1-ubyte",
        10_000,
        "15d484375f8d13e6eb1aabb0c3f46965",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)


def find(data_dir: Path | None) -> Path | None:
    """Return the folder that `read` would use: ``data_dir``, the cache, or that of Debian's package."""
    where = search_folder(NAME, data_dir)
    folders = [where / folder for folder in FOLDERS] + ([DEBIAN] if data_dir is None else [])
    return next((folder for folder in folders if any(_paths(folder, file) for file in FILES)), None)


def read(data_dir: Path | None) -> Dataset:
    """Read the dataset: 60,000 training and 10,000 test greyscale images of 28 x 28.

    Raises:
        UsageError: if nothing is found, or what is found is not what it should be (see the module).
    """
    folder = find(data_dir)
    if folder is None:
        raise not_found(NAME, search_folder(NAME, data_dir), [f"{FILES[0].name}[.gz]", "..."])
    train_images, train_labels, test_images, test_labels = (_read_idx(folder, file) for file in FILES)
    return Dataset(
        name=NAME,
        train_images=train_images[..., None],
        train_labels=train_labels.astype(np.int64),
        test_images=test_images[..., None],
        test_labels=test_labels.astype(np.int64),
        class_names=CLASS_NAMES,
    )


def _paths(folder: Path, file: IdxFile) -> list[Path]:
    return [path for suffix in ("", ".gz") if (path := folder / (file.name + suffix)).is_file()]


def _read_idx(folder: Path, file: IdxFile) -> NDArray[np.uint8]:
    paths = _paths(folder, file)
    if not paths:
        raise UsageError(f"{folder / file.name}[.gz]: missing; run `vitab data fetch {NAME}` or copy it there")
    path = paths[0]
    tail = (28, 28) if "images" in file.name else ()
    try:
        array = idx.read(path, most=file.examples * int(np.prod(tail, dtype=np.int64)))
    except UsageError as error:
        raise UsageError(f"{error}; download it again") from error
    if array.dtype != np.uint8 or array.shape[1:] != tail:
        raise UsageError(f"{path}: must be uint8 {('n', *tail)}, got {array.dtype} {array.shape}; download it again")
    found = hashlib.md5(idx.header(array), usedforsecurity=False)
    found.update(array.data)
    if len(array) == file.examples and found.hexdigest() != file.md5:
        raise UsageError(
            f"{path}: MD5 of the content is {found.hexdigest()}, the published file has {file.md5}: "
            "damaged, or another data set (MNIST has files of these names: --data idx); fetch it again"
        )
    return array
