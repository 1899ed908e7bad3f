"""Every official format, made small; every way in which a file can be wrong; subsets, splits and fingerprints."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ablations.data import DATASETS, Dataset, cifar, fashion_mnist, folder, load, load_for, split, subsample, subset
from ablations.data.commands import fetch_dataset, list_datasets, sheet, verify_dataset
from ablations.data.contact_sheet import contact_sheet
from ablations.data.fetch import Remote, fetch
from ablations.data.normalisation import statistics
from ablations.data.split import apportion
from ablations.errors import UsageError, VitabError

RANDOM = np.random.default_rng(0)
IMAGES = {part: RANDOM.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for part, n in (("train", 40), ("test", 20))}
FINE = {part: RANDOM.integers(0, 100, len(images)) for part, images in IMAGES.items()}
COARSE = {part: RANDOM.integers(0, 20, len(images)) for part, images in IMAGES.items()}
TEN = {part: RANDOM.integers(0, 10, len(images)) for part, images in IMAGES.items()}
NAMES = {"fine": [f"fine_{i:02}" for i in range(100)], "coarse": [f"coarse_{i:02}" for i in range(20)]}
TEN_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.data.locations.cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("ablations.data.commands.cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "no-debian")


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


# digits


def test_digits_are_the_same_for_ever() -> None:
    digits = load("digits")
    assert digits.train_images.shape == (1400, 8, 8, 1)
    assert digits.test_images.shape == (397, 8, 8, 1)
    assert digits.train_images.max() == 255
    assert np.bincount(digits.test_labels).tolist() == [39, 40, 39, 40, 40, 40, 40, 40, 39, 40]
    assert (digits.image_size, digits.channels, digits.classes) == (8, 1, 10)
    assert digits.fingerprint == "923e31f0140729fe767c98176a68f5ac135f6006fd756bce46b9937c1e81e648"


# CIFAR


@pytest.mark.parametrize("place", ["direct", "below", "archive", "archive in folder"])
@pytest.mark.parametrize("make", [cifar100_binary, cifar100_python])
@pytest.mark.parametrize("labels", ["fine", "coarse"])
def test_cifar100_reads_every_format_from_every_place(
    tmp_path: Path, make: Callable[[Path], Path], place: str, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = cifar.CIFAR100.archives[make is cifar100_python]
    source = make(tmp_path / layout.folder)
    if place == "below":
        data_dir = tmp_path
    elif place == "archive":
        data_dir = packed(source, tmp_path / "mine.tgz")
    elif place == "archive in folder":
        (tmp_path / "downloads").mkdir()
        archive = packed(source, tmp_path / "downloads" / layout.file)
        own = dataclasses.replace(layout, md5=hashlib.md5(archive.read_bytes()).hexdigest())
        monkeypatch.setattr(cifar, "CIFAR100", dataclasses.replace(cifar.CIFAR100, archives=(own,)))
        assert_is_cifar100(cifar.read(cifar.CIFAR100, archive.parent, labels), labels)
        return
    else:
        data_dir = source
    assert_is_cifar100(load("cifar100", data_dir=data_dir, labels=labels), labels)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_python_archives_of_any_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    assert_is_cifar100(load("cifar100", data_dir=cifar100_python(tmp_path, protocol)))


def python2(value: Any) -> bytes:
    """The opcodes by which Python 2 and its NumPy wrote the published files."""
    if isinstance(value, dict):
        return b"}" + b"".join(python2(key) + python2(item) + b"s" for key, item in value.items())
    if isinstance(value, list):
        return b"](" + b"".join(python2(item) for item in value) + b"e"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little", signed=True)
    raw = value.tobytes()
    dtype = b"cnumpy\ndtype\n" + b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * python2(-1) + b"K\x00tb"
    shape = b"".join(python2(n) for n in value.shape) + b"\x86"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return empty + b"(K\x01" + shape + dtype + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"


def test_python_archives_as_python_2_wrote_them(tmp_path: Path) -> None:
    for part in IMAGES:
        batch = {
            "filenames": ["altar_boy_s_001435.png"] * len(IMAGES[part]),
            "batch_label": "training batch 1 of 1",
            "fine_labels": FINE[part].tolist(),
            "coarse_labels": COARSE[part].tolist(),
            "data": planes(IMAGES[part]),
        }
        (tmp_path / part).write_bytes(b"\x80\x02" + python2(batch) + b".")
    meta = {f"{kind}_label_names": names for kind, names in NAMES.items()}
    (tmp_path / "meta").write_bytes(b"\x80\x02" + python2(meta) + b".")
    assert pickle.loads((tmp_path / "meta").read_bytes()) == meta
    assert_is_cifar100(load("cifar100", data_dir=tmp_path))


def test_column_major_arrays_are_read_as_they_were(tmp_path: Path) -> None:
    root = cifar100_python(tmp_path)
    batch = pickle.loads((root / "train").read_bytes())
    batch["data"] = np.asfortranarray(batch["data"])
    (root / "train").write_bytes(pickle.dumps(batch, protocol=2))
    assert_is_cifar100(load("cifar100", data_dir=root))


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("archive", [False, True])
def test_cifar10(tmp_path: Path, python: bool, archive: bool) -> None:
    source = cifar10(tmp_path / "mine", python=python)
    dataset = load("cifar10", data_dir=packed(source, tmp_path / "mine.tar.gz") if archive else source)
    np.testing.assert_array_equal(dataset.train_images, IMAGES["train"])
    np.testing.assert_array_equal(dataset.train_labels, TEN["train"])
    np.testing.assert_array_equal(dataset.test_labels, TEN["test"])
    assert dataset.class_names == tuple(TEN_NAMES)


def test_formats_of_the_same_data_have_the_same_fingerprint(tmp_path: Path) -> None:
    binary = load("cifar100", data_dir=cifar100_binary(tmp_path / "binary"))
    python = load("cifar100", data_dir=cifar100_python(tmp_path / "python"))
    assert binary.fingerprint == python.fingerprint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], r"train\.bin: .* no whole number of 3,074-byte records: cut short"),
        (lambda data: data + b"x", r"train\.bin: .* no whole number"),
        (lambda data: b"", r"train\.bin: 0 images"),
        (lambda data: bytes([20]) + data[1:], r"train\.bin: coarse labels are \d+ to 20; valid: 0 to 19"),
        (lambda data: data[:1] + bytes([100]) + data[2:], r"train\.bin: fine labels .* valid: 0 to 99"),
    ],
)
def test_damaged_binary_files_are_named(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = cifar100_binary(tmp_path) / "train.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=message):
        load("cifar100", data_dir=tmp_path)


def test_oversized_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    root = cifar100_binary(tmp_path)
    with (root / "test.bin").open("r+b") as file:
        file.truncate(10_001 * 3074)
    with pytest.raises(UsageError, match=r"test\.bin: 30,743,074 bytes, the published file has at most 30,740,000"):
        load("cifar100", data_dir=root)


def test_missing_files_and_names_are_named(tmp_path: Path) -> None:
    root = cifar100_binary(tmp_path)
    (root / "fine_label_names.txt").write_text("one\ntwo\n")
    with pytest.raises(UsageError, match=r"fine_label_names\.txt: 2 different class names; valid: 100"):
        load("cifar100", data_dir=root)
    (root / "test.bin").unlink()
    with pytest.raises(UsageError, match=r"test\.bin missing; valid: the files of cifar-100-binary\.tar\.gz"):
        load("cifar100", data_dir=root)


def test_an_official_archive_needs_the_official_checksum(tmp_path: Path) -> None:
    archive = packed(cifar100_binary(tmp_path / "source"), tmp_path / "cifar-100-binary.tar.gz")
    for data_dir in (archive, tmp_path):
        with pytest.raises(UsageError, match=r"MD5 is \w{32}, the published cifar-100-binary.tar.gz has 03b5dce0"):
            load("cifar100", data_dir=data_dir)
    archive.rename(tmp_path / "mine.tar.gz")
    assert_is_cifar100(load("cifar100", data_dir=tmp_path / "mine.tar.gz"))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_archives_are_refused(tmp_path: Path, keep: float) -> None:
    archive = packed(cifar100_binary(tmp_path / "source"), tmp_path / "mine.tar.gz")
    data = archive.read_bytes()
    archive.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(UsageError, match=r"mine\.tar\.gz: damaged or cut short"):
        load("cifar100", data_dir=archive)


def test_links_in_an_archive_reach_nothing(tmp_path: Path) -> None:
    source = cifar100_binary(tmp_path / "source")
    secret = tmp_path / "secret"
    (source / "test.bin").rename(secret)
    with tarfile.open(tmp_path / "mine.tar", "w") as tar:
        tar.add(source, arcname="cifar")
        link = tarfile.TarInfo("cifar/test.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    with pytest.raises(UsageError, match=r"test\.bin missing"):
        load("cifar100", data_dir=tmp_path / "mine.tar")


class Runs:
    """Pickles to a call of any callable."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call[0], self.call[1:]


