"""Fixed sinusoidal positions in raster order, as in the first transformer (Vaswani et al. 2017, arXiv 1706.03762)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vit.errors import ConfigError
from vit.positions.base import Geometry, Position, TokenHook, coordinates, served
from vit.positions.tables import AddTable, resize_square
from vit.workspace import Workspace


@dataclass(frozen=True)
class Sinusoidal1dPosition(Position):
    """Fixed table (N, D) added to the patch tokens, by the number n = y g + x of the patch, from 0.

    Channel 2i is sin(n / 10000^(2i/D)) and channel 2i+1 is cos(n / 10000^(2i/D)). The width D must be even.
    """

    description: ClassVar[str] = "fixed sines and cosines of the patch number, added to the tokens"
    acts_on: ClassVar[str] = "tokens"
    other_grids: ClassVar[tuple[str, ...]] = ("extend", "interpolate", "resize")
    source: ClassVar[str] = "Vaswani et al. 2017, arXiv 1706.03762"

    def check(self, config: Geometry) -> None:
        if config.width % 2:
            raise ConfigError(f"width must be even with position 'sinusoidal-1d', got {config.width}")

    def token_hook(self, config: Geometry, workspace: Workspace) -> TokenHook:
        ops = workspace.ops
        return AddTable(ops, ops.asarray(self._table(config)[None]))

    def _table(self, config: Geometry) -> np.ndarray:
        way, trained = served(self, config), config.trained_grid or config.grid
        if way == "resize":
            return resize_square(raster_table(np.arange(trained**2), config.width), config.grid)
        x, y = coordinates(self, config)
        return raster_table(y * (trained if way == "interpolate" else config.grid) + x, config.width)

    def fixed_state(self, config: Geometry) -> dict[str, np.ndarray]:
        return {"pos_embed": self._table(config)[None].astype(np.float32)}

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        return {name: array for name, array in state.items() if name != "pos_embed"}


def raster_table(numbers: np.ndarray, width: int) -> np.ndarray:
    """Return the table (N, width) of patches with these numbers (N,), in float64."""
    angles = np.outer(numbers, 10000.0 ** (-np.arange(0, width, 2) / width))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(numbers), width)
