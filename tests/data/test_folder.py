"""Pictures of one's own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.data import load
from ablations.errors import UsageError
from tests.support.archives import pictures


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


def test_folder_splits_a_single_tree_by_name(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 10, "dog": 5})
    first, again = load("folder", data_dir=tmp_path), load("folder", data_dir=tmp_path)
    assert np.bincount(first.test_labels).tolist() == [2, 1]
    assert np.bincount(first.train_labels).tolist() == [8, 4]
    assert first.fingerprint == again.fingerprint


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
    for content in (b"no picture", b"", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(UsageError, match=r"dog.bad\.png \(.*\); fix or remove it"):
            load("folder", data_dir=tmp_path)


def test_folder_refuses_huge_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, {"cat": 3, "dog": 3})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(UsageError, match=r"decompression bomb"):
        load("folder", data_dir=tmp_path)
