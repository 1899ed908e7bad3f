"""Learned position table, as in the original ViT (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

from collections.abc import Mapping
from math import isqrt

import numpy as np

from vit.backend import Array, Ops
from vit.errors import ConfigError
from vit.parameters import Parameter, Views, truncated_normal
from vit.positions.base import Geometry, Position

TABLE = "pos_embed"
TABLE_STD = 0.02


class LearnedPosition(Position):
    """Learned table (N, D) added to the patch tokens, initially truncated normal with standard deviation 0.02."""

    traceable = fusible = True
    description = "learned table of shape (patches, width), added to the tokens"

    def __init__(self, config: Geometry, ops: Ops, parameters: Views, gradients: Views) -> None:
        super().__init__(config, ops, parameters, gradients)
        self.table = parameters[TABLE][:, 0]
        self.dtable = gradients[TABLE][:, 0]

    @classmethod
    def declare(cls, config: Geometry) -> list[Parameter]:
        return [Parameter(TABLE, (1, config.patches, config.width), truncated_normal(TABLE_STD))]

    @classmethod
    def adapt_state(cls, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        table = state.get(TABLE)
        if table is None or table.shape[1] == config.patches:
            return dict(state)
        if isqrt(table.shape[1]) ** 2 != table.shape[1]:
            raise ConfigError(f"{TABLE} must be the table of a square grid, got {table.shape[1]} positions")
        return {**state, TABLE: resize_table(table, config.grid)}

    def add_to_tokens(self, tokens: Array) -> None:
        self.ops.add_table(tokens, self.table)

    def add_to_tokens_backward(self, dtokens: Array) -> None:
        self.ops.sum_images(dtokens, out=self.dtable)


def resize_table(table: np.ndarray, grid: int) -> np.ndarray:
    """Resize a table (1, n n, D) to (1, grid grid, D) by bicubic interpolation with antialiasing, as timm does."""
    _, patches, width = table.shape
    weights = _bicubic(isqrt(patches), grid)
    square = table.reshape(isqrt(patches), isqrt(patches), width).astype(np.float64)
    resized = np.einsum("iy,jx,yxd->ijd", weights, weights, square)
    return resized.reshape(1, grid * grid, width).astype(table.dtype)


def _bicubic(old: int, new: int) -> np.ndarray:
    """Return weights (new, old) of Keys' cubic convolution with a = -1/2, its kernel widened for downsampling."""
    scale = old / new
    support = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs((np.arange(old) + 0.5)[None, :] - centres[:, None]) / support
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)
