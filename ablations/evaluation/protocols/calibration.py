"""How far the predicted probabilities can be trusted, from the stored predictions on the test set."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ablations.evaluation.protocol import Measurement, Metric, Protocol, option

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun

TINY = np.finfo(np.float32).tiny
LEAST = 10
"""Fewest images of a bin."""


@dataclass(frozen=True)
class Calibration(Protocol):
    """Negative log-likelihood, Brier score, and the debiased root-mean-square calibration error of the predicted class.

    The calibration error has bins of equal numbers of images, fewer bins if they would have less than 10, and is the
    root of sum_b w_b ((c_b - a_b)^2 - v_b), with
    w_b the share of the images, c_b the mean confidence, a_b the accuracy of bin b, and v_b = a_b (1 - a_b) / (n_b - 1)
    the part of the square that is chance; 0 if the sum is negative (Kumar et al. 2019).
    """

    bins: int = option(15, "an integer of at least 2", lambda value: value >= 2, "bins of equal numbers of images")

    description: ClassVar[str] = "log-likelihood, Brier score and calibration error of the stored predictions"
    source: ClassVar[str] = "Guo et al. 2017, arXiv 1706.04599; Kumar et al. 2019, arXiv 1909.10155"

    def metrics(self) -> list[Metric]:
        return [
            Metric("calibration-error", "root-mean-square calibration error", higher_is_better=False),
            Metric("nll", "negative log-likelihood", "nats", higher_is_better=False),
            Metric("brier", "Brier score", "", higher_is_better=False),
        ]

    def measure(self, run: "FinishedRun") -> Measurement:
        probabilities, labels = run.stored_probabilities.astype(np.float64), run.labels
        of_label = probabilities[np.arange(len(labels)), labels]
        one_hot = np.eye(probabilities.shape[1])[labels]
        confidence = probabilities.max(axis=1)
        right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
        metrics = {
            "nll": float(-np.log(np.maximum(of_label, TINY)).mean()),
            "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        }
        bins = min(self.bins, len(labels) // LEAST)
        if bins < 2:
            few = f"the calibration error needs at least {2 * LEAST} test images, got {len(labels)}"
            return Measurement(metrics, reasons=(few,))
        count, mean_confidence, accuracy = bins_of(confidence, right, bins)
        metrics["calibration-error"] = debiased_error(count, mean_confidence, accuracy)
        return Measurement(metrics, {"count": count, "confidence": mean_confidence, "accuracy": accuracy})

    def passes(self, config: "RunConfig") -> float:
        return 0.0


def bins_of(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images, the mean confidence and the accuracy of bins of (almost) equal numbers of images."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, bins)
    means = [(len(part), confidence[part].mean(), right[part].mean()) for part in parts]
    count, mean_confidence, accuracy = map(np.array, zip(*means, strict=True))
    return count, mean_confidence, accuracy


def debiased_error(count: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> float:
    """Return the root of the debiased mean squared calibration error over bins of at least two images."""
    variance = accuracy * (1 - accuracy) / (count - 1)
    squares = (confidence - accuracy) ** 2 - variance
    return float(np.sqrt(max(0.0, np.sum(count / count.sum() * squares))))
