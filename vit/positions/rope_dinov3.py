"""Rotary positions in normalised coordinates, as in DINOv3 (Siméoni et al. 2025, arXiv 2508.10104)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from vit.backend import Array
from vit.positions.base import (
    BlockHook,
    Geometry,
    Position,
    Rotation,
    choice,
    normalising_grid,
    option,
    patch_coordinates,
    rotation_flops,
)
from vit.positions.pairs import from_halves, to_halves
from vit.positions.rope import check_head_width
from vit.workspace import Workspace


@dataclass(frozen=True)
class Dinov3RotaryPosition(Position):
    """Rotation of pairs of channels of queries and keys by 2 pi c / base^(4i/K), i < K/4.

    The coordinate c of a patch is that of its centre, the image being [-1, 1]: the row for the first K/4 pairs, the
    column for the others. In training, the coordinates of a step may be changed at random, in this order: shifted along
    each axis, stretched along each axis, and scaled. The head width K must be a multiple of 4.
    """

    base: float = option(
        100.0, "a number above 1", lambda value: value > 1, "pair i has the period base^(4i/K), in half image sides"
    )
    shift: float = option(0.0, "at least 0", lambda value: value >= 0, "largest shift in training; 0 for none")
    jitter: float = option(
        1.0, "at least 1", lambda value: value >= 1, "largest stretch of an axis in training; 1 for none"
    )
    rescale: float = option(1.0, "at least 1", lambda value: value >= 1, "largest scale in training; 1 for none")
    pairs: str = choice(
        "interleaved", ("interleaved", "half"), "pairs (2j, 2j+1), or (j, j+K/2) in saved weights as in DINOv3"
    )

    description: ClassVar[str] = "2-D rotary by normalised row and column"
    acts_on: ClassVar[str] = "queries and keys"
    other_grids: ClassVar[tuple[str, ...]] = ("interpolate", "extend")
    source: ClassVar[str] = "Simeoni et al. 2025, arXiv 2508.10104"

    def check(self, config: Geometry) -> None:
        check_head_width(self, config, 4)

    @property
    def random(self) -> bool:
        """Whether coordinates change in training."""
        return self.shift > 0 or self.jitter > 1 or self.rescale > 1

    def tables(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        shape = 1, config.patches, config.head_width // 2
        return dict.fromkeys(("cos", "sin"), shape) if self.random else {}

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        angles = np.stack(
            [self._angles(config, generators[run] if generators else None) for run in range(len(tables["cos"]))]
        )
        for name, function in (("cos", np.cos), ("sin", np.sin)):
            tables[name][:, 0] = xp.asarray(function(angles), dtype=tables[name].dtype)

    def flops(self, config: Geometry) -> int:
        return rotation_flops(config)

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        if self.random:
            cos, sin = workspace.tables["cos"], workspace.tables["sin"]
        else:
            angles = self._angles(config)[None, None]
            cos, sin = (workspace.ops.asarray(f(angles)) for f in (np.cos, np.sin))
        return [BlockHook(workspace, config, Rotation(cos, sin))] * config.depth

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        return from_halves(state, config) if self.pairs == "half" else dict(state)

    def external_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        return to_halves(state, config) if self.pairs == "half" else dict(state)

    def _angles(self, config: Geometry, generator: np.random.Generator | None = None) -> np.ndarray:
        """Return the angles (N, K/2) in radians, at random coordinates if a generator is given."""
        x, y = patch_coordinates(config.grid)
        size = normalising_grid(self, config)
        coordinates = 2 * (np.stack([y, x], axis=1) + 0.5 - (config.grid - size) / 2) / size - 1  # (N, 2)
        if generator is not None:
            coordinates = coordinates + generator.uniform(-self.shift, self.shift, 2)
            coordinates *= np.exp(generator.uniform(-1, 1, 2) * np.log(self.jitter))
            coordinates *= np.exp(generator.uniform(-1, 1) * np.log(self.rescale))
        periods = self.base ** (4 * np.arange(config.head_width // 4) / config.head_width)
        return (2 * np.pi * coordinates[:, :, None] / periods).reshape(len(x), -1)
