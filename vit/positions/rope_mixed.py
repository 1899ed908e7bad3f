"""Rotary positions with learned 2-D frequencies, "RoPE-Mixed" of rope-vit (Heo et al., ECCV 2024, arXiv 2403.13298)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from vit.backend import Array
from vit.parameters import Parameter
from vit.positions.base import BlockHook, Geometry, Position, Rotation, coordinates, option, rotation_flops
from vit.positions.rope import check_head_width
from vit.workspace import Workspace

FREQUENCIES = "rope.freqs"


@dataclass(frozen=True)
class MixedRotaryPosition(Position):
    """Rotation of pairs of channels (2j, 2j+1) of queries and keys by x fx + y fy, x the column and y the row.

    The frequencies (2, depth, H, K/2), fx first, are learned for each block, head and pair. At the start, pair i < K/4
    has the magnitude base^(-4i/K) and a random direction for each head; pair i + K/4 is orthogonal to it. The head
    width K must be a multiple of 4.
    """

    base: float = option(10.0, "a number above 1", lambda value: value > 1, "pair i starts at base^(-4i/K) per patch")

    description: ClassVar[str] = "2-D rotary with learned frequencies for each block and head"
    acts_on: ClassVar[str] = "queries and keys"
    other_grids: ClassVar[tuple[str, ...]] = ("extend", "interpolate")
    source: ClassVar[str] = "Heo et al. 2024, arXiv 2403.13298"

    def check(self, config: Geometry) -> None:
        check_head_width(self, config, 4)

    def declare(self, config: Geometry) -> list[Parameter]:
        return [Parameter(FREQUENCIES, (2, config.depth, config.heads, config.head_width // 2), self._initial)]

    def _initial(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        _, depth, heads, half = shape
        magnitude = self.base ** (-2 * np.arange(half // 2) / half)
        direction = generator.uniform(0, 2 * np.pi, (depth, heads, 1))
        halves = [(magnitude * np.cos(a), magnitude * np.sin(a)) for a in (direction, direction + np.pi / 2)]
        return np.stack([np.concatenate(part, axis=-1) for part in zip(*halves, strict=True)])

    def tables(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("cos", "sin"), _shape(config))

    def table_gradients(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {"angles": _shape(config)}

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        frequencies = parameters[FREQUENCIES]  # (R, 2, depth, H, K/2)
        x, y = self._columns(config, xp, frequencies.dtype)
        angles = x * frequencies[:, 0, ..., None, :] + y * frequencies[:, 1, ..., None, :]
        xp.cos(angles, out=tables["cos"])
        xp.sin(angles, out=tables["sin"])

    def derive_backward(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        dtables: Mapping[str, Array],
        gradients: Mapping[str, Array],
    ) -> None:
        for axis, coordinate in enumerate(self._columns(config, xp, dtables["angles"].dtype)):
            xp.sum(dtables["angles"] * coordinate, axis=-2, out=gradients[FREQUENCIES][:, axis])

    def _columns(self, config: Geometry, xp: ModuleType, dtype: np.dtype) -> tuple[Array, Array]:
        """Return the column and the row of each patch, (N, 1)."""
        x, y = (xp.asarray(c[:, None], dtype=dtype) for c in coordinates(self, config))
        return x, y

    def flops(self, config: Geometry) -> int:
        return rotation_flops(config)

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        cos, sin, dangles = workspace.tables["cos"], workspace.tables["sin"], workspace.dtables["angles"]
        return [
            BlockHook(workspace, config, Rotation(cos[:, i], sin[:, i], dangles[:, i])) for i in range(config.depth)
        ]


def _shape(config: Geometry) -> tuple[int, ...]:
    return config.depth, config.heads, config.patches, config.head_width // 2
