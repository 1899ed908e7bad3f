"""Base class of positional encodings: three hooks, each with its backward, each the identity by default.

To add an encoding, subclass `Position` in a file of its own and add a line to the registry in `vit/positions`.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np

from vit.backend import Array, Ops
from vit.parameters import Parameter, Views


class Geometry(Protocol):
    """The properties of a model that encodings use; `vit.ViTConfig` has them."""

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
    """Base class of encodings, which does nothing (encoding `none`). One instance serves one lane of images.

    Shapes: N patches in row-major order, T = prefix + N tokens. Prefix tokens (a class token) come first, are never
    rotated and get no patch position.
    """

    description: ClassVar[str]
    traceable: ClassVar[bool] = False
    """Whether the hooks use only methods of `ops` that a captured program can hold, on whole arrays, so that a step can
    be captured once and replayed. An encoding that computes with array expressions leaves it False and runs uncaptured.
    """

    fusible: ClassVar[bool] = False
    """Whether attention may be one fused kernel: queries and keys are changed by `rotation` only, scores not at all."""
    rotation: tuple[Array | None, Array | None] = (None, None)
    """Cosines and sines (N, K/2) of the angles by which pairs of channels are rotated; None for no rotation."""

    def __init_subclass__(cls) -> None:
        for flag in ("traceable", "fusible"):
            setattr(cls, flag, cls.__dict__.get(flag, False))  # never inherited: the hooks may be others
        own = {"rotate_queries_keys", "rotate_queries_keys_backward", "add_to_scores", "add_to_scores_backward"}
        if cls.fusible and (changed := sorted(own & set(cls.__dict__))):
            raise TypeError(f"{cls.__name__} is fusible, so it must leave {', '.join(changed)} as they are")
        if not isinstance(getattr(cls, "description", None), str):
            raise TypeError(f"{cls.__name__}.description must be a string that describes the encoding in reports")

    def __init__(self, config: Geometry, ops: Ops, parameters: Views, gradients: Views) -> None:
        """`parameters` and `gradients` hold what `declare` declares, (R, *shape) each."""
        self.config = config
        self.ops = ops

    @classmethod
    def check(cls, config: Geometry) -> None:
        """Raises `ConfigError` where this encoding cannot serve such a model."""

    @classmethod
    def declare(cls, config: Geometry) -> list[Parameter]:
        """The encoding's own learned parameters."""
        return []

    @classmethod
    def fixed_state(cls, config: Geometry) -> dict[str, np.ndarray]:
        """Constant arrays that another implementation needs in a checkpoint and this one computes."""
        return {}

    @classmethod
    def adapt_state(cls, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        """A loaded state made to fit `config`, for instance when its grid of patches differs."""
        return dict(state)

    def start_backward(self) -> None:
        """Called before the other backward hooks of a pass: clears gradients that are summed over the layers."""

    def add_to_tokens(self, tokens: Array) -> None:
        """In place on the patch tokens (R, B, N, D), before the first block."""

    def add_to_tokens_backward(self, dtokens: Array) -> None:
        """Overwrites the gradients of what `add_to_tokens` added. An addition leaves `dtokens` as it is."""

    def rotate_queries_keys(self, qkv: Array, bias: Array, scale: float) -> None:
        """In place on the projections (R, B, T, 3, H, K) of queries, keys and values, not yet biased.

        Must add `bias` (R, 3 H K) and multiply the queries by `scale`; may then rotate queries and keys. By default
        they are rotated by `rotation`, which the fused attention of a GPU uses too.
        """
        cos, sin = self.rotation
        if cos is None or sin is None:
            self.ops.qkv_bias(qkv, bias, scale)
        else:
            self.ops.qkv_bias_rotate(qkv, bias, scale, cos, sin, self.config.prefix)

    def rotate_queries_keys_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        """Turns gradients back in place, to those of the projections, and overwrites `dbias` (R, 3 H K)."""
        cos, sin = self.rotation
        if cos is None or sin is None:
            self.ops.qkv_bias_backward(dqkv, scale, dbias=dbias)
        else:
            self.ops.qkv_bias_rotate_backward(dqkv, scale, cos, sin, self.config.prefix, dbias=dbias)

    def add_to_scores(self, scores: Array) -> None:
        """In place on the scaled scores (R, B, H, T, T) before the softmax: queries are rows, keys columns."""

    def add_to_scores_backward(self, dscores: Array) -> None:
        """Adds to the gradients of what `add_to_scores` added: every layer calls it."""


def patch_coordinates(grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Column x and row y of every patch, (N,) each, in row-major order."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    return x, y
