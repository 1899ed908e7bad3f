"""CIFAR in every official format, and every way in which a file can be wrong."""

import dataclasses
import hashlib
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.data import load
from ablations.data.datasets import cifar
from ablations.errors import UsageError
from tests.support.archives import (
    COARSE,
    FINE,
    IMAGES,
    NAMES,
    TEN,
    TEN_NAMES,
    assert_is_cifar100,
    cifar10,
    cifar100_binary,
    cifar100_python,
    packed,
    planes,
)


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


def test_a_byte_order_mark_is_no_part_of_a_class_name(tmp_path: Path) -> None:
    source = cifar10(tmp_path, python=False)
    names = source / "batches.meta.txt"
    names.write_text(names.read_text(), encoding="utf-8-sig")
    assert load("cifar10", data_dir=source).class_names == tuple(TEN_NAMES)


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
        (lambda data: data[:-1], r"train\.bin: .* must be a multiple of 3,074 bytes, got 122,959: truncated"),
        (lambda data: data + b"x", r"train\.bin: .* must be a multiple of 3,074 bytes, got 122,961"),
        (lambda data: b"", r"train\.bin must have 1 to 50,000 images, got 0"),
        (lambda data: bytes([20]) + data[1:], r"train\.bin: coarse labels must be 0 to 19, got \d+ to 20"),
        (lambda data: data[:1] + bytes([100]) + data[2:], r"train\.bin: fine labels must be 0 to 99, got"),
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
    with pytest.raises(UsageError, match=r"fine_label_names\.txt must have 100 different class names, got 2"):
        load("cifar100", data_dir=root)
    (root / "test.bin").unlink()
    with pytest.raises(
        UsageError, match=r"must contain all files of the published cifar-100-binary\.tar\.gz; missing: test\.bin"
    ):
        load("cifar100", data_dir=root)


def test_an_official_archive_needs_the_official_checksum(tmp_path: Path) -> None:
    archive = packed(cifar100_binary(tmp_path / "source"), tmp_path / "cifar-100-binary.tar.gz")
    for data_dir in (archive, tmp_path):
        with pytest.raises(
            UsageError, match=r"MD5 must be 03b5dce0\w{24} \(published cifar-100-binary.tar.gz\), got \w{32}"
        ):
            load("cifar100", data_dir=data_dir)
    archive.rename(tmp_path / "mine.tar.gz")
    assert_is_cifar100(load("cifar100", data_dir=tmp_path / "mine.tar.gz"))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_archives_are_refused(tmp_path: Path, keep: float) -> None:
    archive = packed(cifar100_binary(tmp_path / "source"), tmp_path / "mine.tar.gz")
    data = archive.read_bytes()
    archive.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(UsageError, match=r"mine\.tar\.gz: damaged or truncated"):
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
    with pytest.raises(UsageError, match=r"missing: test\.bin"):
        load("cifar100", data_dir=tmp_path / "mine.tar")