def hostile(target: Path) -> Iterator[tuple[str, bytes]]:
    yield "os.mkdir", pickle.dumps({"data": Runs(os.mkdir, str(target))})
    yield "builtins.eval", pickle.dumps({"data": Runs(eval, f"__import__('os').mkdir({str(target)!r})")})
    yield "numpy.load", b"cnumpy\nload\n(V" + str(target).encode() + b"\ntR."
    yield "numpy.ndarray.tofile", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    yield "a change of _reconstruct", b"cnumpy.core.multiarray\n_reconstruct\n}V__call__\nI1\nsb."
    yield "a call of ndarray", b"cnumpy\nndarray\n((I9\ntI1\ntR."
    yield "something other than numbers", pickle.dumps({"data": np.array([None], dtype=object)}, protocol=2)


@pytest.mark.parametrize("case", range(7))
@pytest.mark.parametrize("file", ["train", "meta"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, case: int, file: str) -> None:
    target = tmp_path / "made-by-the-pickle"
    asked, data = list(hostile(target))[case]
    root = cifar100_python(tmp_path / "data")
    (root / file).write_bytes(data)
    with pytest.raises(UsageError, match=rf"{file}: not a readable CIFAR python file \(.*\); fetch") as caught:
        load("cifar100", data_dir=root)
    assert not target.exists()
    assert asked in str(caught.value).replace("posix.", "os.")
    assert_is_cifar100(load("cifar100", data_dir=cifar100_python(tmp_path / "good")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": planes(IMAGES["train"])[:, :-1]}, r"'data' is u1 \(40, 3071\)"),
        ({"data": planes(IMAGES["train"]).astype(np.int16)}, "'data' is i2"),
        ({"data": [1, 2]}, "'data' is no array"),
        ({"data": planes(IMAGES["train"])[:-1]}, "40 coarse_labels for 39 images"),
        ({"fine_labels": ["a"] * 40}, "'fine_labels' is no list of integers"),
        ({"fine_labels": [100] * 40}, "fine labels are 100 to 100; valid: 0 to 99"),
        ({"fine_labels": None}, "'fine_labels' is no list of integers"),
    ],
)
def test_wrong_python_batches_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    root = cifar100_python(tmp_path)
    batch = pickle.loads((root / "train").read_bytes())
    (root / "train").write_bytes(pickle.dumps(batch | change, protocol=2))
    with pytest.raises(UsageError, match=message) as caught:
        load("cifar100", data_dir=root)
    assert str(root / "train") in str(caught.value)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_truncated_pickle_is_refused(tmp_path: Path, cut: int) -> None:
    path = cifar100_python(tmp_path) / "train"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UsageError, match=r"train: not a readable CIFAR python file"):
        load("cifar100", data_dir=tmp_path)


