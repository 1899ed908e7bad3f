"""A Vision Transformer with hand-written forward and backward passes on NumPy or CuPy arrays."""

from vit.backend import get_ops
from vit.config import ViTConfig
from vit.errors import ConfigError
from vit.model import ViT, one_hot

__all__ = ["ConfigError", "ViT", "ViTConfig", "get_ops", "one_hot"]
