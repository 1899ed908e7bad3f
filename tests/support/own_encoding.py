"""The source of an encoding of one's own, right and with one mistake at a time."""

from pathlib import Path

RIGHT = '''
"""Learned penalty on the distance of two patches."""

import threading
from dataclasses import dataclass

import numpy as np

from vit import ConfigError
from vit.parameters import Parameter, ones
from vit.positions import BlockHook, Position, ScoreBias
from vit.positions.base import option, patch_coordinates


@dataclass(frozen=True)
class Mine(Position):
    """Adds -slope_h * start * distance to the scores of patches; slope (H,) is learned."""

    start: float = option(0.5, "above 0", lambda value: value > 0, "penalty at the start of training")

    description = "learned penalty on distant patches"
    acts_on = "scores"
    other_grids = "extend"

    def declare(self, config):
        return [Parameter("slope", (config.heads,), ones)]

    def tables(self, config):
        return {"bias": (config.heads, config.tokens, config.tokens)}

    def table_gradients(self, config):
        return {"bias": (config.depth, config.heads, config.tokens, config.tokens)}

    def distance(self, config, xp):
        x, y = patch_coordinates(config.grid)
        distance = np.zeros((config.tokens, config.tokens))
        distance[config.prefix :, config.prefix :] = np.hypot(x[:, None] - x, y[:, None] - y)
        return self.start * xp.asarray(distance)

    def derive(self, config, xp, parameters, tables, generators):
        tables["bias"][...] = -parameters["slope"][:, :, None, None] * self.distance(config, xp)

    def derive_backward(self, config, xp, parameters, tables, dtables, gradients):
        dbias = dtables["bias"].sum(axis=1)
        gradients["slope"][...] = -(dbias * self.distance(config, xp)).sum(axis=(2, 3))

    def block_hooks(self, config, workspace):
        bias, dbias = workspace.tables["bias"], workspace.dtables["bias"]
        biases = [ScoreBias(bias, dbias[:, i]) for i in range(config.depth)]
        return [BlockHook(workspace, config, score_bias=each) for each in biases]
'''

HOOKS = RIGHT[RIGHT.index("    def block_hooks") :]
BY_HAND = """
    def block_hooks(self, config, workspace):
        return [Hook(workspace, config, i) for i in range(config.depth)]


class Hook(BlockHook):
    def __init__(self, workspace, config, i):
        super().__init__(workspace, config)
        self.bias, self.dbias = workspace.tables["bias"], workspace.dtables["bias"][:, i]

    def scores(self, scores, qkv):
        scores += self.bias[:, None]

    def scores_backward(self, dscores, qkv, dqkv):
        self.dbias[...] = dscores.sum(axis=1)
"""


def source(*changes: tuple[str, str], by_hand: bool = False) -> str:
    """The encoding with parts of its source replaced. `by_hand` has array expressions instead of a ScoreBias."""
    text = RIGHT.replace(HOOKS, BY_HAND) if by_hand else RIGHT
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def write(path: Path, *changes: tuple[str, str], by_hand: bool = False) -> Path:
    path.write_text(source(*changes, by_hand=by_hand))
    return path
