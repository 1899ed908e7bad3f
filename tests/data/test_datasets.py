"""Loading by name, subsets, splits, fingerprints."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.data import Dataset, load, load_for, split, subsample, subset
from ablations.data.normalisation import statistics
from ablations.data.split import apportion
from ablations.errors import UsageError
from tests.support.archives import (
    IMAGES,
)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_a_missing_data_set_says_where_and_what_to_do(name: str, tmp_path: Path) -> None:
    for data_dir, where in ((None, tmp_path / "cache" / name), (tmp_path, tmp_path)):
        with pytest.raises(UsageError) as caught:
            load(name, data_dir=data_dir)
        line = str(caught.value)
        assert f"not found in {where} " in line
        assert f"`vitab data fetch {name}` or give --data-dir" in line
        assert "\n" not in line
    with pytest.raises(UsageError, match="nowhere, which does not exist"):
        load(name, data_dir=tmp_path / "nowhere")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown dataset 'cifar-100' \(did you mean 'cifar100'\?\); valid: digits, "):
        load("cifar-100")
    with pytest.raises(UsageError, match=r"labels must be one of fine for digits, got 'coarse'"):
        load("digits", labels="coarse")


def test_load_for_reads_what_the_run_says() -> None:
    config = RunConfig(data="digits", classes=3, per_class=5)
    assert load_for(config).fingerprint == load("digits", classes=3, per_class=5).fingerprint


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
        ({"classes": 11}, "classes must be 2 to 10, or class names, for digits, got 11"),
        ({"classes": 1}, "classes must be .*, got 1"),
        ({"classes": True}, "classes must be .*, got True"),
        ({"classes": ("1",)}, "classes must be at least 2 classes"),
        ({"classes": ("1", "1")}, "classes must name each class once, got '1' 2 times"),
        ({"classes": ("1", "one")}, r"digits has no class 'one'; valid: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ({"classes": ("1", "33")}, r"no class '33'; did you mean '3'\?"),
        ({"per_class": 136}, r"per_class must be 1 to 135 \(the training images of '8'"),
        ({"per_class": 0}, "per_class must be .*, got 0"),
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
        with pytest.raises(UsageError, match="validation must "):
            split(labels, fraction, seed=0)


def test_subsample_is_a_nested_stratified_share() -> None:
    labels = load("digits").train_labels
    tenth, fifth = subsample(labels, 0.1, seed=0), subsample(labels, 0.2, seed=0)
    assert (len(tenth), len(fifth)) == (140, 280)
    assert set(tenth) < set(fifth)
    assert np.bincount(labels[subsample(labels, 0.001, seed=0)]).tolist() == [1] * 10
    np.testing.assert_array_equal(subsample(labels, 1.0, seed=0), np.arange(1400))
    with pytest.raises(UsageError, match=r"data_fraction must be .*, got 0"):
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
        fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base) if f.name != "fingerprint"}
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
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base) if f.name != "fingerprint"}
    for change, message in (
        ({"train_images": base.train_images.astype(np.float32)}, "digits: train images must be uint8 .*, got float32"),
        ({"train_labels": base.train_labels[:-1]}, r"train labels must be int64 \(1400,\), got int64 \(1399,\)"),
        ({"class_names": ("a", "b")}, "train labels must be 0 to 1, got 0 to 9"),
        ({"test_images": base.test_images[:, :4, :4]}, "training and test images must have the same shape"),
        (
            {"test_images": base.test_images[:0], "test_labels": base.test_labels[:0]},
            "test part must have at least one image",
        ),
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
