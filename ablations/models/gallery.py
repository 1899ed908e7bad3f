"""The test images that a run is most confidently wrong about."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mistake:
    """A test image with another class than its own predicted."""

    image: int
    """Its index among the test images."""
    predicted: int
    label: int
    predicted_probability: float
    label_probability: float


def mistakes(predictions: Mapping[str, np.ndarray]) -> list[Mistake]:
    """Return all mistakes in the stored predictions of a run, by decreasing probability of the predicted class.

    `predictions` has `labels` (n,), `predicted` (n,) and `probabilities` (n, C), as `Store.predictions` returns them.
    """
    labels, predicted, probabilities = (predictions[name] for name in ("labels", "predicted", "probabilities"))
    (wrong,) = np.nonzero(predicted != labels)
    order = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
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
