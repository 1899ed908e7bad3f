"""2-D axial rotary positions, as in rope-vit (Heo et al., ECCV 2024, arXiv 2403.13298; RoPE: arXiv 2104.09864)."""

import numpy as np

from vit.backend import Ops
from vit.errors import ConfigError
from vit.parameters import Views
from vit.positions.base import Geometry, Position, patch_coordinates

BASE = 100.0


class RotaryPosition(Position):
    """Rotation of pairs of channels (2j, 2j+1) of queries and keys by angles proportional to the patch position.

    The first K/2 channels rotate with the column, the others with the row. So the scores depend on positions only
    through the displacement between two patches. The head width K must be a multiple of 4.
    """

    traceable = fusible = True
    description = "2-D rotary: queries and keys are rotated by their column and row"

    def __init__(self, config: Geometry, ops: Ops, parameters: Views, gradients: Views) -> None:
        super().__init__(config, ops, parameters, gradients)
        angles = rotary_angles(config.grid, config.head_width)
        self.rotation = ops.asarray(np.cos(angles)), ops.asarray(np.sin(angles))

    @classmethod
    def check(cls, config: Geometry) -> None:
        if config.head_width % 4:
            raise ConfigError(
                f"heads must divide width {config.width} into head widths (width / heads) that are multiples of 4 with "
                f"position 'rope', got {config.heads}, a head width of {config.head_width}"
            )


def rotary_angles(grid: int, head_width: int, base: float = BASE) -> np.ndarray:
    """Return the angles (grid grid, K/2) in radians: x base^(-4i/K), then y base^(-4i/K), i < K/4."""
    frequencies = base ** (-4 * np.arange(head_width // 4) / head_width)
    return np.concatenate([np.outer(c, frequencies) for c in patch_coordinates(grid)], axis=1)
