"""The real thing, where it lies."""

import os
from pathlib import Path

import numpy as np
import pytest

from ablations.data import Dataset, load, subset
from ablations.data.normalisation import statistics


@pytest.fixture(scope="module")
def real_cifar100() -> Dataset:
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("VITAB_DATA", default))
    if not (root / "cifar-100-binary" / "train.bin").is_file():
        pytest.skip(f"no cifar-100-binary in {root}; set VITAB_DATA to the folder that holds it")
    return load("cifar100", data_dir=root)


def test_the_real_cifar100(real_cifar100: Dataset) -> None:
    dataset = real_cifar100
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [500] * 100
    assert np.bincount(dataset.test_labels).tolist() == [100] * 100
    assert dataset.class_names[:2] == ("apple", "aquarium_fish")
    mean, std = statistics(dataset.train_images)
    np.testing.assert_allclose(mean, [0.5071, 0.4865, 0.4409], atol=5e-5)
    np.testing.assert_allclose(std, [0.2673, 0.2564, 0.2762], atol=5e-5)
    twenty = subset(dataset, classes=20)
    assert (len(twenty.train_labels), len(twenty.test_labels)) == (10_000, 2_000)


def test_the_reordered_copys_fingerprint(real_cifar100: Dataset) -> None:
    if "VITAB_DATA" in os.environ:
        pytest.skip("the fingerprint is of the copy in shared/data; VITAB_DATA may hold the official order")
    expected = "71135ac6d636f0b8077bd28f1975aceeedb97639234fde5c13f083812220077b"
    assert real_cifar100.fingerprint == expected
