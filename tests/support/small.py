"""Small models and random inputs, shared by the tests of ``vit``."""

import itertools
from typing import Any

import numpy as np

from vit import ViT, ViTConfig, get_ops
from vit.backend import Array, Ops
from vit.parameters import Parameter, Views, truncated_normal
from vit.positions import Position

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
    """Largest difference relative to the largest expected magnitude."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def worst(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest `distance` between arrays of the same name; NaN where one is NaN."""
    assert actual.keys() == expected.keys()
    return float(np.max([distance(actual[name], expected[name]) for name in expected]))


def without_key_bias(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`state` without what softmax cannot see: there the gradient is rounding, which Adam makes as large as any."""
    parts = {name: np.split(value, 3) for name, value in state.items() if name.endswith("qkv.bias")}
    return {**state, **{name: np.concatenate([query, value]) for name, (query, _, value) in parts.items()}}


class Slope(Position):
    """A learned slope of each head times the distance of two patches along the row of patches."""

    description = "an encoding of a test"

    def __init__(self, config: ViTConfig, ops: Ops, parameters: Views, gradients: Views) -> None:
        super().__init__(config, ops, parameters, gradients)
        at = np.arange(config.patches, dtype=np.float64)
        self.distance = ops.asarray(np.abs(at[:, None] - at))
        self.slope, self.dslope = parameters["slope"], gradients["slope"]

    @classmethod
    def declare(cls, config: ViTConfig) -> list[Parameter]:
        return [Parameter("slope", (config.heads,), truncated_normal(0.1))]

    def start_backward(self) -> None:
        self.dslope[...] = 0

    def add_to_scores(self, scores: Array) -> None:
        prefix = self.config.prefix
        scores[..., prefix:, prefix:] -= self.slope[:, None, :, None, None] * self.distance

    def add_to_scores_backward(self, dscores: Array) -> None:
        prefix = self.config.prefix
        self.dslope -= (dscores[..., prefix:, prefix:] * self.distance).sum(axis=(1, 3, 4))
