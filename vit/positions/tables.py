"""Tables added to the patch tokens, and their interpolation to another grid of patches."""

from math import isqrt

import numpy as np

from vit.backend import Array, Ops
from vit.positions.base import TokenHook


class AddTable(TokenHook):
    """Adds a table (R or 1, N, D) to the patch tokens of every image."""

    def __init__(self, ops: Ops, table: Array, dtable: Array | None = None) -> None:
        """`dtable` (R, N, D) receives the gradient of the table. None for a fixed table."""
        self.ops, self.table, self.dtable = ops, table, dtable

    def forward(self, tokens: Array) -> None:
        self.ops.add_table(tokens, self.table)

    def backward(self, dtokens: Array) -> None:
        if self.dtable is not None:
            self.ops.sum_images(dtokens, out=self.dtable)


def resize_square(table: np.ndarray, side: int) -> np.ndarray:
    """Resize a table (n n, D) of a square grid to (side side, D) by bicubic interpolation with antialiasing.

    The same as ``torch.nn.functional.interpolate`` with ``antialias=True``, which timm uses.
    """
    old = isqrt(len(table))
    weights = bicubic_weights(old, side)
    square = table.reshape(old, old, -1).astype(np.float64)
    resized = np.einsum("iy,jx,yxd->ijd", weights, weights, square)
    return resized.reshape(side * side, -1).astype(table.dtype)


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """Return weights (new, old) of Keys' cubic convolution with a = -1/2, its kernel widened for downsampling."""
    scale = old / new
    support = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs((np.arange(old) + 0.5)[None, :] - centres[:, None]) / support
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)
