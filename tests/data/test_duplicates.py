"""Images that are alike are found, within and between parts, and others are not."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.config import RunConfig
from ablations.data import Dataset, load
from ablations.data.description import describe_dataset, duplicates_record
from ablations.data.quality import alike
from ablations.data.quality.alike import alike_of
from ablations.data.quality.duplicates import _candidates, find_twins
from ablations.data.quality.remarks import remarks


def scenes(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures (count, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC)) for each in coarse])


def compressed(image: np.ndarray, quality: int = 60) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def planted() -> list[np.ndarray]:
    """Thirty training images and ten test images: exact copies, changed copies, and a copy within each part."""
    train, test = scenes(30), scenes(10, seed=1)
    test[0] = train[4]
    test[1] = compressed(train[5])
    test[2] = (train[6] * 0.8 + 20).astype(np.uint8)  # another contrast
    test[3] = np.asarray(Image.fromarray(train[7]).crop((1, 1, 32, 32)).resize((32, 32), Image.Resampling.BICUBIC))
    train[9] = train[8]
    test[5] = compressed(test[4])
    return [train, test]


def test_planted_copies_are_found_and_nothing_else() -> None:
    twins = find_twins(planted())
    pairs = set(zip(twins.image.tolist(), twins.twin.tolist(), twins.exact.tolist(), strict=True))
    near = {(31, 5, False), (32, 6, False), (33, 7, False), (35, 34, False)}
    assert pairs == {(30, 4, True), (9, 8, True)} | near
    assert twins.between(0, 1).image.tolist() == [30, 31, 32, 33]
    assert twins.between(0, 0).image.tolist() == [9]
    assert twins.between(1, 1).image.tolist() == [35]


def test_each_image_is_named_once_for_each_part() -> None:
    """Of many copies, the first with the same pixels."""
    image = scenes(1)[0]
    parts = [np.stack([image, image, compressed(image)]), np.stack([compressed(image), image, image])]
    twins = find_twins(parts)
    assert list(zip(twins.image.tolist(), twins.twin.tolist(), twins.exact.tolist(), strict=True)) == [
        (1, 0, True),
        (2, 0, False),
        (3, 2, True),
        (4, 0, True),
        (4, 3, False),
        (5, 0, True),
        (5, 4, True),
    ]


def test_shapes_of_other_colours_are_not_alike() -> None:
    """Dark red, green and blue discs on white, which correlate; the same disc in grey or in another light is alike."""
    disc = np.hypot(*np.mgrid[-15.5:16, -15.5:16]) < 9
    red, green, blue = (
        np.where(disc[..., None], colour, (255, 250, 245)).astype(np.uint8)
        for colour in ((100, 30, 30), (30, 90, 30), (30, 30, 110))
    )
    grey = (red.mean(axis=2, keepdims=True) + np.zeros(3)).astype(np.uint8)
    warm = (red * [0.95, 0.9, 0.8]).astype(np.uint8)
    assert find_twins([np.stack([red, green, blue])]).image.tolist() == []
    assert find_twins([np.stack([green, red]), np.stack([grey, warm])]).between(0, 1).image.tolist() == [2, 3]


def test_grey_small_and_flat_images() -> None:
    """Below 16 x 16 pixels, and where there is nothing to see, only the same pixels count."""
    grey = scenes(20)[..., :1]
    copy = np.clip(grey[3:4].astype(int) + 3, 0, 255).astype(np.uint8)
    assert find_twins([grey, copy]).twin.tolist() == [3]
    small = grey[:, ::4, ::4]
    assert find_twins([small, copy[:, ::4, ::4]]).twin.tolist() == []
    assert find_twins([small, small[5:6]]).twin.tolist() == [5]
    flat = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2)
    assert find_twins([flat, flat[2:3] + 1]).twin.tolist() == [3]


def test_images_that_are_all_alike_take_no_longer_than_others() -> None:
    """Each is compared with few neighbours, not with all."""
    hashes = np.zeros(3000, dtype=np.uint64)
    assert sum(len(first) for first, _ in _candidates(hashes)) <= 16 * 100 * 3000


def dataset(train: np.ndarray, test: np.ndarray, **fields: object) -> Dataset:
    labels = np.arange(len(train)) % 2, np.arange(len(test)) % 2
    return Dataset("folder", train, labels[0], test, labels[1], ("cat", "dog"), **fields)  # type: ignore[arg-type]


def test_numbers_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(*planted())
    found = alike_of(data)
    assert found.between("training", "test") == (4, 1)
    assert found.between("training", "training") == (1, 1)
    assert found.between("test", "test") == (1, 0)
    assert found.relabelled == 2
    assert duplicates_record(found) == {
        "training": 1,
        "training, test": 4,
        "test": 1,
        "training, same pixels": 1,
        "training, test, same pixels": 1,
        "other label": 2,
    }
    assert list(remarks(data)) == [
        "4 possible duplicates of training images among 10 test images (1 with the same pixels), such as test image 0 "
        "and training image 4",
        "1 duplicate among 30 training images (1 with the same pixels)",
        "1 possible duplicate among 10 test images (0 with the same pixels)",
        "2 images are like one with another label",
    ]
    named = replace(data, names=[f"{i}.png" for i in range(40)])
    assert next(remarks(named)).endswith("such as 30.png and 4.png")
    monkeypatch.setattr(alike, "find_twins", lambda parts: 1 / 0)
    alike._found.clear()
    assert alike_of(data) == found  # from the cache


def test_a_validation_part_is_a_part() -> None:
    train, test = planted()
    data = dataset(np.concatenate([train, test]), scenes(4, seed=2), validation_images=10)
    assert alike_of(data).between("training", "validation") == (4, 1)
    assert list(data.parts) == ["training", "validation", "test"]
    assert alike_of(data).between("training", "test") == (0, 0)
    described = describe_dataset(data, Path("photos"), RunConfig(data="folder", resize="pad"))
    assert described | {"duplicates": ...} == {
        "name": "photos",
        "train_images": 30,
        "validation_images": 10,
        "test_images": 4,
        "classes": 2,
        "image_size": 32,
        "channels": 3,
        "resize": "pad",
        "class_sizes": {"training": [15, 15], "validation": [5, 5], "test": [2, 2]},
        "duplicates": ...,
    }


def test_skipped_files_and_class_sizes_are_said() -> None:
    train, test = scenes(10), scenes(4, seed=3)
    labels = np.array([0] * 7 + [1] * 3)
    test_labels = np.array([0, 0, 0, 1])
    data = Dataset("folder", train, labels, test, test_labels, ("cat", "dog"), skipped={".txt": 2, "unreadable": 1})
    assert list(remarks(data)) == [
        "skipped 3 files: 2 .txt, 1 unreadable",
        "the classes differ in size, from 3 training images of dog to 7 of cat; the report has balanced accuracy and "
        "macro F1, too",
    ]
    equal = replace(data, test_labels=np.array([0, 0, 1, 1]), skipped={}, fingerprint="")
    assert list(remarks(equal)) == [
        "the classes differ in size, from 3 training images of dog to 7 of cat"  # accuracy is balanced then
    ]


def test_digits_have_no_duplicates() -> None:
    assert duplicates_record(alike_of(load("digits"))) == {}
