"""Rotations of queries and keys by matrix exponentials: LieRE (Ostmeier et al. 2024, arXiv 2406.10322)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from vit.backend import Array
from vit.errors import ConfigError
from vit.parameters import Parameter
from vit.positions.base import (
    BlockHook,
    Geometry,
    Position,
    choice,
    normalising_grid,
    option,
    patch_coordinates,
    rotation_flops,
)
from vit.positions.exponential import exponential, exponential_gradient
from vit.workspace import Workspace

GENERATORS = "lie_rope.generators"


@dataclass(frozen=True)
class LieRotaryPosition(Position):
    """Multiplies groups of b channels of queries and keys by exp(x A + y B), with learned skew-symmetric A and B.

    x is the column and y the row of a patch, from 0 to 1 over the image. The parameter (2, L, H', K/b, b, b) holds the
    upper triangles of A and B, initially uniform in [0, 2 pi); the rest of it is not used. L is the depth or 1, H' the
    number of heads or 1. The block size b must divide the head width K. In the published code, y comes first, H' and
    K/b are one axis, and all blocks of a model use the rotations of the first: `layers=shared`.
    """

    block: int = option(8, "an integer of at least 2", lambda value: value >= 2, "channels that rotate together")
    layers: str = choice("own", ("own", "shared"), "rotations of each block of the model, or the same in all")
    heads: str = choice("own", ("own", "shared"), "rotations of each head, or the same in all")

    description: ClassVar[str] = "queries and keys are rotated by learned rotations in several dimensions"
    acts_on: ClassVar[str] = "queries and keys"
    other_grids: ClassVar[tuple[str, ...]] = ("interpolate", "extend")
    source: ClassVar[str] = "Ostmeier et al. 2024, arXiv 2406.10322"

    def check(self, config: Geometry) -> None:
        if config.head_width % self.block:
            raise ConfigError(
                f"block of position 'lie-rope' must divide the head width {config.head_width} (width / heads), got "
                f"{self.block}"
            )

    def _shape(self, config: Geometry) -> tuple[int, int, int]:
        """Return L, H' and the number of groups of a head."""
        layers = config.depth if self.layers == "own" else 1
        return layers, config.heads if self.heads == "own" else 1, config.head_width // self.block

    def declare(self, config: Geometry) -> list[Parameter]:
        return [Parameter(GENERATORS, (2, *self._shape(config), self.block, self.block), _initial)]

    def tables(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        layers, heads, groups = self._shape(config)
        return {"matrices": (layers, heads, config.patches, groups, self.block, self.block)}

    def table_gradients(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {"matrices": (config.depth, *self.tables(config)["matrices"][1:])}

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        exponential(xp, self._skew(config, xp, parameters), tables["matrices"])

    def derive_backward(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        dtables: Mapping[str, Array],
        gradients: Mapping[str, Array],
    ) -> None:
        dmatrices = dtables["matrices"]
        if self.layers == "shared":
            dmatrices = dmatrices.sum(axis=1, keepdims=True)
        dskew = exponential_gradient(xp, self._skew(config, xp, parameters), dmatrices)
        for axis, coordinate in enumerate(self._coordinates(config, xp, dskew.dtype)):
            dtriangle = (dskew * coordinate).sum(axis=3)
            gradients[GENERATORS][:, axis] = xp.triu(dtriangle - dtriangle.swapaxes(-1, -2), 1)

    def _skew(self, config: Geometry, xp: ModuleType, parameters: Mapping[str, Array]) -> Array:
        """Return x A + y B, (R, L, H', N, K/b, b, b)."""
        triangle = xp.triu(parameters[GENERATORS], 1)
        skew = (triangle - triangle.swapaxes(-1, -2))[:, :, :, :, None]  # (R, 2, L, H', 1, K/b, b, b)
        x, y = self._coordinates(config, xp, skew.dtype)
        return x * skew[:, 0] + y * skew[:, 1]

    def _coordinates(self, config: Geometry, xp: ModuleType, dtype: np.dtype) -> tuple[Array, Array]:
        """Return the column and the row of each patch, from 0 to 1, (N, 1, 1, 1)."""
        last = max(normalising_grid(self, config) - 1, 1)
        x, y = (xp.asarray(c[:, None, None, None] / last, dtype=dtype) for c in patch_coordinates(config.grid))
        return x, y

    def flops(self, config: Geometry) -> int:
        return rotation_flops(config, self.block)

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        matrices, dmatrices = workspace.tables["matrices"], workspace.dtables["matrices"]
        own = self.layers == "own"
        return [
            _TurnHook(workspace, config, matrices[:, i if own else 0], dmatrices[:, i]) for i in range(config.depth)
        ]


def _initial(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.triu(generator.uniform(0, 2 * np.pi, shape), 1)


class _TurnHook(BlockHook):
    """Multiplication of queries and keys by the matrices (R, H', N, K/b, b, b) of one block."""

    def __init__(self, workspace: Workspace, config: Geometry, matrices: Array, dmatrices: Array) -> None:
        super().__init__(workspace, config)
        self.matrices, self.dmatrices = matrices, dmatrices

    def queries_keys(self, qkv: Array, bias: Array, scale: float) -> None:
        self.ops.qkv_bias_turn(qkv, bias, scale, self.matrices, self.config.prefix)

    def queries_keys_backward(self, qkv: Array, dqkv: Array, scale: float, *, dbias: Array) -> None:
        sums = {"dbias": dbias, "dmatrices": self.dmatrices}
        self.ops.qkv_bias_turn_backward(qkv, dqkv, scale, self.matrices, self.config.prefix, **sums)
