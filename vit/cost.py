"""What a model costs: parameters and floating-point operations."""

from vit.config import ViTConfig
from vit.model import layout

TRAINING_FACTOR = 3
"""A training step is one forward pass and a backward pass of twice its products."""


def parameters(config: ViTConfig) -> int:
    """Trained parameters of one model."""
    return layout(config).count


def forward_flops(config: ViTConfig) -> int:
    """Floating-point operations of the matrix products of one forward pass on one image, a multiply-add as two."""
    tokens, width = config.tokens, config.width
    block = tokens * width * (4 * width + 2 * config.hidden) + 2 * tokens * tokens * width
    embedding = config.patches * config.patch_width * width
    return 2 * (embedding + config.depth * block + width * config.classes)
