"""Fixed 2-D sinusoidal positions, as in "Better plain ViT baselines" (Beyer et al. 2022, arXiv 2205.01580)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vit.errors import ConfigError
from vit.positions.base import Geometry, Position, TokenHook, coordinates, patch_coordinates, served
from vit.positions.tables import AddTable, resize_square
from vit.workspace import Workspace


@dataclass(frozen=True)
class SinusoidalPosition(Position):
    """Fixed table (N, D) added to the patch tokens.

    Its rows are [sin x w, cos x w, sin y w, cos y w] with w_i = 10000^(-i/(D/4-1)), i < D/4, where x is the column and
    y the row of the patch. The width D must be a multiple of 4.
    """

    description: ClassVar[str] = "fixed 2-D sines and cosines, added to the tokens"
    acts_on: ClassVar[str] = "tokens"
    other_grids: ClassVar[tuple[str, ...]] = ("extend", "interpolate", "resize")
    source: ClassVar[str] = "Beyer et al. 2022, arXiv 2205.01580"

    def check(self, config: Geometry) -> None:
        if config.width % 4:
            raise ConfigError(f"width must be a multiple of 4 with position 'sinusoidal', got {config.width}")

    def token_hook(self, config: Geometry, workspace: Workspace) -> TokenHook:
        ops = workspace.ops
        return AddTable(ops, ops.asarray(self._table(config)[None]))

    def _table(self, config: Geometry) -> np.ndarray:
        if served(self, config) == "resize":
            assert config.trained_grid is not None
            trained = sinusoidal_table(*patch_coordinates(config.trained_grid), config.width)
            return resize_square(trained, config.grid)
        return sinusoidal_table(*coordinates(self, config), config.width)

    def fixed_state(self, config: Geometry) -> dict[str, np.ndarray]:
        return {"pos_embed": self._table(config)[None].astype(np.float32)}

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        return {name: array for name, array in state.items() if name != "pos_embed"}


def sinusoidal_table(x: np.ndarray, y: np.ndarray, width: int) -> np.ndarray:
    """Return the table (N, width) of patches at x, y (N,), in float64."""
    quarter = width // 4
    frequencies = 10000.0 ** (-np.arange(quarter) / max(quarter - 1, 1))
    x, y = (np.outer(coordinate, frequencies) for coordinate in (x, y))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
