"""Parameter counts and floating-point operations of a model."""

from vit.config import ViTConfig
from vit.model import layout

TRAINING_FACTOR = 3
"""Operations of a training step relative to a forward pass; the backward pass has twice as many."""


def parameters(config: ViTConfig) -> int:
    """Return the number of learned parameters of one model."""
    return layout(config).count


def forward_flops(config: ViTConfig) -> int:
    """Return the floating-point operations of the matrix products of a forward pass on one image.

    A multiply-add counts as two operations. Operations outside matrix products are not counted.
    """
    tokens, width = config.tokens, config.width
    block = tokens * width * (4 * width + 2 * config.hidden) + 2 * tokens * tokens * width
    embedding = config.patches * config.patch_width * width
    return 2 * (embedding + config.depth * block + width * config.classes)
