"""Base class of positional encodings: three hooks with their backward passes, which do nothing by default.

To add an encoding, subclass `Position` in a new module and register it in `vit/positions/__init__.py`.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np

from vit.backend import Array, Ops
from vit.parameters import Parameter, Views


class Geometry(Protocol):
    """Properties of a model that encodings use. `vit.ViTConfig` has them."""

    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_width(self) -> int: ...
    @property
    def grid(self) -> int: ...
    @property
    def patches(self) -> int: ...
    @property
    def prefix(self) -> int: ...
    @property
    def tokens(self) -> int: ...


class Position:
    """Base class of positional encodings. Without overrides, it encodes nothing. Each network has its own instance.

    Subclasses must define `description` and may override the hooks below.

    Shapes: R runs, B images, N patches in row-major order, T = prefix + N tokens, D width, H heads, K head width.
    Prefix tokens (a class token) come first and get no position: they are neither added to nor rotated.
    """

    description: ClassVar[str]
    traceable: ClassVar[bool] = False
    """Whether a step can be captured and replayed: the hooks call only methods of `ops` that a captured program
    supports, on whole arrays. An encoding that computes with array expressions must leave it False."""

    fusible: ClassVar[bool] = False
    """Whether attention may be one fused kernel: the encoding changes queries and keys only by `rotation`, and does not
    change the scores."""
    rotation: tuple[Array | None, Array | None] = (None, None)
    """Cosines and sines (N, K/2) of the angles by which pairs of channels are rotated; None for no rotation."""

    def __init_subclass__(cls) -> None:
        for flag in ("traceable", "fusible"):
            setattr(cls, flag, cls.__dict__.get(flag, False))  # not inherited, because the hooks may differ
        own = {"rotate_queries_keys", "rotate_queries_keys_backward", "add_to_scores", "add_to_scores_backward"}
        if cls.fusible and (changed := sorted(own & set(cls.__dict__))):
            raise TypeError(f"{cls.__name__} is fusible, so it must not override {', '.join(changed)}")
        if not isinstance(getattr(cls, "description", None), str):
            raise TypeError(f"{cls.__name__}.description must be a string that describes the encoding in reports")

    def __init__(self, config: Geometry, ops: Ops, parameters: Views, gradients: Views) -> None:
        """`parameters` and `gradients` contain arrays (R, *shape) of the parameters that `declare` returns."""
        self.config = config
        self.ops = ops

    @classmethod
    def check(cls, config: Geometry) -> None:
        """Raise `ConfigError` if the encoding does not support the model."""

    @classmethod
    def declare(cls, config: Geometry) -> list[Parameter]:
        """Return the learned parameters of the encoding."""
        return []

    @classmethod
    def fixed_state(cls, config: Geometry) -> dict[str, np.ndarray]:
        """Return constant arrays that other implementations read from a checkpoint and this one computes."""
        return {}

    @classmethod
    def adapt_state(cls, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        """Return a loaded state adapted to `config`, for instance to another grid of patches."""
        return dict(state)

    def start_backward(self) -> None:
        """Clear gradients that are summed over the layers. Called before the other hooks of a backward pass."""

    def add_to_tokens(self, tokens: Array) -> None:
        """Add to the patch tokens (R, B, N, D) in place, before the first block."""

    def add_to_tokens_backward(self, dtokens: Array) -> None:
        """Overwrite the gradients of the parameters that `add_to_tokens` used. `dtokens` must not be changed."""

    def rotate_queries_keys(self, qkv: Array, bias: Array, scale: float) -> None:
        """Add the bias, scale the queries, and rotate queries and keys, in place.

        `qkv` (R, B, T, 3, H, K) is the projection of queries, keys and values without bias. An override must add `bias`
        (R, 3 H K) and multiply the queries by `scale`. The default rotates queries and keys by `rotation`, as fused
        attention on a GPU does.
        """
        cos, sin = self.rotation
        if cos is None or sin is None:
            self.ops.qkv_bias(qkv, bias, scale)
        else:
            self.ops.qkv_bias_rotate(qkv, bias, scale, cos, sin, self.config.prefix)

    def rotate_queries_keys_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        """Replace `dqkv` by the gradient of the projection, in place, and overwrite `dbias` (R, 3 H K)."""
        cos, sin = self.rotation
        if cos is None or sin is None:
            self.ops.qkv_bias_backward(dqkv, scale, dbias=dbias)
        else:
            self.ops.qkv_bias_rotate_backward(dqkv, scale, cos, sin, self.config.prefix, dbias=dbias)

    def add_to_scores(self, scores: Array) -> None:
        """Add to the scaled scores (R, B, H, T, T) in place, before the softmax. Rows are queries, columns keys."""

    def add_to_scores_backward(self, dscores: Array) -> None:
        """Add to the gradients of the parameters that `add_to_scores` used. Every layer calls it."""


def patch_coordinates(grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the column x and the row y of each patch, two integer arrays (N,) in row-major order."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    return x, y
