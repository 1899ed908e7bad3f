"""The embedded data set."""

import numpy as np

from ablations.data import load


def test_digits_are_the_same_for_ever() -> None:
    digits = load("digits")
    assert digits.train_images.shape == (1400, 8, 8, 1)
    assert digits.test_images.shape == (397, 8, 8, 1)
    assert digits.train_images.max() == 255
    assert np.bincount(digits.test_labels).tolist() == [39, 40, 39, 40, 40, 40, 40, 40, 39, 40]
    assert (digits.image_size, digits.channels, digits.classes) == (8, 1, 10)
    assert digits.fingerprint == "923e31f0140729fe767c98176a68f5ac135f6006fd756bce46b9937c1e81e648"
