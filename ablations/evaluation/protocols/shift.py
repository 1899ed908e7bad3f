"""Accuracy on translated images, and how many predictions change."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ablations.evaluation.protocol import Measurement, Metric, Protocol, choice

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""Rows and columns."""


@dataclass(frozen=True)
class Shift(Protocol):
    """Test images translated left, right, up and down, by half a patch (rounded up) and by a whole patch.

    A metric is the mean over the four directions. Changed: the prediction differs from that of the image in place.
    """

    fill: str = choice("edge", ("edge", "zero"), "pixels that come in: those of the edge, or black")

    description: ClassVar[str] = "accuracy on translated images, and predictions that change"
    source: ClassVar[str] = "Azulay and Weiss 2018, arXiv 1805.12177"

    def metrics(self) -> list[Metric]:
        return [
            Metric("accuracy-half", "accuracy after a shift by half a patch"),
            Metric("changed-half", "share of predictions changed by a shift by half a patch", higher_is_better=False),
            Metric("accuracy-patch", "accuracy after a shift by one patch"),
            Metric("changed-patch", "share of predictions changed by a shift by one patch", higher_is_better=False),
        ]

    def measure(self, run: "FinishedRun") -> Measurement:
        before, patch = run.probabilities_in_place.argmax(axis=1), run.config.patch
        distances, metrics = {"half": -(-patch // 2), "patch": patch}, {}
        reasons: tuple[str, ...] = ()
        if patch == 1:
            del distances["half"]
            reasons = ("patches of one pixel cannot be shifted by half a patch",)
        for name, pixels in distances.items():
            predicted = [
                run.probabilities(shift(run.images, pixels * dy, pixels * dx, self.fill)).argmax(axis=1)
                for dy, dx in DIRECTIONS
            ]
            metrics[f"accuracy-{name}"] = float(np.mean([p == run.labels for p in predicted]))
            metrics[f"changed-{name}"] = float(np.mean([p != before for p in predicted]))
        return Measurement(metrics, reasons=reasons)

    def passes(self, config: "RunConfig") -> float:
        return 2 * len(DIRECTIONS)


def shift(images: np.ndarray, rows: int, columns: int, fill: str) -> np.ndarray:
    """Move images (n, h, w, channels) down by `rows` and right by `columns` pixels, at most the side."""
    reach = max(abs(rows), abs(columns))
    mode = {"edge": "edge", "zero": "constant"}[fill]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=mode)  # type: ignore[call-overload]
    height, width = images.shape[1:3]
    top, left = reach - rows, reach - columns
    return np.ascontiguousarray(padded[:, top : top + height, left : left + width])
