"""2-D axial rotary positions, as in rope-vit (Heo et al., ECCV 2024, arXiv 2403.13298; RoPE: arXiv 2104.09864)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vit.errors import ConfigError
from vit.positions.base import BlockHook, Geometry, Position, Rotation, choice, coordinates, option, rotation_flops
from vit.workspace import Workspace

BASE = 100.0


@dataclass(frozen=True)
class RotaryPosition(Position):
    """Rotation of pairs of channels (2j, 2j+1) of queries and keys by angles proportional to the patch position.

    The first K/2 channels rotate with the column x, the others with the row y: pair i < K/4 of each half by
    x base^(-4i/K) or y base^(-4i/K). So the scores depend on positions only through the displacement between two
    patches. The head width K must be a multiple of 4.
    """

    base: float = option(BASE, "a number above 1", lambda value: value > 1, "pair i rotates by base^(-4i/K) per patch")
    coordinates: str = choice(
        "index", ("index", "centred"), "0 to g - 1, or shifted so that the centre of the image is 0"
    )

    description: ClassVar[str] = "2-D rotary: queries and keys are rotated by their column and row"
    acts_on: ClassVar[str] = "queries and keys"
    other_grids: ClassVar[tuple[str, ...]] = ("extend", "interpolate")
    source: ClassVar[str] = "Heo et al. 2024, arXiv 2403.13298"

    def check(self, config: Geometry) -> None:
        check_head_width(self, config, 4)

    def flops(self, config: Geometry) -> int:
        return rotation_flops(config)

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        angles = rotary_angles(*coordinates(self, config), config.head_width, self.base, self.coordinates == "centred")
        cos, sin = (workspace.ops.asarray(f(angles)[None, None]) for f in (np.cos, np.sin))
        return [BlockHook(workspace, config, Rotation(cos, sin))] * config.depth


def check_head_width(position: Position, config: Geometry, factor: int) -> None:
    """Raise ConfigError unless the head width is a multiple of `factor`."""
    if config.head_width % factor:
        raise ConfigError(
            f"heads must divide width {config.width} into head widths (width / heads) that are multiples of {factor} "
            f"with position {position.name!r}, got {config.heads}, a head width of {config.head_width}"
        )


def rotary_angles(
    x: np.ndarray, y: np.ndarray, head_width: int, base: float = BASE, centred: bool = False
) -> np.ndarray:
    """Return the angles (N, K/2) in radians of patches at x, y (N,): x base^(-4i/K), then y base^(-4i/K), i < K/4."""
    frequencies = base ** (-4 * np.arange(head_width // 4) / head_width)
    return np.concatenate([np.outer(c - c.mean() if centred else c, frequencies) for c in (x, y)], axis=1)
