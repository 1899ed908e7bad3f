"""Small models and random inputs, shared by the tests of ``vit``."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from vit import ViT, ViTConfig, get_ops
from vit.backend import Array
from vit.parameters import Parameter, truncated_normal
from vit.positions import BlockHook, Position, ScoreBias
from vit.positions.base import Geometry
from vit.workspace import Workspace

POSITIONS = ("none", "learned", "sinusoidal", "rope")
POOLS = ("mean", "cls")
BOTH = list(itertools.product(POSITIONS, POOLS))
ENCODINGS = (
    *POSITIONS,
    "learned-axial",
    "sinusoidal-1d",
    "rope(base=10)",
    "rope(coordinates=centred)",
    "rope-mixed",
    "rope-mixed(base=30)",
    "rope-dinov3",
    "rope-dinov3(base=30,pairs=half)",
    "lie-rope",
    "lie-rope(block=2,layers=shared)",
    "lie-rope(block=4,heads=shared)",
    "relative-bias",
    "relative-bias(shared=true)",
    "relative-bias-mlp(hidden=5)",
    "relative-bias-mlp(shared=true,hidden=5,mode=cr)",
    "relative-keys",
    "alibi-2d",
    "alibi-2d(distance=manhattan)",
    "cpe",
    "cpe(where=each)",
    "rope+learned",
    "rope+sinusoidal",
    "cpe+relative-keys+relative-bias+rope-mixed+learned-axial",
)
"""Every encoding, with every option, and sums."""


def config(**changes: Any) -> ViTConfig:
    """16 tokens, head width 8; ``changes`` replace single fields."""
    fields = {
        "image_size": 8,
        "patch_size": 2,
        "channels": 2,
        "classes": 5,
        "width": 16,
        "depth": 2,
        "heads": 2,
    }
    return ViTConfig(**{**fields, **changes})


def build(config: ViTConfig, seeds: tuple[int, ...] = (0,), dtype: str = "float64") -> ViT:
    return ViT(config, ops=get_ops("numpy", dtype=dtype), seeds=list(seeds))


def scrambled(config: ViTConfig, seeds: tuple[int, ...] = (0,), dtype: str = "float64") -> ViT:
    """A model far from its initial symmetries: no zero bias, no unit norm, scores that matter."""
    model = build(config, seeds, dtype)
    for run, seed in enumerate(seeds):
        rng = np.random.default_rng((1, seed))
        state = model.state_dict(run=run)
        model.load_state_dict({k: state[k] + 0.25 * rng.normal(size=state[k].shape) for k in sorted(state)}, run=run)
    return model


def batch(
    config: ViTConfig, size: int, runs: int = 1, seed: int = 0, dtype: str = "float64"
) -> tuple[np.ndarray, np.ndarray]:
    """Images (R, B, h, w, c) and labels (R, B)."""
    rng = np.random.default_rng((2, seed))
    side = config.image_size
    images = rng.normal(size=(runs, size, side, side, config.channels)).astype(dtype)
    return images, rng.integers(config.classes, size=(runs, size))


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected magnitude, or itself if all of `expected` is 0."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / (np.abs(expected).max() or 1.0))


def worst(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest `distance` between arrays of the same name; NaN where one is NaN."""
    assert actual.keys() == expected.keys()
    return float(np.max([distance(actual[name], expected[name]) for name in expected]))


def without_key_bias(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`state` without what softmax cannot see: there the gradient is rounding, which Adam makes as large as any."""
    parts = {name: np.split(value, 3) for name, value in state.items() if name.endswith("qkv.bias")}
    return {**state, **{name: np.concatenate([query, value]) for name, (query, _, value) in parts.items()}}


@dataclass(frozen=True)
class Slope(Position):
    """A learned slope of each head times the distance of two patches along the row of patches, as a bias of the scores.

    The slopes are the same in every block; each block has its own gradient of the bias.
    """

    name: ClassVar[str] = "slope"
    description: ClassVar[str] = "an encoding of a test"
    acts_on: ClassVar[str] = "scores"

    def declare(self, config: Geometry) -> list[Parameter]:
        return [Parameter("slope", (config.heads,), truncated_normal(0.1))]

    def tables(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {"bias": (config.heads, config.tokens, config.tokens)}

    def table_gradients(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        return {"bias of each block": (config.depth, *self.tables(config)["bias"])}

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        tables["bias"][...] = -parameters["slope"][:, :, None, None] * self._distance(config, xp)

    def derive_backward(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        dtables: Mapping[str, Array],
        gradients: Mapping[str, Array],
    ) -> None:
        dbias = dtables["bias of each block"].sum(axis=1)
        gradients["slope"][...] = -(dbias * self._distance(config, xp)).sum(axis=(2, 3))

    def block_hooks(self, config: Geometry, workspace: Workspace) -> list[BlockHook]:
        dbiases = workspace.dtables.get("bias of each block")
        biases = [
            ScoreBias(workspace.tables["bias"], None if dbiases is None else dbiases[:, i]) for i in range(config.depth)
        ]
        return [self.block_hook(config, workspace, bias) for bias in biases]

    def block_hook(self, config: Geometry, workspace: Workspace, bias: ScoreBias) -> BlockHook:
        return BlockHook(workspace, config, score_bias=bias)

    def _distance(self, config: Geometry, xp: ModuleType) -> Array:
        at, prefix = np.arange(config.patches, dtype=np.float64), config.prefix
        return xp.asarray(np.pad(np.abs(at[:, None] - at), ((prefix, 0), (prefix, 0))))


class ByExpressions(BlockHook):
    """Adds the bias of the scores with array expressions, which no backend captures."""

    def scores(self, scores: Array, qkv: Array) -> None:
        assert self.score_bias is not None
        scores += self.score_bias.bias[:, None]

    def scores_backward(self, dscores: Array, qkv: Array, dqkv: Array) -> None:
        assert self.score_bias is not None
        assert self.score_bias.dbias is not None
        self.score_bias.dbias[...] = dscores.sum(axis=1)


@dataclass(frozen=True)
class SlopeByExpressions(Slope):
    """`Slope` without kernels."""

    name: ClassVar[str] = "slope-by-expressions"
    description: ClassVar[str] = "another encoding of a test"

    def block_hook(self, config: Geometry, workspace: Workspace, bias: ScoreBias) -> BlockHook:
        return ByExpressions(workspace, config, score_bias=bias)
