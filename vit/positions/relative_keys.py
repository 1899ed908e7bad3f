"""Learned vectors by displacement, added to the keys (Shaw et al. 2018, arXiv 1803.02155), in two dimensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vit.backend import Array
from vit.parameters import Parameter, truncated_normal
from vit.positions.base import BlockHook, Geometry, Position
from vit.positions.tables import bicubic_weights
from vit.workspace import Workspace

STD = 0.02


@dataclass(frozen=True)
class RelativeKeysPosition(Position):
    """Adds q . (columns[x' - x + g - 1] + rows[y' - y + g - 1]) to the score of a query at (x, y), a key at (x', y').

    The query q is scaled by K^-1/2. Each block has a table (2, 2 g - 1, K) of vectors, first those by column, then
    those by row, shared by its heads; initially truncated normal with standard deviation 0.02. Nothing is added for
    the class token.
    """

    description: ClassVar[str] = "products of queries with learned vectors by displacement, added to the scores"
    acts_on: ClassVar[str] = "scores"
    other_grids: ClassVar[tuple[str, ...]] = ("resize",)
    source: ClassVar[str] = "Shaw et al. 2018, arXiv 1803.02155"

    def declare(self, config: Geometry) -> list[Parameter]:
        shape = 2, 2 * config.grid - 1, config.head_width
        return [Parameter(_name(i), shape, truncated_normal(STD)) for i in range(config.depth)]

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        span = 2 * config.grid - 1
        names = [_name(i) for i in range(config.depth)]
        resized = {
            name: (bicubic_weights(state[name].shape[1], span) @ state[name]).astype(state[name].dtype)
            for name in names
            if name in state and state[name].ndim == 3 and state[name].shape[1] != span
        }
        return {**state, **resized}

    def flops(self, config: Geometry) -> int:
        vectors = 2 * (2 * config.grid - 1)
        return 2 * config.tokens * config.width * vectors * config.depth

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        return [_RelativeKeysHook(workspace, config, _name(i)) for i in range(config.depth)]


def _name(block: int) -> str:
    return f"blocks.{block}.attn.rel_pos"


class _RelativeKeysHook(BlockHook):
    """Products of the queries with the vectors of one block, (R, B, T, H, M) with M = 2 (2 g - 1)."""

    def __init__(self, workspace: Workspace, config: Geometry, name: str) -> None:
        super().__init__(workspace, config)
        self.name = name
        self.vectors, self.dvectors = (
            views[name].reshape(workspace.runs, -1, config.head_width)
            for views in (workspace.weights, workspace.gradients)
        )

    def scores(self, scores: Array, qkv: Array) -> None:
        products = self._products(qkv)
        queries = qkv[:, :, :, 0].swapaxes(2, 3)  # (R, B, H, T, K)
        self.ops.matmul(queries, self.vectors[:, None, None], trans_b=True, out=products.swapaxes(2, 3))
        self.ops.add_relative_scores(scores, products, self.config.prefix)

    def scores_backward(self, dscores: Array, qkv: Array, dqkv: Array) -> None:
        runs, batch, tokens, _, heads, head_width = qkv.shape
        scratch, matmul = self.workspace.scratch, self.ops.matmul
        dproducts = self._products(qkv)
        self.ops.relative_scores_gradient(dscores, self.config.prefix, out=dproducts)
        by_head = dproducts.swapaxes(2, 3)
        dqueries = scratch(self.name, "dqueries", batch, tokens, heads, head_width)
        matmul(by_head, self.vectors[:, None, None], out=dqueries.swapaxes(2, 3))
        self.ops.add_to_queries(dqkv, dqueries)
        parts = scratch(self.name, "dvectors", batch, heads, *self.vectors.shape[1:])
        matmul(by_head, qkv[:, :, :, 0].swapaxes(2, 3), trans_a=True, out=parts)
        self.ops.sum_tokens(parts.reshape(runs, batch, heads, -1), out=self.dvectors.reshape(runs, -1))

    def _products(self, qkv: Array) -> Array:
        _, batch, tokens, _, heads, _ = qkv.shape
        return self.workspace.scratch(self.name, "products", batch, tokens, heads, self.vectors.shape[1])
