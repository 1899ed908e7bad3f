"""Small models of an encoding, and passes that can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit.backend.numpy_ops import NumpyOps
from vit.backend.ops import Ops
from vit.config import ViTConfig
from vit.errors import ConfigError
from vit.model import Network, ViT
from vit.positions import encoding

Array = np.ndarray[Any, Any]

SHAPE: dict[str, Any] = {"patch_size": 2, "channels": 2, "classes": 5, "depth": 2, "heads": 2}
GRIDS, WIDTHS = (3, 4), (16, 32, 64)
"""Patches along a side and widths, of which the first that the encoding supports are used."""
IMAGES = 3
POOLS = {"mean": "without a class token", "cls": "with a class token"}


class Failure(Exception):
    """A check that fails; the message says what is wrong."""


def small_configs(text: str) -> tuple[dict[str, ViTConfig], list[str]]:
    """Return a small model for each pooling that the encoding supports, and remarks on what it does not support."""
    refusals: dict[str, ConfigError] = {}

    def make(grid: int, width: int, pool: str) -> ViTConfig | None:
        try:
            return ViTConfig(**SHAPE, image_size=2 * grid, width=width, pool=pool, position=text)
        except ConfigError as error:
            refusals.setdefault(f"{grid} {width} {pool}", error)
            return None

    for width in WIDTHS:
        for grid in GRIDS:
            found = {pool: config for pool in POOLS if (config := make(grid, width, pool))}
            if found:
                remarks = [
                    f"a model {POOLS[pool]} is refused: {refusals[f'{grid} {width} {pool}']}"
                    for pool in POOLS
                    if pool not in found
                ]
                if grid != GRIDS[0]:
                    pool = next(iter(found))
                    refusal = refusals[f"{GRIDS[0]} {width} {pool}"]
                    remarks.append(f"an odd grid is refused: {refusal}; the checks use an even one")
                return found, remarks
    raise next(iter(refusals.values()))


def trial_model(config: ViTConfig, seeds: Sequence[int] = (1, 2), dtype: str = "float64") -> ViT:
    """Return a model far from its initial symmetries: no zero bias, no unit norm, scores that matter."""
    model = ViT(config, NumpyOps(dtype), list(seeds))
    learned = declared_names(config)
    for run, seed in enumerate(seeds):
        for i, name in enumerate(sorted(model.parameters)):
            values = model.parameters[name][run]
            largest = float(np.abs(values).max(initial=0.0))
            scale = 0.1 * largest if name in learned and largest else 0.25
            values += scale * np.random.default_rng((seed, i)).normal(size=values.shape)
    return model


def declared_names(config: ViTConfig) -> set[str]:
    return {parameter.name for parameter in encoding(config.position).declare(config)}


def images_of(config: ViTConfig, runs: int, images: int = IMAGES, seed: int = 0) -> Array:
    side = config.image_size
    return np.random.default_rng((3, seed)).normal(size=(runs, images, side, side, config.channels))


@dataclass
class Pass:
    """Passes of one network, with the gradients of the logits times fixed random numbers."""

    model: ViT
    network: Network

    @classmethod
    def of(cls, model: ViT, images: int = IMAGES, ops: Ops | None = None) -> "Pass":
        network = model.network(images, ops=ops)
        for views in (network.workspace.gradients, network.workspace.dtables):
            views.flat[...] = np.nan  # so that what no backward pass writes is found
        return cls(model, network)

    def logits(self, images: Array) -> Array:
        self.model.derive()
        self.network.load(images)
        return np.array(self.network.logits())

    def gradients(self, upstream: Array) -> dict[str, Array]:
        """Return the gradients of the sum of the last logits times `upstream`, of every parameter."""
        workspace = self.network.workspace
        self.network.backward(upstream.copy())
        self.model.derive_backward(workspace.dtables, workspace.gradients)
        return {name: np.array(array) for name, array in workspace.gradients.items()}


def upstream_of(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(4).normal(size=shape)


def difference(actual: Array, expected: Array) -> float:
    """Return the largest difference relative to the largest expected value."""
    if not np.isfinite(actual).all():
        return np.inf
    largest = np.abs(expected).max(initial=0.0)
    return float(np.abs(actual - expected).max(initial=0.0) / max(largest, 1e-9))


def by_percent(value: float) -> str:
    return "by values that are not finite" if not np.isfinite(value) else f"by {100 * value:.2g} %"
