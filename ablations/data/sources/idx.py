"""The files of MNIST, or of a dataset in its form: images and labels of each part in IDX, gzipped or not.

``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, or
names like these, such as ``emnist-letters-test-images-idx3-ubyte.gz``, in a folder or below it.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ablations.data import idx
from ablations.data.sources.files import is_ignored
from ablations.data.sources.forward import Forward
from ablations.data.sources.labels import as_text, numbered
from ablations.data.sources.part_names import ALIASES
from ablations.data.sources.source import Content, Source
from ablations.errors import UsageError

PARTS = {**ALIASES, "t10k": "test"}
NAME = re.compile(
    rf"(?P<set>.*?)(?P<part>{'|'.join(PARTS)})[-_.](?P<what>images|labels)([-_.]idx\d)?([-_.](ubyte|int))?(\.gz)?", re.I
)
VALID = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, plain or .gz"


def find(path: Path) -> Path | None:
    """Return the folder if such files are in it or below it."""
    return path if path.is_dir() and _files(path) else None


def read(path: Path) -> Source:
    """List the images of the files in a folder.

    Raises:
        UsageError: if files are missing, damaged, or do not fit together.
    """
    found = _files(path) if path.is_dir() else []
    if not found:
        raise UsageError(f"--data-dir must be a folder with {VALID}, got {path}")
    sets = dict.fromkeys((file.parent, match["set"].lower()) for file, match in found)
    if len(sets) > 1:
        shown = ", ".join(str(folder.relative_to(path) / f"{prefix}*") for folder, prefix in sets)
        raise UsageError(f"{path}: more than one dataset ({shown}); give each a folder of its own")
    by_part: dict[str, dict[str, Path]] = {}
    for file, match in found:  # a plain file comes before its .gz
        by_part.setdefault(PARTS[match["part"].lower()], {}).setdefault(match["what"].lower(), file)
    names: list[str] = []
    labels: list[str] = []
    parts: list[str] = []
    starts, readers = [], []
    for part, files in by_part.items():
        for what in ("images", "labels"):
            if what not in files:
                (there,) = files.values()
                raise UsageError(f"{there}: the {what} of the {part} part are missing beside it; valid: {VALID}")
        images, texts = files["images"], _labels(files["labels"])
        dtype, shape = _image_header(images)
        if shape[0] != len(texts):
            raise UsageError(f"{images}: {shape[0]:,} images, but {len(texts):,} labels in {files['labels'].name}")
        starts.append(len(names))
        readers.append(Forward(partial(_stream, images, dtype, shape), partial(_damaged, images)))
        names += [f"{images.name}[{i}]" for i in range(len(texts))]
        labels += texts
        parts += [part] * len(texts)
    class_names, numbers = numbered(labels)

    def read_one(i: int) -> Content:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return readers[part](i - starts[part])

    return Source(
        kind="idx",
        path=path,
        names=names,
        labels=numbers,
        parts=np.array(parts, dtype="<U10"),
        class_names=class_names,
        read=read_one,
        files=[str(file) for files in by_part.values() for file in files.values()],
    )


def _files(path: Path) -> list[tuple[Path, re.Match[str]]]:
    """Return the files with such names, plain ones before gzipped ones."""
    here = (
        sorted(path.iterdir()) if any(NAME.fullmatch(file.name) for file in path.iterdir()) else sorted(path.rglob("*"))
    )
    found = [(file, match) for file in here if (match := NAME.fullmatch(file.name)) and file.is_file()]
    return [(file, match) for file, match in found if not is_ignored(file.name)]


def _labels(path: Path) -> list[str]:
    array = idx.read(path)
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise UsageError(f"{path}: labels must be whole numbers (n,), got {array.dtype} {array.shape}")
    return [as_text(label) for label in array.tolist()]


def _image_header(path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    with idx.open_idx(path) as file:
        dtype, shape = idx.read_header(file, path)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise UsageError(f"{path}: images must be (n, height, width) or (n, height, width, channels), got {shape}")
    return dtype, shape


def _stream(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], start: int) -> tuple[int, Iterator[Content]]:
    def images() -> Iterator[Content]:
        size = dtype.itemsize * int(np.prod(shape[1:]))
        with idx.open_idx(path) as file:
            idx.read_header(file, path)
            file.seek(start * size, 1)
            while True:
                data = file.read(size)
                if len(data) < size:
                    raise EOFError("it ends too early")
                image = np.frombuffer(data, dtype=dtype).reshape(shape[1:])
                yield image.astype(dtype.newbyteorder("="), copy=False)

    return start, images()


def _damaged(path: Path, error: Exception) -> Exception:
    return UsageError(f"{path}: damaged or truncated ({error})")
