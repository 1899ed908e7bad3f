"""MNIST's four files, gzipped or not, and files like them."""

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ablations.data import load
from ablations.data.sources import divide, find_source, open_source
from ablations.errors import UsageError
from tests.support.archives import idx

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 6, 6), dtype=np.uint8)
LABELS = (np.arange(16) % 3).astype(np.uint8)
MNIST = ("train-{}-idx3-ubyte", "train-{}-idx1-ubyte", "t10k-{}-idx3-ubyte", "t10k-{}-idx1-ubyte")


def mnist(root: Path, zipped: bool = False, names: tuple[str, ...] = MNIST) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        of_part = slice(0, 10) if i < 2 else slice(10, 16)
        data = idx(IMAGES[of_part] if i % 2 == 0 else LABELS[of_part])
        path = root / (name.format("labels" if i % 2 else "images") + ".gz" * zipped)
        path.write_bytes(gzip.compress(data) if zipped else data)
    return root


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
@pytest.mark.parametrize(
    "names",
    [
        MNIST,
        ("train-{}.idx3-ubyte", "train-{}.idx1-ubyte", "t10k-{}.idx3-ubyte", "t10k-{}.idx1-ubyte"),
        tuple(f"emnist-letters-{part}-{{}}-idx{axes}-ubyte" for part in ("train", "test") for axes in (3, 1)),
    ],
    ids=lambda names: names[0],
)
def test_mnist(tmp_path: Path, zipped: bool, below: str, names: tuple[str, ...]) -> None:
    mnist(tmp_path / below, zipped, names)
    source = open_source("idx", tmp_path)
    assert sorted(source.parts.tolist()) == ["test"] * 6 + ["train"] * 10
    test = source.parts == "test"
    np.testing.assert_array_equal(source.labels[test], LABELS[10:])
    for part, images in (("train", IMAGES[:10]), ("test", IMAGES[10:])):
        read = [source.read(int(i)) for i in np.flatnonzero(source.parts == part)]
        np.testing.assert_array_equal(read, images)
    assert source.class_names == ("0", "1", "2")
    assert find_source("idx", tmp_path) == tmp_path
    assert len(set(source.names)) == 16


def test_one_part_gives_up_a_fifth_and_other_types_are_read(tmp_path: Path) -> None:
    images = (IMAGES[:, None, :, :, None] * np.ones(3)).astype(">f4")[:, 0]
    (tmp_path / "train-images").write_bytes(
        bytes((0, 0, 13, 4)) + np.array(images.shape, dtype=">u4").tobytes() + images.tobytes()
    )
    (tmp_path / "train-labels").write_bytes(idx(LABELS + 1))
    source = open_source("idx", tmp_path)
    image = source.read(3)
    assert isinstance(image, np.ndarray)
    assert (image.shape, image.dtype) == ((6, 6, 3), np.float32)
    np.testing.assert_array_equal(image[..., 1], IMAGES[3])
    assert source.class_names == ("1", "2", "3")
    assert (divide(source).parts == "test").sum() == 3


def test_a_plain_file_comes_before_its_archive(tmp_path: Path) -> None:
    mnist(mnist(tmp_path, True))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"")
    assert len(open_source("idx", tmp_path)) == 16


def test_fashion_mnist_and_mnist_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(10_000, dtype=np.uint8)))
    for part in ("train-images-idx3", "t10k-images-idx3"):
        (tmp_path / f"{part}-ubyte").write_bytes(idx(np.zeros((1, 28, 28), dtype=np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(1, dtype=np.uint8)))
    with pytest.raises(UsageError, match="MNIST has files of these names: --data idx"):
        load("fashion-mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-labels-idx1-ubyte", None, "t10k-images-idx3-ubyte: the labels of the test part are missing beside it"),
        ("t10k-labels-idx1-ubyte", idx(LABELS), "t10k-images-idx3-ubyte: 6 images, but 16 labels in t10k-labels"),
        ("train-labels-idx1-ubyte", idx(LABELS[:10])[:-1], "there must be 10 bytes for the shape .* got 9: truncated"),
        ("train-labels-idx1-ubyte", idx(LABELS[:10]) + b"x", "there must be 10 bytes .* got more: truncated"),
        ("train-labels-idx1-ubyte", b"\x00\x00\x08", "train-labels-idx1-ubyte: the header must be IDX"),
        ("train-labels-idx1-ubyte", idx(IMAGES), r"labels must be whole numbers \(n,\), got uint8 \(16, 6, 6\)"),
        ("train-images-idx3-ubyte", idx(LABELS), r"images must be \(n, height, width\) .* got \(16,\)"),
        ("emnist-test-images-idx3-ubyte", idx(IMAGES), r"more than one dataset \(emnist-\*, \*\); give each a folder"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    mnist(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        open_source("idx", tmp_path)
    assert "\n" not in str(caught.value)


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--data-dir must be a folder with train-images-idx3-ubyte, .* got "):
        open_source("idx", tmp_path)
    assert find_source("idx", tmp_path) is None


def test_a_truncated_archive_fails_where_it_ends(tmp_path: Path) -> None:
    mnist(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-60])
    source = open_source("idx", tmp_path)
    last = source.names.index("train-images-idx3-ubyte.gz[9]")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz: damaged or truncated"):
            source.read(last)
    np.testing.assert_array_equal(source.read(source.names.index("train-images-idx3-ubyte.gz[0]")), IMAGES[0])


def test_files_are_read_without_being_in_memory(tmp_path: Path) -> None:
    images = np.zeros((4096, 64, 64), dtype=np.uint8)
    (tmp_path / "train-images.gz").write_bytes(gzip.compress(idx(images), 1))
    (tmp_path / "train-labels").write_bytes(idx((np.arange(4096) % 2).astype(np.uint8)))
    tracemalloc.start()
    open_source("idx", tmp_path).read(4095)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes / 4
