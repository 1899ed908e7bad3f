"""Training, validation and test parts: those that the data came with, groups, and classes of few images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.data import Dataset, load, split, subset
from ablations.data.loader import DataLoader, check_validation, parts_of, steps_of
from ablations.data.split import apportion, take, take_groups
from ablations.errors import UsageError
from tests.support.archives import pictures


def blank(train: np.ndarray, test: np.ndarray, **fields: object) -> Dataset:
    """Return a dataset of these labels, each image with its index as its pixels."""
    images = [np.arange(len(labels), dtype=np.uint8).repeat(16).reshape(-1, 4, 4, 1) for labels in (train, test)]
    names = tuple(str(i) for i in range(train.max() + 1))
    return Dataset("blank", images[0], train, images[1], test, names, **fields)  # type: ignore[arg-type]


LABELS = np.arange(30) % 3


def test_a_validation_folder_is_the_validation_part(tmp_path: Path) -> None:
    pictures(tmp_path / "train", {"cat": 3, "dog": 4})
    pictures(tmp_path / "val", {"cat": 1, "dog": 2})
    pictures(tmp_path / "test", {"cat": 2, "dog": 2})
    dataset = load("folder", data_dir=tmp_path)
    assert (dataset.train_part, dataset.validation_images, len(dataset.test_labels)) == (7, 3, 4)
    loaders = [DataLoader.of(RunConfig(data="folder", seed=seed), dataset) for seed in (0, 1)]
    for loader in loaders:
        assert loader.train.tolist() == list(range(7))
        assert loader.validation.tolist() == [7, 8, 9]
        assert loader.validation_labels.tolist() == [0, 1, 1]
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    other = load("folder", data_dir=tmp_path)
    assert other.fingerprint != dataset.fingerprint
    assert other.skipped == {"in other folders": 3}


def test_the_share_cannot_be_set_beside_a_validation_part() -> None:
    dataset = blank(LABELS, LABELS, validation_images=6)
    check_validation(RunConfig(), dataset)
    with pytest.raises(UsageError, match=r"blank data, which has its own validation part of 6 images; got 0.3"):
        DataLoader.of(RunConfig(validation=0.3), dataset)
    assert parts_of(RunConfig(data_fraction=0.5), 24, 6) == (12, 6)
    assert steps_of(RunConfig(batch_size=5), 24, 6) == (4, 5)


def test_a_fingerprint_knows_the_validation_part_and_the_groups() -> None:
    groups = np.arange(30) // 3
    prints = [
        blank(LABELS, LABELS).fingerprint,
        blank(LABELS, LABELS, validation_images=5).fingerprint,
        blank(LABELS, LABELS, validation_images=6).fingerprint,
        blank(LABELS, LABELS, train_groups=groups).fingerprint,
        blank(LABELS, LABELS, train_groups=groups // 2).fingerprint,
    ]
    assert len(set(prints)) == 5
    assert blank(LABELS, LABELS, skipped={".txt": 1}).fingerprint == prints[0]
    with pytest.raises(UsageError, match="validation must leave images to train on, got 30 of 30"):
        blank(LABELS, LABELS, validation_images=30)
    with pytest.raises(UsageError, match="there must be a group for each of 30 training images"):
        blank(LABELS, LABELS, train_groups=groups[1:])


def test_subsets_keep_the_validation_part_and_the_groups() -> None:
    dataset = blank(LABELS, LABELS, validation_images=6, train_groups=np.arange(30) // 3)
    two = subset(dataset, classes=("0", "2"))
    assert (two.train_part, two.validation_images) == (16, 4)
    assert two.train_images[:, 0, 0, 0].tolist() == [i for i in range(30) if i % 3 != 1]
    assert two.train_groups is not None
    assert two.train_groups.tolist() == [i // 2 for i in range(20)]
    few = subset(dataset, per_class=2)
    assert (few.train_part, few.validation_images) == (6, 6)
    assert few.train_images[6:, 0, 0, 0].tolist() == list(range(24, 30))
    assert np.bincount(few.train_labels[:6]).tolist() == [2, 2, 2]
    with pytest.raises(UsageError, match="per_class must be 1 to 8"):
        subset(dataset, per_class=9)


@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_on_one_side_of_the_validation_split(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, groups = generator.integers(0, 4, 400), generator.integers(0, 60, 400)
    train, validation = split(labels, 0.2, seed, groups)
    assert not set(groups[train]) & set(groups[validation])
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(400))
    assert abs(len(validation) - 80) <= 8
    assert np.abs(np.bincount(labels[validation]) - np.bincount(labels) / 5).max() <= 5
    again = split(labels, 0.2, seed, groups)[1]
    np.testing.assert_array_equal(validation, again)
    assert validation.tolist() != split(labels, 0.2, seed + 1, groups)[1].tolist()


def test_a_loader_divides_by_groups() -> None:
    dataset = blank(LABELS, LABELS, train_groups=np.arange(30) // 3)
    loader = DataLoader.of(RunConfig(validation=0.2), dataset)
    assert len(loader.validation) == 6
    assert (loader.validation.reshape(2, 3) // 3).std(axis=1).tolist() == [0, 0]


def test_groups_of_one_image_are_no_groups() -> None:
    labels, order = np.random.default_rng(0).integers(0, 5, 100), np.random.default_rng(1).permutation(100)
    alone = take_groups(labels, np.arange(100), order, 23, at_least=1)
    np.testing.assert_array_equal(alone, take(labels, order, 23, at_least=1, leave=1))


def test_the_last_group_of_a_class_stays_for_training() -> None:
    labels, groups = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 2, 2])
    held = take_groups(labels, groups, np.arange(3), 4, at_least=1)
    assert held.tolist() == [3, 4]


def test_classes_of_three_images_are_in_every_part(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 3, "dog": 3, "horse": 40})
    dataset = load("folder", data_dir=tmp_path)
    assert np.bincount(dataset.test_labels).tolist() == [1, 1, 7]
    for seed in range(3):
        loader = DataLoader.of(RunConfig(data="folder", seed=seed), dataset)
        assert np.bincount(loader.validation_labels).tolist() == [1, 1, 4]
        assert np.bincount(dataset.train_labels[loader.train]).tolist() == [1, 1, 29]


def test_validation_never_takes_the_last_image_of_a_class() -> None:
    train, validation = split(np.array([0, 1, 1, 1, 1]), 0.4, seed=0)
    assert np.bincount(np.array([0, 1, 1, 1, 1])[train]).tolist() == [1, 2]
    assert len(validation) == 2
    with pytest.raises(UsageError, match=r"at least one of 3 training images and leave one of each class, got 0.15"):
        DataLoader.of(RunConfig(), blank(np.arange(3), LABELS))


def test_apportion_leaves_some() -> None:
    assert apportion(np.array([2, 2, 8]), 12, leave=1).tolist() == [1, 1, 7]
    assert apportion(np.array([1, 2, 9]), 3, at_least=1, leave=1).tolist() == [0, 1, 2]
    assert apportion(np.array([1, 1]), 2, at_least=1, leave=2).tolist() == [0, 0]


def test_each_class_gets_a_group_if_it_can() -> None:
    """The shares would leave the rare class 1 out of the test; its smaller group is taken."""
    labels = np.concatenate([np.zeros(40, dtype=np.int64), [1, 1, 1, 1, 1]])
    groups = np.concatenate([np.arange(40), [40, 40, 40, 41, 41]])
    held = take_groups(labels, groups, np.arange(42), 4, at_least=1)
    assert {43, 44} <= set(held.tolist())
    assert not {40, 41, 42} & set(held.tolist())


def test_many_groups_are_divided_quickly() -> None:
    generator = np.random.default_rng(0)
    labels, groups = generator.integers(0, 200, 50_000), np.arange(50_000)
    assert len(split(labels, 0.15, 0, groups)[1]) == 7500


def test_an_axis_of_validation_is_refused_before_training() -> None:
    from ablations.execution.plan import check_model

    dataset = blank(LABELS, LABELS, validation_images=6)
    with pytest.raises(UsageError, match="validation cannot be set for this blank data"):
        check_model(replace(RunConfig(), validation=0.3), dataset)
