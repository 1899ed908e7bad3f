"""Class names and class numbers from the labels of pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def numbered(labels: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the class names and indices into them; names are sorted, as numbers if all of them are whole numbers."""
    names = set(labels)
    if all(name.removeprefix("-").isdecimal() for name in names):
        ordered = sorted(names, key=lambda name: (int(name), name))
    else:
        ordered = sorted(names)
    index = {name: i for i, name in enumerate(ordered)}
    return tuple(ordered), np.array([index[label] for label in labels], dtype=np.int64)


def as_text(label: object) -> str:
    """Return a label from a file as text: whole numbers without a decimal point, and nothing for a missing one."""
    if label is None or (isinstance(label, float) and label != label):
        return ""
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return str(int(label))
    return str(label).strip()
