"""What `vitab data` rests on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.config import run_config
from ablations.data import DATASETS, load
from ablations.data.catalog import fetch_dataset, list_datasets, sheet, verify_dataset
from ablations.data.contact_sheet import contact_sheet
from ablations.data.datasets import fashion_mnist
from ablations.data.datasets.fetch import Remote
from ablations.errors import UsageError
from tests.support.archives import (
    cifar100_binary,
)
from tests.support.served import Server, remote


def test_list_and_verify(tmp_path: Path) -> None:
    cifar100_binary(tmp_path / "cifar-100-binary")
    listed = {item.info.name: item.where for item in list_datasets(tmp_path)}
    assert list(listed) == list(DATASETS) == list(run_config.DATASETS)
    assert listed["cifar100"] == tmp_path / "cifar-100-binary"
    assert listed["cifar10"] is None
    assert listed["folder"] is None
    found = verify_dataset("cifar100", tmp_path, labels="coarse")
    assert (found.train_images, found.test_images, found.classes, found.image_size) == (40, 20, 20, 32)
    assert found.where == listed["cifar100"]


def test_fetch_dataset(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError, match=r"must be one of cifar10, cifar100, fashion-mnist to be downloaded, got 'digits'"
    ):
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
    for out, message in (("a.jpg", "end in .png"), ("no/a.png", "cannot write ")):
        with pytest.raises(UsageError, match=message):
            sheet("digits", tmp_path / out)
    with pytest.raises(UsageError, match=r"samples must be .*, got 0"):
        sheet("digits", tmp_path / "a.png", samples=0)
