"""Accuracy when random patches of the test images are blanked."""

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
    are also blanked at a larger one. `accuracy` is the mean over the shares.
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
        metrics = {}
        for share in listed_numbers(self.shares):
            hidden = rank < round(share * rank.shape[1])
            metrics[f"accuracy-{share:g}"] = run.accuracy(
                from_patches(np.where(hidden[:, :, None, None, None], colour, patches))
            )
        return Measurement({"accuracy": float(np.mean([*metrics.values()])), **metrics})

    def passes(self, config: "RunConfig") -> float:
        return len(listed_numbers(self.shares))
