"""A user's own images: one folder per class, PNG or JPEG of any size.

Either ``train/<class>/*`` and ``test/<class>/*``, or one tree ``<class>/*`` of which a fifth of each class
becomes the test part. Pictures are turned upright, cut to the largest centred square and resized to
``IMAGE_SIZE``, in colour. Hidden files and files of other kinds are passed over; a picture that cannot be
read is named and refused.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.data.dataset import Dataset
from ablations.data.heartbeat import send_heartbeat
from ablations.data.pictures import pictures_in, read_picture
from ablations.data.split import fixed_order, take
from ablations.errors import UsageError

IMAGE_SIZE = 32
TEST_FRACTION = 0.2


def read(data_dir: Path | None, *, image_size: int = IMAGE_SIZE, seed: int = 0) -> Dataset:
    """Read the images under a folder as a dataset of uint8 (n, image_size, image_size, 3).

    Args:
        seed: Chooses the test part of a single tree. The choice goes by the names of the files, so it is the
            same on every machine and in every run.

    Raises:
        UsageError: if there is no folder, no class, an empty class, or an image that cannot be read (named).
    """
    root = _root(data_dir)
    if _is_split(root):
        train_names, train_paths, train_labels = _list(root / "train")
        names, test_paths, test_labels = _list(root / "test")
        if names != train_names:
            odd = ", ".join(sorted(set(names) ^ set(train_names)))
            raise UsageError(f"{root}: train/ and test/ must have the same classes, got {odd} in only one of them")
    else:
        names, paths, labels = _list(root)
        keys = [f"{seed}/{path.relative_to(root).as_posix()}" for path in paths]
        held = take(labels, fixed_order(keys), round(TEST_FRACTION * len(paths)), at_least=1)
        kept = np.setdiff1d(np.arange(len(paths)), held)
        if len(np.unique(labels[kept])) != len(names):
            raise UsageError(
                f"{root}: every class must have at least 2 images, one of them for the test, got a class with 1"
            )
        train_paths, train_labels = [paths[i] for i in kept], labels[kept]
        test_paths, test_labels = [paths[i] for i in held], labels[held]
    return Dataset(
        name="folder",
        train_images=_read_all(train_paths, image_size),
        train_labels=train_labels,
        test_images=_read_all(test_paths, image_size),
        test_labels=test_labels,
        class_names=names,
    )


def find(data_dir: Path | None) -> Path | None:
    """Return ``data_dir`` if it looks like a tree of classes, else None. Opens no image."""
    if data_dir is None or not data_dir.is_dir():
        return None
    return data_dir if len(_class_folders(data_dir / "train" if _is_split(data_dir) else data_dir)) > 1 else None


def _root(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise UsageError("--data-dir must be a folder with one folder of images per class, got none")
    if not data_dir.is_dir():
        raise UsageError(f"--data-dir must be a folder with one folder of images per class, got {data_dir}")
    return data_dir


def _is_split(root: Path) -> bool:
    return (root / "train").is_dir() and (root / "test").is_dir()


def _class_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list(root: Path) -> tuple[tuple[str, ...], list[Path], NDArray[np.int64]]:
    """Return class names, image paths and labels of one tree, in the order of their names."""
    folders = _class_folders(root)
    if len(folders) < 2:
        raise UsageError(f"{root}: there must be at least 2 class folders with images, got {len(folders)}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        pictures = pictures_in(folder)
        if not pictures:
            raise UsageError(f"{folder}: every class must have at least one PNG or JPEG image, got none")
        paths += pictures
        labels += [label] * len(pictures)
    return tuple(folder.name for folder in folders), paths, np.array(labels, dtype=np.int64)


def _read_all(paths: Sequence[Path], image_size: int) -> NDArray[np.uint8]:
    images = np.empty((len(paths), image_size, image_size, 3), dtype=np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = read_picture(path, image_size)
        send_heartbeat()
    return images
