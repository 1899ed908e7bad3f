"""Parameter counts and floating-point operations of a model."""

from vit.config import ViTConfig
from vit.model import layout
from vit.positions import encoding

TRAINING_FACTOR = 3
"""Operations of a training step relative to a forward pass; the backward pass has twice as many."""


def parameters(config: ViTConfig) -> int:
    """Return the number of learned parameters of one model."""
    return layout(config).count


def forward_flops(config: ViTConfig) -> int:
    """Return the floating-point operations of the products of a forward pass on one image.

    Products are the matrix products of the layers and those of the encoding (`Position.flops`): its rotations,
    convolutions and matrix products. A multiply-add counts as two operations. Elementwise operations, such as norms,
    activations and additions of tables or biases, are not counted.
    """
    tokens, width = config.tokens, config.width
    block = tokens * width * (4 * width + 2 * config.hidden) + 2 * tokens * tokens * width
    embedding = config.patches * config.patch_width * width
    layers = 2 * (embedding + config.depth * block + width * config.classes)
    return layers + encoding(config.position).flops(config)
