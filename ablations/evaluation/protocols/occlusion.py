"""Accuracy when random patches of the test images are blanked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ablations.evaluation.numbers import listed_numbers, numbers_option
from ablations.evaluation.patches import from_patches, to_patches
from ablations.evaluation.protocol import Measurement, Metric, Protocol

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun


@dataclass(frozen=True)
class Occlusion(Protocol):
    """Random patches of each test image get the mean colour of the training images of the run.

    A share of 0.3 blanks 30 % of the patches, rounded to a whole number of them. The patches blanked at a smaller share
    are also blanked at a larger one. A share is left out if it is rounded to no patch, to all of them (unless it is 1),
    or to the number of a share before it. `accuracy` is the mean over the shares that are measured.
    """

    shares: str = numbers_option("0.1/0.3/0.5/0.7/0.9", above=0, most=1, meaning="shares of the patches")

    description: ClassVar[str] = "accuracy when random patches are blanked"
    source: ClassVar[str] = "Naseer et al. 2021, arXiv 2105.10497"

    def metrics(self) -> list[Metric]:
        shares = listed_numbers(self.shares)
        mean = Metric("accuracy", "mean accuracy with blanked patches")
        return [
            mean,
            *(Metric(f"accuracy-{s:g}", f"accuracy with {100 * s:g} % of the patches blanked") for s in shares),
        ]

    def measure(self, run: "FinishedRun") -> Measurement:
        patches = to_patches(run.images, run.config.patch).astype(np.float32)
        rank = run.generator("occlusion").random(patches.shape[:2]).argsort(axis=1).argsort(axis=1)
        colour = (255 * run.loader.mean).astype(np.float32)
        shares, reasons = blanked_patches(listed_numbers(self.shares), rank.shape[1])
        metrics = {}
        for share, blanked in shares.items():
            hidden = (rank < blanked)[:, :, None, None, None]
            metrics[f"accuracy-{share:g}"] = run.accuracy(from_patches(np.where(hidden, colour, patches)))
        if metrics:
            metrics["accuracy"] = float(np.mean([*metrics.values()]))
        return Measurement(metrics, reasons=reasons)

    def passes(self, config: "RunConfig") -> float:
        return len(listed_numbers(self.shares))


def blanked_patches(shares: Sequence[float], total: int) -> tuple[dict[float, int], tuple[str, ...]]:
    """Return how many of `total` patches are blanked, by share, and why other shares are left out."""
    counts: dict[float, int] = {}
    reasons = []
    for share in shares:
        blanked = int(share * total + 0.5)
        why = {0: "no patch", total: "all patches" * (share < 1)}.get(blanked, "")
        if blanked in counts.values():
            why = why or "the number of another share"
        if why:
            reasons.append(f"{100 * share:g} % of {total} patch{'es' * (total > 1)} is rounded to {why}")
        else:
            counts[share] = blanked
    return counts, tuple(reasons)
