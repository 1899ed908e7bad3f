"""What the positional encoding of a trained model does, as constants."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ablations.config import position_label
from ablations.errors import UsageError
from vit import ViT
from vit.positions import BlockHook, Position, encoding
from vit.positions.cpe import ConvolutionPosition
from vit.positions.lie_rope import LieRotaryPosition
from vit.positions.relative_keys import RelativeKeysPosition


@dataclass(frozen=True)
class BlockEncoding:
    """What the encoding does in one block. None: not this.

    Shapes: N patches, T tokens, D width, H heads, K head width, g patches along one side.
    """

    convolution: tuple[np.ndarray, np.ndarray] | None = None
    """Weight (D, 1, 3, 3) and bias (D,) of a depthwise convolution of the patches, added to the input of the block."""
    rotation: tuple[np.ndarray, np.ndarray] | None = None
    """Cosines and sines (H or 1, N, K/2) by which the pairs (2j, 2j+1) of queries and keys of patches rotate."""
    matrices: np.ndarray | None = None
    """(H or 1, N, K/b, b, b), with which groups of b channels of queries and keys of patches are multiplied."""
    bias: np.ndarray | None = None
    """(H, T, T), added to the scores."""
    vectors: np.ndarray | None = None
    """(2, 2 g - 1, K): products of the queries of patches with these, by the displacement of the key in columns and in
    rows, are added to the scores."""


def token_table(model: ViT) -> np.ndarray:
    """Return the table (N, D) that the encoding adds to the patch tokens; zeros if it adds none."""
    tokens = model.ops.zeros((1, 1, model.config.patches, model.config.width))
    model.network(1, training=False).patch_embed.hook.forward(tokens)
    return np.asarray(tokens[0, 0])


def block_encodings(model: ViT) -> list[BlockEncoding]:
    """Return what the encoding does in each block.

    Raises UsageError for an encoding in a file or package that computes in another way than by rotations and biases.
    """
    parts = encoding(model.config.position).parts
    by_part = [_of_part(part, model if len(parts) == 1 else _alone(part, model)) for part in parts]
    return [_sum(of_block) for of_block in zip(*by_part, strict=True)]


def _alone(part: Position, model: ViT) -> ViT:
    """Return the model with only one encoding of a sum, whose hooks are then those of this encoding."""
    own = ViT(replace(model.config, position=str(part)), model.ops, model.seeds)
    state = model.state_dict()
    own.load_state_dict({name: state[name] for name in own.layout.parameters})
    own.derive()
    return own


def _of_part(part: Position, model: ViT) -> list[BlockEncoding]:
    return [_of_hook(part, block.hook) for block in model.network(1, training=False).blocks]


def _of_hook(part: Position, hook: Any) -> BlockEncoding:
    """Return what a hook of an encoding does, with copies of its arrays, without the axis of runs."""
    if type(part) is LieRotaryPosition:
        return BlockEncoding(matrices=hook.matrices[0].copy())
    if type(part) is RelativeKeysPosition:
        return BlockEncoding(vectors=hook.vectors[0].reshape(2, -1, hook.vectors.shape[-1]).copy())
    if type(part) is ConvolutionPosition and type(hook) is not BlockHook:
        return BlockEncoding(convolution=(hook.weight[0].copy(), hook.bias[0].copy()))
    if not hook.fusible or type(hook).block_input is not BlockHook.block_input:
        raise UsageError(
            f"position {position_label(str(part))!r} computes with operations of its own, which are not exported; "
            "exported are the built-in encodings, and those whose hooks are tables, rotations and biases of the scores"
        )
    rotation, bias = hook.rotation, hook.score_bias
    return BlockEncoding(
        rotation=rotation and (rotation.cos[0].copy(), rotation.sin[0].copy()),
        bias=bias and bias.bias[0].copy(),
    )


def _sum(parts: Sequence[BlockEncoding]) -> BlockEncoding:
    """Return what several encodings do together. All but biases are those of at most one of them."""
    merged = BlockEncoding()
    for part in parts:
        given = {name: value for name, value in vars(part).items() if value is not None}
        if merged.bias is not None and part.bias is not None:
            given["bias"] = merged.bias + part.bias
        merged = replace(merged, **given)
    return merged