# Fashion-MNIST


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
        (lambda data: data[:-1], "its header promises 48 for .* cut short"),
        (lambda data: data + b"x", "its header promises 48"),
        (lambda data: b"\x00\x00\x0d" + data[3:], "no IDX header"),
        (lambda data: data[:5], "no IDX header"),
        (lambda data: data + bytes(10_000), "more than the 60,008 bytes|promises"),
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
    with pytest.raises(UsageError, match=r"\.gz: damaged or cut short"):
        load("fashion-mnist", data_dir=tmp_path)
    path.write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(UsageError, match=r"\.gz: more than the 60,008 bytes"):
        load("fashion-mnist", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match=r"train-labels-idx1-ubyte\[\.gz\]: missing"):
        load("fashion-mnist", data_dir=tmp_path)


# folder


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    pictures(tmp_path / "train", {"cat": 3, "dog": 4})
    pictures(tmp_path / "test", {"cat": 1, "dog": 2})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("not a picture")
    dataset = load("folder", data_dir=tmp_path)
    assert dataset.train_images.shape == (7, 32, 32, 3)
    assert dataset.train_labels.tolist() == [0] * 3 + [1] * 4
    assert dataset.test_labels.tolist() == [0, 1, 1]
    assert dataset.class_names == ("cat", "dog")
    np.testing.assert_allclose(dataset.test_images[1, :, :, 0], 40, atol=4)


