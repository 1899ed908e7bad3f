"""Fashion-MNIST, packed or not, and damaged."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ablations.data import load
from ablations.data.datasets import fashion_mnist
from ablations.errors import UsageError
from tests.support.archives import IMAGES, TEN, fashion, idx


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist(tmp_path: Path, zipped: bool, below: str) -> None:
    fashion(tmp_path / below, zipped=zipped)
    dataset = load("fashion-mnist", data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.train_images, IMAGES["train"][:, :28, :28, :1])
    np.testing.assert_array_equal(dataset.test_labels, TEN["test"])
    assert dataset.class_names[9] == "Ankle boot"


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", fashion(tmp_path / "share", zipped=True))
    assert load("fashion-mnist").train_images.shape == (40, 28, 28, 1)


def test_fashion_mnist_of_full_length_needs_the_published_content(tmp_path: Path) -> None:
    root = fashion(tmp_path, zipped=False)
    (root / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(10_000, dtype=np.uint8)))
    with pytest.raises(UsageError, match=r"t10k-labels-idx1-ubyte: MD5 of the content .* has 15d48437"):
        load("fashion-mnist", data_dir=root)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda data: data[:-1],
            "there must be 40 bytes for the shape .* got 39: truncated or damaged; download it again",
        ),
        (lambda data: data + b"x", "there must be 40 bytes for the shape .* got more"),
        (lambda data: b"\x00\x00\x0a" + data[3:], "the header must be IDX"),
        (
            lambda data: b"\x00\x00\x0d" + data[3:8] + bytes(160),
            r"must be uint8 \('n',\), got >f4 \(40,\); download it",
        ),
        (lambda data: data[:5], "the header must be IDX"),
        (
            lambda data: data[:4] + b"\xff" * 4,
            r"4,294,967,295 bytes for the shape .* at most 60,000 are valid; download",
        ),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = fashion(tmp_path, zipped=False) / "train-labels-idx1-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=message) as caught:
        load("fashion-mnist", data_dir=tmp_path)
    assert str(path) in str(caught.value)


def test_damaged_gzip_and_bombs_are_refused(tmp_path: Path) -> None:
    path = fashion(tmp_path, zipped=True) / "train-labels-idx1-ubyte.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(UsageError, match=r"\.gz: damaged or truncated"):
        load("fashion-mnist", data_dir=tmp_path)
    path.write_bytes(gzip.compress(idx(np.zeros(40, dtype=np.uint8)) + bytes(10_000_000)))
    with pytest.raises(UsageError, match=r"\.gz: there must be 40 bytes .* got more"):
        load("fashion-mnist", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match=r"train-labels-idx1-ubyte\[\.gz\]: missing"):
        load("fashion-mnist", data_dir=tmp_path)
