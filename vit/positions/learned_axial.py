"""Learned table for rows and another for columns, summed (axial positions of Ho et al. 2019, arXiv 1912.12180)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from vit.backend import Array
from vit.parameters import Parameter, truncated_normal
from vit.positions.base import Geometry, Position, TokenHook
from vit.positions.learned import TABLE_STD
from vit.positions.tables import AddTable, bicubic_weights
from vit.workspace import Workspace

ROWS, COLUMNS, TABLE = "pos_embed_rows", "pos_embed_columns", "pos_embed"


@dataclass(frozen=True)
class LearnedAxialPosition(Position):
    """table[y g + x] = rows[y] + columns[x], added to the patch tokens.

    `rows` and `columns` (g, D) are learned, initially truncated normal with standard deviation 0.02.
    """

    description: ClassVar[str] = "learned tables for rows and for columns, added to the tokens"
    acts_on: ClassVar[str] = "tokens"
    other_grids: ClassVar[tuple[str, ...]] = ("resize",)
    source: ClassVar[str] = "Ho et al. 2019, arXiv 1912.12180"

    def declare(self, config: Geometry) -> list[Parameter]:
        shape = (1, config.grid, config.width)
        return [Parameter(name, shape, truncated_normal(TABLE_STD)) for name in (ROWS, COLUMNS)]

    def tables(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {TABLE: (config.patches, config.width)}

    table_gradients = tables

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        rows, columns = parameters[ROWS][:, 0], parameters[COLUMNS][:, 0]
        xp.add(rows[:, :, None], columns[:, None], out=_square(tables[TABLE], config))

    def derive_backward(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        dtables: Mapping[str, Array],
        gradients: Mapping[str, Array],
    ) -> None:
        dtable = _square(dtables[TABLE], config)
        xp.sum(dtable, axis=2, out=gradients[ROWS][:, 0])
        xp.sum(dtable, axis=1, out=gradients[COLUMNS][:, 0])

    def token_hook(self, config: Geometry, workspace: Workspace) -> TokenHook:
        return AddTable(workspace.ops, workspace.tables[TABLE], workspace.dtables.get(TABLE))

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        resized = {
            name: (bicubic_weights(state[name].shape[1], config.grid) @ state[name]).astype(state[name].dtype)
            for name in (ROWS, COLUMNS)
            if name in state and state[name].ndim == 3 and state[name].shape[1] != config.grid
        }
        return {**state, **resized}


def _square(table: Array, config: Geometry) -> Array:
    """Return a view (R, rows, columns, D) of a table (R, N, D)."""
    return table.reshape(len(table), config.grid, config.grid, config.width)