def test_folder_splits_a_single_tree_by_name_and_seed(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 10, "dog": 5})
    first, again = load("folder", data_dir=tmp_path), load("folder", data_dir=tmp_path)
    assert np.bincount(first.test_labels).tolist() == [2, 1]
    assert np.bincount(first.train_labels).tolist() == [8, 4]
    assert first.fingerprint == again.fingerprint
    assert {folder.read(tmp_path, seed=seed).fingerprint for seed in range(4)} > {first.fingerprint}


def test_folder_turns_cuts_resizes_and_flattens(tmp_path: Path) -> None:
    pictures(tmp_path / "train", {"a": 1, "b": 1})
    pictures(tmp_path / "test", {"a": 1, "b": 1})
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, 20:60] = 255
    wide[:20, 20:60, 0] = 0
    turned = Image.fromarray(np.rot90(wide).copy())
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "train" / "a" / "0.png", exif=exif)
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "train" / "b" / "0.png")
    (tmp_path / "train" / "a" / "0.JPG").unlink()
    (tmp_path / "train" / "b" / "0.JPG").unlink()
    upright, clear = load("folder", data_dir=tmp_path).train_images
    assert (upright[:13, 1:-1] == (0, 255, 255)).all()
    assert (upright[19:, 1:-1] == 255).all()
    assert (clear == 255).all()


def test_folder_refuses_what_it_cannot_read_by_name(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 3, "dog": 3})
    bad = tmp_path / "dog" / "bad.png"
    whole = (tmp_path / "dog" / "1.png").read_bytes()
    sixteen = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(sixteen, "PNG")
    for content in (b"no picture", b"", whole[: len(whole) // 2], sixteen.getvalue()):
        bad.write_bytes(content)
        with pytest.raises(UsageError, match=r"dog.bad\.png: no readable picture .*; mend or remove it"):
            load("folder", data_dir=tmp_path)


def test_folder_refuses_huge_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, {"cat": 3, "dog": 3})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(UsageError, match=r"no readable picture .*decompression bomb"):
        load("folder", data_dir=tmp_path)


def test_folder_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no --data-dir given"):
        load("folder")
    with pytest.raises(UsageError, match="0 class folders; valid: at least 2"):
        load("folder", data_dir=tmp_path)
    pictures(tmp_path, {"cat": 1, "dog": 3})
    with pytest.raises(UsageError, match="a class has a single picture"):
        load("folder", data_dir=tmp_path)
    (tmp_path / "cow").mkdir()
    with pytest.raises(UsageError, match="cow: no PNG or JPEG in it"):
        load("folder", data_dir=tmp_path)
    pictures(tmp_path / "two" / "train", {"cat": 1, "dog": 1})
    pictures(tmp_path / "two" / "test", {"cat": 1, "cow": 1})
    with pytest.raises(UsageError, match="classes cow, dog are in only one of train/ and test/"):
        load("folder", data_dir=tmp_path / "two")


# load, subset, split


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_a_missing_data_set_says_where_and_what_to_do(name: str, tmp_path: Path) -> None:
    for data_dir, where in ((None, tmp_path / "cache" / name), (tmp_path, tmp_path)):
        with pytest.raises(UsageError) as caught:
            load(name, data_dir=data_dir)
        line = str(caught.value)
        assert f"not found in {where} " in line
        assert f"`vitab data fetch {name}` or give --data-dir" in line
        assert "\n" not in line
    with pytest.raises(UsageError, match="nowhere does not exist"):
        load(name, data_dir=tmp_path / "nowhere")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"data: 'cifar-100' given; did you mean 'cifar100'\? valid: digits, "):
        load("cifar-100")
    with pytest.raises(UsageError, match=r"labels: 'coarse' given; valid for digits: fine"):
        load("digits", labels="coarse")


