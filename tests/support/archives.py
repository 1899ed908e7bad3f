"""Small data sets in every official format."""

import gzip
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from ablations.data import Dataset

RANDOM = np.random.default_rng(0)
IMAGES = {part: RANDOM.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for part, n in (("train", 40), ("test", 20))}
FINE = {part: RANDOM.integers(0, 100, len(images)) for part, images in IMAGES.items()}
COARSE = {part: RANDOM.integers(0, 20, len(images)) for part, images in IMAGES.items()}
TEN = {part: RANDOM.integers(0, 10, len(images)) for part, images in IMAGES.items()}
NAMES = {"fine": [f"fine_{i:02}" for i in range(100)], "coarse": [f"coarse_{i:02}" for i in range(20)]}
TEN_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def records(images: np.ndarray, *labels: np.ndarray) -> bytes:
    return np.column_stack([*(label.astype(np.uint8) for label in labels), planes(images)]).tobytes()


def cifar100_binary(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part in IMAGES:
        (root / f"{part}.bin").write_bytes(records(IMAGES[part], COARSE[part], FINE[part]))
    for kind, names in NAMES.items():
        (root / f"{kind}_label_names.txt").write_text("\n".join(names) + "\n")
    return root


def cifar100_python(root: Path, protocol: int = 2) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part in IMAGES:
        batch = {
            "data": planes(IMAGES[part]),
            "fine_labels": FINE[part].tolist(),
            "coarse_labels": COARSE[part].tolist(),
            "filenames": ["x.png"] * len(IMAGES[part]),
        }
        (root / part).write_bytes(pickle.dumps(batch, protocol=protocol))
    meta = {f"{kind}_label_names": names for kind, names in NAMES.items()}
    (root / "meta").write_bytes(pickle.dumps(meta, protocol=protocol))
    return root


def cifar10(root: Path, *, python: bool) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    batches = {f"data_batch_{i + 1}": ("train", slice(8 * i, 8 * i + 8)) for i in range(5)}
    for name, (part, rows) in {**batches, "test_batch": ("test", slice(None))}.items():
        images, labels = IMAGES[part][rows], TEN[part][rows]
        if python:
            batch = {b"data": planes(images), b"labels": labels.tolist(), b"batch_label": b"some"}
            (root / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            (root / f"{name}.bin").write_bytes(records(images, labels))
    if python:
        (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in TEN_NAMES]}))
    else:
        (root / "batches.meta.txt").write_text("\n".join(TEN_NAMES) + "\n\n")
    return root


def packed(source: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname=source.name)
    return archive


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def fashion(root: Path, *, zipped: bool) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for kind, array in (
            ("images-idx3", IMAGES[part][:, :28, :28, 0].copy()),
            ("labels-idx1", TEN[part].astype(np.uint8)),
        ):
            data = idx(array)
            name = f"{prefix}-{kind}-ubyte"
            (root / (name + ".gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return root


def pictures(root: Path, classes: dict[str, int]) -> Path:
    for position, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            colour = (40 * position, 10 * i, 200)
            Image.new("RGB", (40 + i, 60), colour).save(root / name / f"{i}.{'png' if i % 2 else 'JPG'}", None)
    return root


def assert_is_cifar100(dataset: Dataset, labels: str = "fine") -> None:
    wanted = FINE if labels == "fine" else COARSE
    np.testing.assert_array_equal(dataset.train_images, IMAGES["train"])
    np.testing.assert_array_equal(dataset.test_images, IMAGES["test"])
    np.testing.assert_array_equal(dataset.train_labels, wanted["train"])
    np.testing.assert_array_equal(dataset.test_labels, wanted["test"])
    assert dataset.class_names == tuple(NAMES[labels])
    assert dataset.train_labels.dtype == np.int64
