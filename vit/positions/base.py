"""Base classes of positional encodings.

An encoding has three parts:

- `Position` describes it: its options, learned parameters, and what it computes from them once per step.
- `TokenHook` acts on the patch tokens before the first block.
- `BlockHook`, one per block, acts on the input of the block, on queries and keys, or on attention scores.

Every hook has a backward pass, and does nothing by default.

Shapes: R runs, B images, N patches in row-major order, T = prefix + N tokens, D width, H heads, K head width. Prefix
tokens (a class token) come first and get no position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np

from vit.backend import Array
from vit.dropout import Branch
from vit.options import Options, choice, option, switch
from vit.parameters import Parameter
from vit.workspace import Workspace

__all__ = [
    "BlockHook",
    "Geometry",
    "Hooks",
    "Position",
    "Rotation",
    "ScoreBias",
    "TokenHook",
    "choice",
    "coordinates",
    "normalising_grid",
    "option",
    "patch_coordinates",
    "rotation_flops",
    "served",
    "switch",
]


class Geometry(Protocol):
    """Properties of a model that encodings use. `vit.ViTConfig` has them."""

    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_width(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def grid(self) -> int: ...
    @property
    def patches(self) -> int: ...
    @property
    def prefix(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def trained_grid(self) -> int | None: ...
    @property
    def other_grid(self) -> str | None: ...


@dataclass(frozen=True)
class Rotation:
    """Rotation of the pairs of channels (2j, 2j+1) of queries and keys by an angle per patch and pair."""

    cos: Array
    sin: Array
    """Of the angles, (R or 1, H or 1, N, K/2)."""
    dangles: Array | None = None
    """Receives the gradient of the angles, (R, H, N, K/2). None for fixed angles."""


@dataclass(frozen=True)
class ScoreBias:
    """Bias added to the scaled scores."""

    bias: Array
    """(R or 1, H, T, T). Rows are queries, columns keys."""
    dbias: Array | None = None
    """Receives the gradient of the bias, (R, H, T, T). None for a fixed bias."""


class TokenHook:
    """What an encoding does to the patch tokens before the first block."""

    def forward(self, tokens: Array) -> None:
        """Add to the patch tokens (R, B, N, D), in place, what does not depend on them."""

    def backward(self, dtokens: Array) -> None:
        """Overwrite the gradients of the parameters that `forward` used. `dtokens` must not be changed."""


class BlockHook:
    """What an encoding does in one block."""

    rotation: Rotation | None = None
    score_bias: ScoreBias | None = None

    def __init__(
        self,
        workspace: Workspace,
        config: Geometry,
        rotation: Rotation | None = None,
        score_bias: ScoreBias | None = None,
    ) -> None:
        self.workspace, self.ops, self.config = workspace, workspace.ops, config
        self.rotation, self.score_bias = rotation, score_bias

    @property
    def fusible(self) -> bool:
        """Whether attention can be one fused kernel: only `rotation` and `score_bias` change it."""
        methods = ("queries_keys", "queries_keys_backward", "scores", "scores_backward")
        return all(getattr(type(self), name) is getattr(BlockHook, name) for name in methods)

    @property
    def turns(self) -> bool:
        """Whether the hook rotates or changes queries and keys."""
        methods = ("queries_keys", "queries_keys_backward")
        changed = any(getattr(type(self), name) is not getattr(BlockHook, name) for name in methods)
        return self.rotation is not None or changed

    def block_input(self, stream: Array, branch: Branch | None) -> tuple[Array, Branch | None]:
        """Return the input of the block, stream + branch (R, B, T, D), as another stream and branch.

        `stream` and `branch` must not be changed. `branch` is None in the first block.
        """
        return stream, branch

    def block_input_backward(self, dstream: Array, operand: Array) -> Array:
        """Replace `dstream`, the gradient of the result of `block_input`, by that of its input, in place.

        A hook whose `block_input` has added the branch must also overwrite the gradient `branch.dbias` of its bias.
        `operand` is `dstream` in the type of operands. Return the new `dstream` in that type.
        """
        return operand

    def queries_keys(self, qkv: Array, bias: Array, scale: float) -> None:
        """Add the bias, scale the queries, and apply `rotation` to queries and keys, in place.

        `qkv` (R, B, T, 3, H, K) is the projection of queries, keys and values without bias. An override must add `bias`
        (R, 3 H K) and multiply the queries by `scale`.
        """
        if self.rotation is None:
            self.ops.qkv_bias(qkv, bias, scale)
        else:
            self.ops.qkv_bias_rotate(qkv, bias, scale, self.rotation.cos, self.rotation.sin, self.config.prefix)

    def queries_keys_backward(self, qkv: Array, dqkv: Array, scale: float, *, dbias: Array) -> None:
        """Replace `dqkv` by the gradient of the projection, in place, and overwrite `dbias` (R, 3 H K).

        `qkv` is the result of `queries_keys`.
        """
        if self.rotation is None:
            self.ops.qkv_bias_backward(dqkv, scale, dbias=dbias)
            return
        cos, sin, dangles = self.rotation.cos, self.rotation.sin, self.rotation.dangles
        if dangles is not None:
            self.ops.rotation_gradient(qkv, None, dqkv, self.config.prefix, out=dangles)
        self.ops.qkv_bias_rotate_backward(dqkv, scale, cos, sin, self.config.prefix, dbias=dbias)

    def scores(self, scores: Array, qkv: Array) -> None:
        """Add to the scaled scores (R, B, H, T, T) before the softmax, in place. Rows are queries, columns keys.

        `qkv` is the result of `queries_keys`. The default adds `score_bias`.
        """
        if self.score_bias is not None:
            self.ops.add_score_bias(scores, self.score_bias.bias)

    def scores_backward(self, dscores: Array, qkv: Array, dqkv: Array) -> None:
        """Overwrite the gradients of the parameters that `scores` used, and add to `dqkv` that of `qkv`."""
        if self.score_bias is not None and self.score_bias.dbias is not None:
            self.ops.score_bias_gradient(dscores, out=self.score_bias.dbias)


@dataclass(frozen=True)
class Hooks:
    """The hooks of an encoding in one network: one for the tokens and one for each block."""

    tokens: TokenHook
    blocks: Sequence[BlockHook]


OTHER_GRIDS = ("extend", "interpolate", "resize", "unchanged")
"""Ways in which a trained model serves another grid; see `Position.other_grids`."""


@dataclass(frozen=True)
class Position(Options):
    """Base class of positional encodings. Without overrides, it encodes nothing.

    Subclasses are frozen dataclasses whose fields are the options (see `option`). They must define `description`.
    """

    description: ClassVar[str]
    """A phrase for reports, such as "learned table added to the tokens"."""
    acts_on: ClassVar[str] = "nothing"
    """What it changes: tokens, block input, queries and keys, or scores."""
    other_grids: ClassVar[tuple[str, ...]] = ("unchanged",)
    """How a trained model can serve another grid of patches, the default first.

    extend: coordinates go on beyond the trained grid. interpolate: they are squeezed into its range. resize: tables are
    resized by bicubic interpolation. unchanged: nothing depends on the grid.
    """
    source: ClassVar[str] = ""
    """Publication of the formula."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "hooks" in cls.__dict__:
            raise TypeError(f"{cls.__name__} must override token_hook and block_hooks, not hooks")
        if isinstance(cls.other_grids, str):
            cls.other_grids = (cls.other_grids,)
        if not cls.other_grids or not {*cls.other_grids} <= {*OTHER_GRIDS}:
            raise TypeError(f"{cls.__name__}.other_grids must be among {', '.join(OTHER_GRIDS)}, got {cls.other_grids}")
        if not isinstance(getattr(cls, "description", None), str):
            raise TypeError(f"{cls.__name__}.description must be a string that describes the encoding in reports")

    @property
    def parts(self) -> tuple["Position", ...]:
        """The encodings of a sum; otherwise the encoding itself."""
        return (self,)

    def check(self, config: Geometry) -> None:
        """Raise `ConfigError` if the encoding does not support the model."""

    def declare(self, config: Geometry) -> list[Parameter]:
        """Return the learned parameters of the encoding."""
        return []

    def flops(self, config: Geometry) -> int:
        """Return the floating-point operations that the encoding adds to a forward pass on one image.

        As in `vit.cost`, these are its products with parameters, tables or activations, a multiply-add as two.
        Additions of tables and biases are not counted, nor is what `derive` computes once per step for all images.
        """
        return 0

    def hooks(self, config: Geometry, workspace: Workspace) -> Hooks:
        """Return the hooks of a network with the parameters, tables and buffers of `workspace`.

        Parameters and tables change later, so hooks must keep views of them, not values computed from them.
        """
        return Hooks(self.token_hook(config, workspace), self.block_hooks(config, workspace))

    def token_hook(self, config: Geometry, workspace: Workspace) -> TokenHook:
        return TokenHook()

    def block_hooks(self, config: Geometry, workspace: Workspace) -> Sequence[BlockHook]:
        """Return one hook for each block."""
        return [BlockHook(workspace, config)] * config.depth

    def tables(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        """Return the shapes of arrays that `derive` computes, by name. Networks have them in `workspace.tables`."""
        return {}

    def table_gradients(self, config: Geometry) -> dict[str, tuple[int, ...]]:
        """Return the shapes of gradients that hooks write and `derive_backward` reads, in `workspace.dtables`."""
        return {}

    def derive(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        generators: Sequence[np.random.Generator] | None,
    ) -> None:
        """Overwrite the tables (R, *shape), once per step, with functions of the parameters (R, *shape).

        `xp` is the numpy or cupy module. `generators`, one per run, are given in training only, for random changes.
        """

    def derive_backward(
        self,
        config: Geometry,
        xp: ModuleType,
        parameters: Mapping[str, Array],
        tables: Mapping[str, Array],
        dtables: Mapping[str, Array],
        gradients: Mapping[str, Array],
    ) -> None:
        """Overwrite the gradients of the parameters that `derive` used, given those of the tables."""

    def fixed_state(self, config: Geometry) -> dict[str, np.ndarray]:
        """Return constant arrays that other implementations read from a checkpoint and this one computes."""
        return {}

    def adapt_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        """Return a loaded state adapted to `config`, for instance to another grid of patches."""
        return dict(state)

    def external_state(self, state: Mapping[str, np.ndarray], config: Geometry) -> dict[str, np.ndarray]:
        """Return a state, or its gradient, in the layout of other implementations; `adapt_state` undoes it."""
        return dict(state)


def served(position: Position, config: Geometry) -> str | None:
    """Return how an encoding serves a grid that it was not trained on; None for the grid that it was trained on."""
    if config.trained_grid in (None, config.grid):
        return None
    return config.other_grid if config.other_grid in position.other_grids else position.other_grids[0]


def coordinates(position: Position, config: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the column x and the row y of each patch, (N,), in units of patches of the trained grid.

    Indices from 0; or, if the encoding interpolates, the places of the patches in an image with the trained grid.
    """
    x, y = patch_coordinates(config.grid)
    if served(position, config) != "interpolate":
        return x, y
    assert config.trained_grid is not None
    scale = config.trained_grid / config.grid
    return (x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5


def normalising_grid(position: Position, config: Geometry) -> int:
    """Return the grid of which normalised coordinates are a fraction: the trained one if the encoding extends."""
    return config.trained_grid or config.grid if served(position, config) == "extend" else config.grid


def rotation_flops(config: Geometry, size: int = 2) -> int:
    """Return the operations of rotating groups of `size` channels of all queries and keys of one image.

    A rotation is a product with a matrix, so each channel takes `size` multiply-adds.
    """
    channels = 2 * config.patches * config.width  # of queries and keys
    return 2 * size * channels * config.depth


def patch_coordinates(grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the column x and the row y of each patch, two integer arrays (N,) in row-major order."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    return x, y
