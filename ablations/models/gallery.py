"""The test images that runs are most confidently wrong about: selected, and stored with a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

STORED = 12
"""Mistakes whose images are stored with a run."""


@dataclass(frozen=True)
class Mistake:
    """A test image with another class than its own predicted."""

    image: int
    """Its index among the test images."""
    predicted: int
    label: int
    predicted_probability: float
    label_probability: float


def mistakes(predictions: Mapping[str, np.ndarray], count: int | None = None) -> list[Mistake]:
    """Return the `count` most confident mistakes in the predictions of a run, all by default.

    They are ordered by decreasing probability of the predicted class. `predictions` has `labels` (n,), `predicted` (n,)
    and `probabilities` (n, C), as `Store.predictions` returns them.
    """
    labels, predicted, probabilities = (predictions[name] for name in ("labels", "predicted", "probabilities"))
    (wrong,) = np.nonzero(predicted != labels)
    order = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")[:count]
    return [
        Mistake(
            int(i),
            int(predicted[i]),
            int(labels[i]),
            float(probabilities[i, predicted[i]]),
            float(probabilities[i, labels[i]]),
        )
        for i in wrong[order]
    ]


def most_confident(runs: Sequence[Mapping[str, np.ndarray]], count: int) -> list[Mistake]:
    """Return the `count` most confident `mistakes` in the predictions of several runs, each image once."""
    found = [one for run in runs for one in mistakes(run, count)]
    first: dict[int, Mistake] = {}
    for one in sorted(found, key=lambda one: -one.predicted_probability):
        first.setdefault(one.image, one)
    return list(first.values())[:count]


def stored_mistakes(predictions: Mapping[str, np.ndarray], images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the `STORED` most confident mistakes of a run as `Store.mistakes` has them.

    `images` (n, h, w, c) are the test images.
    """
    index = np.array([one.image for one in mistakes(predictions, STORED)], dtype=np.int64)
    return {"image": index, "pixels": images[index]}