def test_load_for_reads_what_the_run_says() -> None:
    config = SimpleNamespace(data="digits", labels="fine", classes=3, per_class=5)
    assert load_for(config).fingerprint == load("digits", classes=3, per_class=5).fingerprint  # type: ignore[arg-type]


def test_classes_are_the_first_or_the_named_in_the_data_sets_order() -> None:
    whole = load("digits")
    three = subset(whole, classes=3)
    assert three.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(three.test_images, whole.test_images[whole.test_labels < 3])
    assert three.fingerprint == subset(whole, classes=("2", "0", "1")).fingerprint
    odd = subset(whole, classes=("9", "4"))
    assert odd.class_names == ("4", "9")
    np.testing.assert_array_equal(odd.train_images[odd.train_labels == 1], whole.train_images[whole.train_labels == 9])
    assert subset(whole, classes=10).fingerprint == whole.fingerprint


def test_per_class_is_nested_balanced_and_leaves_the_test_part() -> None:
    whole = load("digits")
    few, more = subset(whole, per_class=10), subset(whole, per_class=20)
    assert np.bincount(few.train_labels).tolist() == [10] * 10
    held = {image.tobytes() for image in more.train_images}
    assert all(image.tobytes() in held for image in few.train_images)
    assert few.test_images is whole.test_images
    assert few.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"classes": 11}, "classes: 11 given; valid for digits: 2 to 10"),
        ({"classes": 1}, "classes: 1 given"),
        ({"classes": True}, "classes: True given"),
        ({"classes": ("1",)}, "valid: at least 2 classes"),
        ({"classes": ("1", "1")}, "'1' is given 2 times"),
        ({"classes": ("1", "one")}, r"digits has no class 'one'; valid: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ({"classes": ("1", "33")}, r"no class '33'; did you mean '3'\?"),
        ({"per_class": 136}, r"per_class: 136 given; valid: 1 to 135 \(the training images of '8'"),
        ({"per_class": 0}, "per_class: 0 given"),
    ],
)
def test_impossible_subsets_are_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load("digits", **choice)


def test_split_is_stratified_seeded_and_complete() -> None:
    labels = load("digits").train_labels
    train, validation = split(labels, 0.15, seed=0)
    assert len(validation) == 210
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(1400))
    assert np.ptp(np.bincount(labels[validation])) <= 2
    np.testing.assert_array_equal(validation, split(labels, 0.15, seed=0)[1])
    assert set(validation) != set(split(labels, 0.15, seed=1)[1])
    assert len(split(labels, 0.0, seed=0)[1]) == 0
    for fraction in (1.0, -0.1):
        with pytest.raises(UsageError, match="validation: "):
            split(labels, fraction, seed=0)


def test_subsample_is_a_nested_stratified_share() -> None:
    labels = load("digits").train_labels
    tenth, fifth = subsample(labels, 0.1, seed=0), subsample(labels, 0.2, seed=0)
    assert (len(tenth), len(fifth)) == (140, 280)
    assert set(tenth) < set(fifth)
    assert np.bincount(labels[subsample(labels, 0.001, seed=0)]).tolist() == [1] * 10
    np.testing.assert_array_equal(subsample(labels, 1.0, seed=0), np.arange(1400))
    with pytest.raises(UsageError, match="data_fraction: 0"):
        subsample(labels, 0, seed=0)


def test_apportion_by_the_largest_remainder() -> None:
    assert apportion(np.array([53, 24, 23]), 10).tolist() == [5, 3, 2]
    assert apportion(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]
    assert apportion(np.array([1, 99]), 99).tolist() == [1, 98]
    assert apportion(np.array([1, 99]), 2, at_least=1).tolist() == [1, 1]
    assert apportion(np.array([2, 0, 8]), 10, at_least=1).tolist() == [2, 0, 8]
    assert apportion(np.array([4, 3]), 1, at_least=1).tolist() == [1, 1]
    assert apportion(np.array([4, 3]), 9).tolist() == [4, 3]


