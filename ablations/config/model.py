"""Map a RunConfig to the ViTConfig of its model."""

from typing import TYPE_CHECKING

from ablations.config.run_config import RunConfig

if TYPE_CHECKING:
    from vit import ViTConfig


def vit_config(config: RunConfig, *, image_size: int, channels: int, classes: int) -> "ViTConfig":
    """Return the model of a run on such images. Raises vit.ConfigError, a ValueError, for an invalid geometry."""
    from vit import ViTConfig

    return ViTConfig(
        image_size=image_size,
        patch_size=config.patch,
        channels=channels,
        classes=classes,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        position=config.position,
        pool=config.pool,
        dropout=config.dropout,
        drop_path=config.drop_path,
        init_std=config.init_std,
    )
