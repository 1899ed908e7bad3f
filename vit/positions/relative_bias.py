"""Learned bias of attention scores by displacement, as in Swin (Liu et al. 2021, arXiv 2103.14030)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from types import ModuleType
from typing import ClassVar

import numpy as np

from vit.backend import Array
from vit.errors import ConfigError
from vit.parameters import Parameter, truncated_normal
from vit.positions.base import BlockHook, Geometry, Position, ScoreBias, switch
from vit.positions.displacement import spread, sum_back
from vit.positions.tables import resize_square
from vit.workspace import Workspace

TABLE = "relative_position_bias_table"
TABLE_STD = 0.02
PREFIX_ENTRIES = 3
"""Last entries of the table with a class token: class token to patch, patch to class token, and to itself (BEiT)."""


@dataclass(frozen=True)
class SharedBias(Position):
    """Base class of learned biases of the scores, one for each block or one for all blocks."""

    shared: bool = switch(False, "one bias for all blocks instead of one for each")

    description: ClassVar[str] = "learned bias of the scores"
    acts_on: ClassVar[str] = "scores"

    def sites(self, config: Geometry) -> list[str]:
        """Return the names of the modules that have a bias, as in timm."""
        return ["shared_rel_pos"] if self.shared else [f"blocks.{i}.attn.rel_pos" for i in range(config.depth)]

    def tables(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {"bias": (len(self.sites(config)), config.heads, config.tokens, config.tokens)}

    def table_gradients(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {"bias": (config.depth, config.heads, config.tokens, config.tokens)}

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        bias, dbias = workspace.tables["bias"], workspace.dtables["bias"]
        biases = [ScoreBias(bias[:, 0 if self.shared else i], dbias[:, i]) for i in range(config.depth)]
        return [BlockHook(workspace, config, score_bias=score_bias) for score_bias in biases]

    def summed(self, dtables: Mapping[str, Array]) -> Array:
        """Return the gradients of the biases, (R, sites, H, T, T)."""
        dbias = dtables["bias"]
        return dbias.sum(axis=1, keepdims=True) if self.shared else dbias


@dataclass(frozen=True)
class RelativeBiasPosition(SharedBias):
    """Bias of the score of two patches, from a table ((2 g - 1)^2, H) over their displacement.

    Initially truncated normal with standard deviation 0.02. With a class token, three more entries are the biases
    between it and the patches, and of itself.
    """

    description: ClassVar[str] = "learned bias of the scores by displacement, for each head"
    other_grids: ClassVar[tuple[str, ...]] = ("resize",)
    source: ClassVar[str] = "Liu et al. 2021, arXiv 2103.14030"

    def declare(self, config: Geometry) -> list[Parameter]:
        shape = (2 * config.grid - 1) ** 2 + PREFIX_ENTRIES * config.prefix, config.heads
        return [Parameter(f"{site}.{TABLE}", shape, truncated_normal(TABLE_STD)) for site in self.sites(config)]

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        span = 2 * config.grid - 1
        for i, site in enumerate(self.sites(config)):
            table, bias = parameters[f"{site}.{TABLE}"].swapaxes(1, 2), tables["bias"][:, i]  # (R, H, entries)
            spread(xp, table[:, :, : span**2].reshape(len(table), config.heads, span, span), bias, config.prefix)
            if config.prefix:
                to_patch, from_patch, itself = (table[:, :, span**2 + j, None] for j in range(PREFIX_ENTRIES))
                bias[:, :, 0, 1:], bias[:, :, 1:, 0], bias[:, :, 0, :1] = to_patch, from_patch, itself

    def derive_backward(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        dtables: Mapping[str, Array],
        gradients: Mapping[str, Array],
    ) -> None:
        span = 2 * config.grid - 1
        dbias = self.summed(dtables)
        for i, site in enumerate(self.sites(config)):
            dtable = gradients[f"{site}.{TABLE}"].swapaxes(1, 2)
            dtable[:, :, : span**2] = sum_back(xp, dbias[:, i], config.prefix, config.grid).reshape(
                *dtable.shape[:2], -1
            )
            if config.prefix:
                parts = dbias[:, i, :, 0, 1:].sum(-1), dbias[:, i, :, 1:, 0].sum(-1), dbias[:, i, :, 0, 0]
                for j, part in enumerate(parts):
                    dtable[:, :, span**2 + j] = part

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        return {
            name: _resized(name, array, config) if re.search(rf"\b{TABLE}$", name) and array.ndim == 2 else array
            for name, array in state.items()
        }


def _resized(name: str, table: np.ndarray, config: Geometry) -> np.ndarray:
    """Resize the displacements of a table to another grid; the entries of a class token stay."""
    span, extra = 2 * config.grid - 1, PREFIX_ENTRIES * config.prefix
    entries = len(table) - extra
    if entries == span**2:
        return table
    if isqrt(max(entries, 0)) ** 2 != entries or entries < 1:
        raise ConfigError(f"{name} must be the table of a square grid, got {len(table)} entries")
    return np.concatenate([resize_square(table[:entries], span), table[entries:]])
