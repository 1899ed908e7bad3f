"""Where the heads of a model look: how far, how widely, and at the class token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ablations.evaluation.protocol import Measurement, Metric, Protocol, option

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun


@dataclass(frozen=True)
class Attention(Protocol):
    """Mean attention distance in pixels, and entropy of the attention, over patches, heads, blocks and test images.

    The distance of a query patch is the mean distance to all patches, weighted by its attention to them, as in the ViT
    paper. The arrays hold both by block and head (depth, heads), and the attention averaged over images (depth, heads,
    T, T): rows are queries, columns keys, the class token first if there is one.
    """

    images: int = option(512, "an integer of at least 1", lambda value: value >= 1, "test images, drawn at random")

    description: ClassVar[str] = "attention distance in pixels and entropy, by block and head"
    source: ClassVar[str] = "Dosovitskiy et al. 2020, arXiv 2010.11929, figure 7"

    def metrics(self) -> list[Metric]:
        return [
            Metric("distance", "mean attention distance", "pixels", higher_is_better=None),
            Metric("entropy", "mean entropy of the attention", "nats", higher_is_better=None),
            Metric("to-class-token", "attention of patches to the class token", higher_is_better=None),
        ]

    def measure(self, run: "FinishedRun") -> Measurement:
        images, config = run.sample(self.images), run.model_config()
        if config.grid == 1:
            return Measurement(reasons=("a single patch has no other patch to look at",))
        shape = config.depth, config.heads
        distances, prefix = patch_distances(config.grid, config.patch_size), config.prefix
        distance, entropy = np.zeros(shape), np.zeros(shape)
        mean = np.zeros((*shape, config.tokens, config.tokens))
        for network in run.layers(images):
            for i, block in enumerate(network.blocks):
                attention = block.attn.probabilities[0].astype(np.float64)  # (B, H, T, T)
                to_patches = attention[:, :, prefix:, prefix:]
                weight = to_patches.sum(axis=-1)
                distance[i] += ((to_patches * distances).sum(axis=-1) / weight).mean(axis=-1).sum(axis=0)
                entropy[i] += _entropy(attention[:, :, prefix:]).mean(axis=-1).sum(axis=0)
                mean[i] += attention.sum(axis=0)
        distance, entropy, mean = (array / len(images) for array in (distance, entropy, mean))
        metrics = {"distance": float(distance.mean()), "entropy": float(entropy.mean())}
        if prefix:
            metrics["to-class-token"] = float(mean[:, :, prefix:, 0].mean())
        return Measurement(metrics, {"distance": distance, "entropy": entropy, "attention": mean.astype(np.float32)})

    def passes(self, config: "RunConfig") -> float:
        return 1.0


def patch_distances(grid: int, patch: int) -> np.ndarray:
    """Return the distances of the centres of any two patches, (N, N), in pixels."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    return patch * np.hypot(x[:, None] - x, y[:, None] - y)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(axis=-1)
