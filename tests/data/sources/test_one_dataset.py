"""The same images give the same dataset, in whatever form they come."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.data import Dataset, load
from ablations.data.reading import Reading
from tests.support.archives import idx

GREY = Reading(image_size=8, channels=1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """80 training, 30 validation and 40 test images of scikit-learn's digits."""
    whole = load("digits")
    return Dataset(
        "some digits",
        whole.train_images[:110],
        whole.train_labels[:110],
        whole.test_images[:40],
        whole.test_labels[:40],
        whole.class_names,
        validation_images=30,
    )


def parts(dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    train, validation = slice(0, 80), slice(80, 110)
    return {
        "train": (dataset.train_images[train, :, :, 0], dataset.train_labels[train]),
        "val": (dataset.train_images[validation, :, :, 0], dataset.train_labels[validation]),
        "test": (dataset.test_images[..., 0], dataset.test_labels),
    }


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_npz(digits: Dataset, tmp_path: Path) -> None:
    arrays = {f"x_{part}": images for part, (images, _) in parts(digits).items()}
    arrays |= {f"y_{part}": labels for part, (_, labels) in parts(digits).items()}
    np.savez(tmp_path / "digits.npz", **arrays)  # type: ignore[arg-type]
    assert load("npz", data_dir=tmp_path / "digits.npz").fingerprint == digits.fingerprint


def test_idx(digits: Dataset, tmp_path: Path) -> None:
    for part, (images, labels) in parts(digits).items():
        for what, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            (tmp_path / f"{part}-{what}-ubyte.gz").write_bytes(gzip.compress(idx(np.ascontiguousarray(array))))
    assert load("idx", data_dir=tmp_path).fingerprint == digits.fingerprint


def test_csv(digits: Dataset, tmp_path: Path) -> None:
    rows = ["file,label,split"]
    for part, (images, labels) in parts(digits).items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            (tmp_path / f"{part}{i}.png").write_bytes(png(image))
            rows.append(f"{part}{i}.png,{label},{part}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert load("csv", data_dir=tmp_path / "labels.csv", reading=GREY).fingerprint == digits.fingerprint


def test_parquet(digits: Dataset, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'vitab[parquet]'")
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'vitab[parquet]'")
    for part, (images, labels) in parts(digits).items():
        table = pa.table({"image": [{"bytes": png(image), "path": None} for image in images], "label": labels})
        pq.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet", row_group_size=7)
    assert load("parquet", data_dir=tmp_path, reading=GREY).fingerprint == digits.fingerprint


def test_folder(digits: Dataset, tmp_path: Path) -> None:
    """The pictures of a folder are in the order of the classes."""
    for part, (images, labels) in parts(digits).items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            (tmp_path / part / str(label)).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / str(label) / f"{i:03}.png").write_bytes(png(image))
    dataset = load("folder", data_dir=tmp_path, reading=GREY)
    assert dataset.validation_images == 30
    order = np.concatenate(
        [np.argsort(digits.train_labels[:80], kind="stable"), 80 + np.argsort(digits.train_labels[80:], kind="stable")]
    )
    np.testing.assert_array_equal(dataset.train_images, digits.train_images[order])
    np.testing.assert_array_equal(dataset.train_labels, digits.train_labels[order])
