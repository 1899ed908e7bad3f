"""Arrays in an .npz file of NumPy, named as in the files of Keras or MedMNIST.

Images ``x_train`` or ``train_images`` (n, h, w) or (n, h, w, c), also with the channels first; labels ``y_train`` or
``train_labels`` (n,) or (n, 1); likewise ``val`` and ``test``, or ``x`` and ``y``, ``images`` and ``labels`` without
parts. An array ``class_names`` names the classes. Images are read from the file one after the other.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ablations.data.sources.files import only_file
from ablations.data.sources.forward import Forward
from ablations.data.sources.labels import as_text, numbered
from ablations.data.sources.part_names import part_of
from ablations.data.sources.source import Content, Source
from ablations.errors import UsageError

IMAGES = frozenset(("x", "image", "images", "data"))
LABELS = frozenset(("y", "label", "labels", "target", "targets"))
CLASS_NAMES = frozenset(("class_names", "classes", "label_names"))
CHANNELS = (1, 3, 4)
AT_ONCE = 1 << 20
VALID = "x_train, y_train, x_test, y_test (Keras) or train_images, train_labels, test_images, test_labels (MedMNIST)"


@dataclass(frozen=True)
class _Array:
    """An array in the file, before it is read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def read(self) -> NDArray[Any]:
        with np.load(self.path, allow_pickle=False) as file:
            return file[self.name]


def find(path: Path) -> Path | None:
    """Return the file if it is a ZIP archive, or the only .npz file of a folder."""
    if path.is_dir():
        found = sorted(path.glob("*.npz"))
        return found[0] if len(found) == 1 else None
    return path if zipfile.is_zipfile(path) else None


def read(path: Path) -> Source:
    """List the images of a file.

    Raises:
        UsageError: if the file is damaged, its names are not understood, or images and labels do not fit together.
    """
    path = only_file(path, ".npz")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path}: not an .npz file")
    try:
        arrays = _arrays(path)
        pairs, class_names, others = _paired(path, arrays)
        labels = {part: _labels(path, images, array) for part, (images, array) in pairs.items()}
        names = [] if class_names is None else class_names.read().tolist()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path}: not a readable .npz file ({error})") from error
    texts = [text for part in pairs for text in labels[part]]
    found, numbers = numbered(texts)
    if names:
        if not all(name.isdecimal() and int(name) < len(names) for name in found):
            raise UsageError(f"{path}: labels must be 0 to {len(names) - 1}, as there are {len(names)} class names")
        found, numbers = tuple(map(as_text, names)), np.array([int(text) for text in texts], dtype=np.int64)
    sizes = [len(labels[part]) for part in pairs]
    starts = np.cumsum([0, *sizes[:-1]])
    readers = [_reader(images) for images, _ in pairs.values()]

    def read_one(i: int) -> Content:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return readers[part](i - int(starts[part]))

    return Source(
        kind="npz",
        path=path,
        names=[
            f"{images.name}[{i}]" for (images, _), size in zip(pairs.values(), sizes, strict=True) for i in range(size)
        ],
        labels=numbers,
        parts=np.repeat(np.array(list(pairs), dtype="<U10"), sizes),
        class_names=found,
        read=read_one,
        files=[str(path)],
        skipped={"with another name": others} if others else {},
    )


def _arrays(path: Path) -> dict[str, _Array]:
    """Read the headers of the arrays in a file."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            with archive.open(member) as file:
                shape, fortran, dtype = _header(file)
            name = member.removesuffix(".npy")
            arrays[name] = _Array(path, name, shape, dtype, fortran)
    return arrays


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, order and type of an array."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _paired(path: Path, arrays: dict[str, _Array]) -> tuple[dict[str, tuple[_Array, _Array]], _Array | None, int]:
    """Return images and labels by part, the class names, and how many arrays are none of these."""
    images: dict[str, _Array] = {}
    labels: dict[str, _Array] = {}
    class_names, others = None, 0
    for name, array in arrays.items():
        words = name.lower().split("_")
        part = next((part for word in words if (part := part_of(word))), "")
        rest = "_".join(word for word in words if part_of(word) is None)
        into = images if rest in IMAGES else labels if rest in LABELS else None
        if into is None and name.lower() in CLASS_NAMES:
            class_names = array
        elif into is None:
            others += 1
        elif part in into:
            raise UsageError(f"{path}: both {into[part].name} and {name} could be the {part or 'only'} part; keep one")
        else:
            into[part] = array
    if not images or set(images) != set(labels) or ("" in images and len(images) > 1):
        raise UsageError(f"{path}: arrays must be named like {VALID}, got {', '.join(sorted(arrays)) or 'none'}")
    order = [part for part in ("", "train", "validation", "test") if part in images]
    return {part: (images[part], labels[part]) for part in order}, class_names, others


def _labels(path: Path, images: _Array, labels: _Array) -> list[str]:
    """Return the labels of a part as text, after a check of the shapes."""
    if images.dtype.kind not in "uif" or len(images.shape) not in (3, 4) or _channels_first(images.shape) is None:
        raise UsageError(
            f"{path}: {images.name} must be numbers (n, height, width) or (n, height, width, channels) with 1, 3 or 4 "
            f"channels, got {images.dtype} {images.shape}"
        )
    number = images.shape[0]
    if labels.shape not in ((number,), (number, 1)) or labels.dtype.kind not in "biufSU":
        raise UsageError(
            f"{path}: {labels.name} must have one label for each of the {number:,} images, numbers or text, got "
            f"{labels.dtype} {labels.shape}"
        )
    values = labels.read().reshape(number)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "f" and not np.equal(np.mod(values, 1), 0).all():
        raise UsageError(f"{path}: {labels.name} must be whole numbers or text, got fractions")
    return [as_text(value) for value in values.tolist()]


def _channels_first(shape: tuple[int, ...]) -> bool | None:
    """Return whether channels come before rows; None if there are no channels at either place."""
    if len(shape) == 3 or shape[3] in CHANNELS:
        return False
    return True if shape[1] in CHANNELS else None


def _reader(array: _Array) -> Callable[[int], Content]:
    """Return a function that reads one image."""
    first = _channels_first(array.shape)

    def upright(image: NDArray[Any]) -> NDArray[Any]:
        return np.moveaxis(image, 0, -1) if first else image

    if array.fortran:  # its images are spread over the whole file
        whole: list[NDArray[Any]] = []

        def read_one(i: int) -> Content:
            if not whole:
                whole.append(array.read())
            return upright(whole[0][i])

        return read_one
    forward = Forward(
        partial(_stream, array), lambda error: UsageError(f"{array.path}: {array.name} is damaged ({error})")
    )
    return lambda i: upright(forward(i))  # type: ignore[arg-type]


def _stream(array: _Array, start: int) -> tuple[int, Iterator[Content]]:
    def images() -> Iterator[Content]:
        shape = array.shape[1:]
        size = array.dtype.itemsize * int(np.prod(shape))
        with zipfile.ZipFile(array.path) as archive, archive.open(f"{array.name}.npy") as file:
            _header(file)
            for skipped in range(0, start * size, AT_ONCE):  # `seek` reads 16 MiB at once
                file.read(min(AT_ONCE, start * size - skipped))
            while True:
                data = file.read(size)
                if len(data) < size:
                    raise EOFError("it ends too early")
                image = np.frombuffer(data, dtype=array.dtype).reshape(shape)
                yield image.astype(array.dtype.newbyteorder("="), copy=False)

    return start, images()
