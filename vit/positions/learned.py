"""Learned position table, as in the original ViT (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import numpy as np

from vit.errors import ConfigError
from vit.parameters import Parameter, truncated_normal
from vit.positions.base import Geometry, Position, TokenHook
from vit.positions.tables import AddTable, resize_square
from vit.workspace import Workspace

TABLE = "pos_embed"
TABLE_STD = 0.02


@dataclass(frozen=True)
class LearnedPosition(Position):
    """Learned table (N, D) added to the patch tokens, initially truncated normal with standard deviation 0.02."""

    description: ClassVar[str] = "learned table of shape (patches, width), added to the tokens"
    acts_on: ClassVar[str] = "tokens"
    other_grids: ClassVar[tuple[str, ...]] = ("resize",)
    source: ClassVar[str] = "Dosovitskiy et al. 2020, arXiv 2010.11929"

    def declare(self, config: Geometry) -> list[Parameter]:
        return [Parameter(TABLE, (1, config.patches, config.width), truncated_normal(TABLE_STD))]

    def token_hook(self, config: Geometry, workspace: Workspace) -> TokenHook:
        return AddTable(workspace.ops, workspace.parameters[TABLE][:, 0], workspace.gradients[TABLE][:, 0])

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        table = state.get(TABLE)
        if table is None or table.ndim != 3 or table.shape[1] == config.patches:
            return dict(state)
        if isqrt(table.shape[1]) ** 2 != table.shape[1]:
            raise ConfigError(f"{TABLE} must be the table of a square grid, got {table.shape[1]} positions")
        return {**state, TABLE: resize_square(table[0], config.grid)[None]}
