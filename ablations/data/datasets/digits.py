"""The 1,797 scans of handwritten digits, 8 x 8, that scikit-learn ships: needs no network and no download."""

from pathlib import Path

import numpy as np

from ablations.data.dataset import Dataset
from ablations.data.split import fixed_order, take

TEST_IMAGES = 397


def read() -> Dataset:
    """Return digits with 1,400 training and 397 test images, in a fixed stratified split.

    Pixels of 0..16 become uint8 ``round(x * 255 / 16)``. The test images are those whose index has the
    smallest SHA-256 within their class, so that no release of NumPy or scikit-learn moves one.
    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = raw.target.astype(np.int64)
    test = take(labels, fixed_order([str(i) for i in range(len(labels))]), TEST_IMAGES)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
    )


def location() -> Path:
    """Return the folder of the installed scikit-learn, which contains the images."""
    import sklearn

    return Path(sklearn.__file__).parent
