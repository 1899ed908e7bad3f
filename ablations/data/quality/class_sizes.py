"""How many images the classes have, and whether the numbers are so unequal that accuracy alone is no fair summary."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ablations.data.dataset import Dataset

IMBALANCE = 1.5
"""How many times as large as the smallest class the largest may be."""


def class_counts(dataset: "Dataset") -> dict[str, NDArray[np.int64]]:
    """Return the number of images of each class (C,), by part."""
    labels = dataset.labels
    return {name: np.bincount(labels[part], minlength=dataset.classes) for name, part in dataset.parts.items()}


def is_imbalanced(counts: NDArray[Any]) -> bool:
    """Return whether numbers of images by class differ by more than `IMBALANCE`."""
    return bool(counts.max() > IMBALANCE * counts.min())
