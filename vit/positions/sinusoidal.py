"""Fixed 2-D sinusoidal positions, as in "Better plain ViT baselines" (Beyer et al. 2022, arXiv 2205.01580)."""

from collections.abc import Mapping

import numpy as np

from vit.backend import Array, Ops
from vit.errors import ConfigError
from vit.parameters import Views
from vit.positions.base import Geometry, Position, patch_coordinates


class SinusoidalPosition(Position):
    """Fixed table (N, D) added to the patch tokens.

    Its rows are [sin x w, cos x w, sin y w, cos y w] with w_i = 10000^(-i/(D/4-1)), i < D/4, where x is the column and
    y the row of the patch. The width D must be a multiple of 4.
    """

    traceable = fusible = True
    description = "fixed 2-D sines and cosines, added to the tokens"

    def __init__(self, config: Geometry, ops: Ops, parameters: Views, gradients: Views) -> None:
        super().__init__(config, ops, parameters, gradients)
        self.table = ops.asarray(sinusoidal_table(config.grid, config.width)[None])

    @classmethod
    def check(cls, config: Geometry) -> None:
        if config.width % 4:
            raise ConfigError(f"width must be a multiple of 4 with position 'sinusoidal', got {config.width}")

    @classmethod
    def fixed_state(cls, config: Geometry) -> dict[str, np.ndarray]:
        return {"pos_embed": sinusoidal_table(config.grid, config.width)[None].astype(np.float32)}

    @classmethod
    def adapt_state(cls, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        return {name: array for name, array in state.items() if name != "pos_embed"}

    def add_to_tokens(self, tokens: Array) -> None:
        self.ops.add_table(tokens, self.table)


def sinusoidal_table(grid: int, width: int) -> np.ndarray:
    """Return the table (grid grid, width) in float64."""
    quarter = width // 4
    frequencies = 10000.0 ** (-np.arange(quarter) / max(quarter - 1, 1))
    x, y = (np.outer(coordinate, frequencies) for coordinate in patch_coordinates(grid))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
