"""How well the place of a patch can be read from its token after each block."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.linear_model import Ridge

from ablations.evaluation.protocol import Measurement, Metric, Protocol, option

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun

ALPHA = 1.0
"""Strength of the ridge penalty, on tokens standardised by channel."""


@dataclass(frozen=True)
class PositionProbe(Protocol):
    """R2 of a ridge regression of column and row on the patch tokens, fitted on half of the images, tested on the rest.

    Measured on the tokens before the first block and after each block. R2 is 1 for a perfect prediction, and 0 for that
    of the mean. `r2` is that after the last block.
    """

    images: int = option(256, "an integer of at least 2", lambda value: value >= 2, "test images, drawn at random")

    description: ClassVar[str] = "how well row and column can be read from the tokens after each block"
    source: ClassVar[str] = "Islam et al. 2020, arXiv 2001.08248"

    def metrics(self) -> list[Metric]:
        nouns = {
            "r2": "R2 of the patch position after the last block",
            "r2-first": "R2 of the patch position before the first block",
            "r2-best": "highest R2 of the patch position after any block",
        }
        return [Metric(name, noun, "", higher_is_better=None, signed=True) for name, noun in nouns.items()]

    def measure(self, run: "FinishedRun") -> Measurement:
        images, config = run.sample(self.images), run.model_config()
        if config.grid == 1:
            return Measurement(reasons=("a single patch has no position to read",))
        tokens = tokens_by_block(run, images)
        y, x = np.divmod(np.arange(config.patches), config.grid)
        place = np.tile(np.stack([x, y], axis=1), (len(images), 1)).reshape(len(images), config.patches, 2)
        half = len(images) // 2
        r2 = np.array([probe(layer[:half], place[:half], layer[half:], place[half:]) for layer in tokens])
        metrics = {"r2": r2[-1], "r2-first": r2[0], "r2-best": r2[1:].max()}
        return Measurement({name: float(value) for name, value in metrics.items()}, {"r2": r2})

    def passes(self, config: "RunConfig") -> float:
        return 1.0


def tokens_by_block(run: "FinishedRun", images: np.ndarray) -> np.ndarray:
    """Return the patch tokens before the first block and after each block, (depth + 1, n, N, D)."""
    prefix, parts = run.model_config().prefix, []
    for network in run.layers(images):
        streams = [*(block.norm1.stream for block in network.blocks), network.head.norm.stream]
        parts.append(np.stack([stream[0, :, prefix:] for stream in streams]))
    return np.concatenate(parts, axis=1)


def probe(tokens: np.ndarray, place: np.ndarray, held_out_tokens: np.ndarray, held_out_place: np.ndarray) -> float:
    """Return the R2 on held-out images, the mean over column and row. Tokens are (n, N, D), places (n, N, 2)."""
    x, y = tokens.reshape(-1, tokens.shape[-1]), place.reshape(-1, 2)
    mean, std = x.mean(axis=0), x.std(axis=0)
    scale = np.where(std > 0, std, 1)
    model = Ridge(ALPHA).fit((x - mean) / scale, y)
    held_out = (held_out_tokens.reshape(-1, tokens.shape[-1]) - mean) / scale
    return float(model.score(held_out, held_out_place.reshape(-1, 2)))
