"""Text labels of config values and runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ablations.config.positions import position_label
from ablations.config.run_config import RunConfig

Level = Any


def plain_level(level: Level) -> Level:
    """Return a level as in a RunConfig, from its form in JSON (lists) or pandas (NaN for None, floats)."""
    if isinstance(level, list):
        return tuple(level)
    return None if isinstance(level, float) and np.isnan(level) else level


def level_text(level: Level) -> str:
    """Return a level of an axis as text: `rope`, `4`, `0.002`, `1e+30`, `cat+dog`, `all` for no limit."""
    level = plain_level(level)
    if level is None:
        return "all"
    if isinstance(level, float) and level.is_integer() and "e" not in str(level):
        level = int(level)
    if isinstance(level, str) and "@" in level:
        level = position_label(level)
    return "+".join(map(str, level)) if isinstance(level, tuple) else str(level)


def name_level(axis: str, level: Level) -> str:
    """Return a level with its axis, such as `depth 4`; a position without it: `rope`."""
    text = level_text(level)
    return text if axis == "position" else f"{axis.replace('_', ' ')} {text}"


def run_label(config: RunConfig, axes: Iterable[str], *, seed: bool = True) -> str:
    """Return a run as text: `rope, depth 2, patch 4, seed 0`."""
    parts = [name_level(axis, getattr(config, axis)) for axis in axes]
    return ", ".join(parts + [f"seed {config.seed}"] * seed)


def count(number: int, what: str) -> str:
    """3 runs, 1 run."""
    return f"{number} {what}{'s' * (number != 1)}"
