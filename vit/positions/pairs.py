"""Order of the channels of queries and keys: the pairs that rotary positions rotate.

Here a pair is two adjacent channels. Some published models pair channel j of a head with channel j + K/2 instead.
Rotating either way is the same up to the order of the rows of the projection of queries and keys.
"""

import re
from collections.abc import Mapping

import numpy as np

from vit.positions.base import Geometry

_PROJECTION = re.compile(r"blocks\.\d+\.attn\.qkv\.(weight|bias)")


def to_halves(state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
    """Return a state in which the pairs of queries and keys are the channels (j, j + K/2) of a head."""
    order = np.arange(config.head_width).reshape(-1, 2).T.ravel()
    return _reorder(state, config, order)


def from_halves(state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
    """Undo `to_halves`."""
    order = np.arange(config.head_width).reshape(2, -1).T.ravel()
    return _reorder(state, config, order)


def _reorder(state: Mapping[str, np.ndarray], config: Geometry, order: np.ndarray) -> dict[str, np.ndarray]:
    return {
        name: _reorder_rows(array, config, order)
        if _PROJECTION.fullmatch(name) and len(array) == 3 * config.width
        else array
        for name, array in state.items()
    }


def _reorder_rows(array: np.ndarray, config: Geometry, order: np.ndarray) -> np.ndarray:
    """Reorder the channels of queries and keys in the rows (3 H K) of a weight or bias."""
    rows = array.reshape(3, config.heads, config.head_width, -1).copy()
    rows[:2] = rows[:2, :, order]
    return rows.reshape(array.shape)
