"""What a model loses when the patches of the test images change places."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ablations.evaluation.patches import from_patches, to_patches
from ablations.evaluation.protocol import Measurement, Metric, Protocol, option

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun


@dataclass(frozen=True)
class Shuffle(Protocol):
    """Accuracy in place minus accuracy with permuted patches.

    Three permutations: one for all images, which leaves no patch in its place; another for each image; and another for
    each image within windows of `window` x `window` patches. The loss says how much a model relies on the places of
    patches, so neither a higher nor a lower one is better. A model that ignores places loses nothing, such as `none`.
    """

    window: int = option(2, "an integer of at least 2", lambda value: value >= 2, "patches along a side of a window")

    description: ClassVar[str] = "accuracy lost when patches change places"
    source: ClassVar[str] = "Naseer et al. 2021, arXiv 2105.10497"

    def metrics(self) -> list[Metric]:
        nouns = {
            "fixed": "accuracy lost by one permutation of the patches for all images",
            "each": "accuracy lost by a permutation of the patches for each image",
            "window": f"accuracy lost by permutations within windows of {self.window} x {self.window} patches",
        }
        return [Metric(f"lost-{name}", noun, higher_is_better=None, signed=True) for name, noun in nouns.items()]

    def measure(self, run: "FinishedRun") -> Measurement:
        patches = to_patches(run.images, run.config.patch)
        images, count = patches.shape[:2]
        grid = round(count**0.5)
        if grid == 1:
            return Measurement(reasons=("a single patch cannot change its place",))
        orders = {
            "fixed": np.broadcast_to(derangement(run.generator("shuffle fixed"), count), (images, count)),
            "each": permutations(run.generator("shuffle each"), images, np.zeros(count, dtype=int)),
            "window": permutations(run.generator("shuffle window"), images, windows(grid, self.window)),
        }
        reasons: tuple[str, ...] = ()
        metrics = {}
        if grid <= self.window:
            del orders["window"]
            reasons = (f"a window of {self.window} x {self.window} patches contains all {grid} x {grid} of an image",)
        for name, order in orders.items():
            shuffled = np.take_along_axis(patches, order[:, :, None, None, None], axis=1)
            metrics[f"lost-{name}"] = run.accuracy_in_place - run.accuracy(from_patches(shuffled))
        return Measurement(metrics, reasons=reasons)

    def passes(self, config: "RunConfig") -> float:
        return 3.0


def derangement(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return a random permutation (N,) of at least two patches that leaves no patch in its place."""
    order = generator.permutation(count)
    while (order == np.arange(count)).any():
        order = generator.permutation(count)
    return order


def windows(grid: int, side: int) -> np.ndarray:
    """Return the number of the window of each patch (N,); windows at the right and the bottom may be smaller."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    return (y // side) * -(-grid // side) + x // side


def permutations(generator: np.random.Generator, images: int, group: np.ndarray) -> np.ndarray:
    """Return an order (images, N) for each image, in which patches change places within their group (N,)."""
    places = np.argsort(group, kind="stable")  # the places of each group, one group after another
    mixed = np.argsort(group + generator.random((images, len(group))), axis=1)  # the same groups, in random order
    order = np.empty_like(mixed)
    order[:, places] = mixed
    return order
