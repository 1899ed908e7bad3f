"""Penalty on the scores of distant patches: ALiBi (Press et al. 2021, arXiv 2108.12409) in two dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vit.positions.base import BlockHook, Geometry, Position, ScoreBias, choice, coordinates
from vit.workspace import Workspace


@dataclass(frozen=True)
class AlibiPosition(Position):
    """Subtracts slope_h times the distance of two patches from their score; slope_h = 2^(-8 (h + 1) / H), h < H.

    There is nothing to learn. The class token gets no penalty. If H is not a power of two, the original takes slopes
    from the two nearest powers instead.
    """

    distance: str = choice("euclidean", ("euclidean", "manhattan"), "distance of two patches")

    description: ClassVar[str] = "penalty on the scores of distant patches, with a fixed slope for each head"
    acts_on: ClassVar[str] = "scores"
    other_grids: ClassVar[tuple[str, ...]] = ("extend", "interpolate")
    source: ClassVar[str] = "Press et al. 2021, arXiv 2108.12409"

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        score_bias = ScoreBias(workspace.ops.asarray(self._bias(config)[None]))
        return [BlockHook(workspace, config, score_bias=score_bias)] * config.depth

    def _bias(self, config: Geometry) -> np.ndarray:
        """Return the bias of the scores, (H, T, T)."""
        dx, dy = (np.abs(c[:, None] - c) for c in coordinates(self, config))
        slopes = 2.0 ** (-8 * np.arange(1, config.heads + 1) / config.heads)
        distance = np.hypot(dx, dy) if self.distance == "euclidean" else dx + dy
        bias = np.zeros((config.heads, config.tokens, config.tokens))
        bias[:, config.prefix :, config.prefix :] = -slopes[:, None, None] * distance
        return bias