def test_a_fingerprint_is_of_pixels_labels_and_names_only() -> None:
    base = load("digits")

    def changed(**changes: Any) -> str:
        fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base) if f.init}
        return Dataset(**(fields | changes)).fingerprint

    pixels = base.test_images.copy()
    pixels[0, 0, 0, 0] ^= 1
    labels = base.train_labels.copy()
    labels[0] = (labels[0] + 1) % 10
    prints = [changed(), changed(test_images=pixels), changed(train_labels=labels)]
    prints.append(changed(class_names=(*base.class_names[:9], "nine")))
    assert len(set(prints)) == 4
    assert changed(name="other") == base.fingerprint


def test_a_data_set_checks_its_arrays() -> None:
    base = load("digits")
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base) if f.init}
    for change, message in (
        ({"train_images": base.train_images.astype(np.float32)}, "digits: train images are float32"),
        ({"train_labels": base.train_labels[:-1]}, r"train labels are int64 \(1399,\); valid: int64 \(1400,\)"),
        ({"class_names": ("a", "b")}, "train labels are 0 to 9; valid: 0 to 1"),
        ({"test_images": base.test_images[:, :4, :4]}, "training images are .* valid: the same"),
        ({"test_images": base.test_images[:0], "test_labels": base.test_labels[:0]}, "test part is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            Dataset(**(fields | change))


def test_statistics_are_exact() -> None:
    images = IMAGES["train"]
    mean, std = statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-6)
    assert (mean.dtype, std.dtype) == (np.float32, np.float32)
    assert statistics(np.full((2, 4, 4, 1), 51, dtype=np.uint8)) == (np.float32(0.2), 1)


# fetch


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; can break off, and can ignore ranges."""

    content = bytes(RANDOM.integers(0, 256, 3_000_000, dtype=np.uint8))
    break_after: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        content = self.server.content
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.break_after])

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def remote(server: Server, content: bytes | None = None) -> Remote:
    md5 = hashlib.md5(server.content if content is None else content).hexdigest()
    return Remote(f"http://127.0.0.1:{server.server_port}/some.bin", md5)


def test_fetch_brings_a_file_once_and_reports(tmp_path: Path, server: Server) -> None:
    seen: list[tuple[str, int, int | None]] = []
    (path,) = fetch([remote(server)], tmp_path / "new", lambda *progress: seen.append(progress))
    assert path.read_bytes() == server.content
    assert seen[-1] == ("some.bin", 3_000_000, 3_000_000)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    fetch([remote(server)], tmp_path / "new")
    assert server.asked == [None]
    assert [p.name for p in path.parent.iterdir()] == ["some.bin"]


def test_fetch_resumes_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.break_after = 1_234_567
    with pytest.raises(VitabError, match=r"closed after 1,234,567 of 3,000,000 bytes; run the same command again"):
        fetch([remote(server)], tmp_path)
    assert not (tmp_path / "some.bin").exists()
    server.break_after = None
    (path,) = fetch([remote(server)], tmp_path)
    assert path.read_bytes() == server.content
    assert server.asked == [None, "bytes=1234567-"]


@pytest.mark.parametrize("have", [1000, 3_000_000, 3_000_001])
@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_copes_with_any_part_and_any_server(tmp_path: Path, server: Server, have: int, ranges: bool) -> None:
    server.ranges = ranges
    (tmp_path / "some.bin.part").write_bytes((server.content + b"x")[:have])
    (path,) = fetch([remote(server)], tmp_path)
    assert path.read_bytes() == server.content


def test_fetch_refuses_a_wrong_checksum_and_starts_afresh(tmp_path: Path, server: Server) -> None:
    with pytest.raises(VitabError, match=r"another checksum than the published MD5 .* run the same command again"):
        fetch([remote(server, b"other")], tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "some.bin").write_bytes(b"old")
    assert fetch([remote(server)], tmp_path)[0].read_bytes() == server.content


def test_fetch_says_why_it_could_not(tmp_path: Path) -> None:
    with pytest.raises(VitabError, match=r"http://127\.0\.0\.1:9/x: .*refused.*or put the file into"):
        fetch([Remote("http://127.0.0.1:9/x", "0" * 32)], tmp_path)


# commands


def test_list_and_verify(tmp_path: Path) -> None:
    cifar100_binary(tmp_path / "cifar-100-binary")
    listed = {item.info.name: item.where for item in list_datasets(tmp_path)}
    assert list(listed) == list(DATASETS) == ["digits", "cifar10", "cifar100", "fashion-mnist", "folder"]
    assert listed["cifar100"] == tmp_path / "cifar-100-binary"
    assert listed["cifar10"] is None
    assert listed["folder"] is None
    found = verify_dataset("cifar100", tmp_path, labels="coarse")
    assert (found.train_images, found.test_images, found.classes, found.image_size) == (40, 20, 20, 32)
    assert found.where == listed["cifar100"]


def test_fetch_dataset(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'digits' needs no download .*valid: cifar10, cifar100, fashion-mnist"):
        fetch_dataset("digits")
    info = dataclasses.replace(DATASETS["cifar100"], remotes=(remote(server),))
    monkeypatch.setitem(DATASETS, "cifar100", info)
    assert fetch_dataset("cifar100") == [tmp_path / "cache" / "cifar100" / "some.bin"]


def test_remotes_are_the_official_files() -> None:
    assert DATASETS["cifar100"].remotes == (
        Remote("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    )
    assert [r.file for r in DATASETS["fashion-mnist"].remotes] == [f"{f.name}.gz" for f in fashion_mnist.FILES]
    assert all(r.url.startswith("https://") for info in DATASETS.values() for r in info.remotes)


def test_contact_sheet_shows_the_pixels(tmp_path: Path) -> None:
    digits = load("digits")
    page = np.asarray(contact_sheet(digits, samples=3))
    assert page.ndim == 3
    block = np.repeat(np.repeat(digits.train_images[digits.train_labels == 0, :, :, 0], 7, 1), 7, 2)
    windows = np.lib.stride_tricks.sliding_window_view(page[..., 0], (56, 56))
    row = windows[92, 28:]
    assert sum(any(np.array_equal(window, image) for image in block) for window in row[:200]) == 3
    np.testing.assert_array_equal(page, np.asarray(contact_sheet(digits, samples=3)))
    assert sheet("digits", tmp_path / "a.png", samples=2) == tmp_path / "a.png"
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.format == "PNG"


def test_contact_sheet_refuses_bad_requests(tmp_path: Path) -> None:
    for out, message in (("a.jpg", "ends in .png"), ("no/a.png", "cannot be written")):
        with pytest.raises(UsageError, match=message):
            sheet("digits", tmp_path / out)
    with pytest.raises(UsageError, match="samples: 0 given"):
        sheet("digits", tmp_path / "a.png", samples=0)


# the real thing, where it lies


@pytest.fixture(scope="module")
def real_cifar100() -> tuple[Dataset, float]:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("VITAB_DATA", default))
    if not (root / "cifar-100-binary" / "train.bin").is_file():
        pytest.skip(f"no cifar-100-binary in {root}; set VITAB_DATA to the folder that holds it")
    start = time.process_time()
    dataset = load("cifar100", data_dir=root)
    return dataset, time.process_time() - start


def test_the_real_cifar100(real_cifar100: tuple[Dataset, float]) -> None:
    dataset, seconds = real_cifar100
    assert seconds < 3
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [500] * 100
    assert np.bincount(dataset.test_labels).tolist() == [100] * 100
    assert dataset.class_names[:2] == ("apple", "aquarium_fish")
    mean, std = statistics(dataset.train_images)
    np.testing.assert_allclose(mean, [0.5071, 0.4865, 0.4409], atol=5e-5)
    np.testing.assert_allclose(std, [0.2673, 0.2564, 0.2762], atol=5e-5)
    twenty = subset(dataset, classes=20)
    assert (len(twenty.train_labels), len(twenty.test_labels)) == (10_000, 2_000)


def test_the_reordered_copys_fingerprint(real_cifar100: tuple[Dataset, float]) -> None:
    if "VITAB_DATA" in os.environ:
        pytest.skip("the fingerprint is of the copy in shared/data; VITAB_DATA may hold the official order")
    expected = "71135ac6d636f0b8077bd28f1975aceeedb97639234fde5c13f083812220077b"
    assert real_cifar100[0].fingerprint == expected
