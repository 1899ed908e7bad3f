"""Model shapes used in the benchmarks."""

from dataclasses import dataclass

from vit import ViTConfig


@dataclass(frozen=True)
class Shape:
    """Model shape and batch size."""

    width: int
    depth: int
    heads: int
    patch: int
    image: int
    channels: int
    classes: int
    batch: int

    def config(self, position: str) -> ViTConfig:
        return ViTConfig(
            image_size=self.image,
            patch_size=self.patch,
            channels=self.channels,
            classes=self.classes,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            position=position,
        )


SHAPES = {
    "tiny-cifar": Shape(192, 6, 3, 4, 32, 3, 100, 64),
    "small": Shape(128, 6, 4, 4, 32, 3, 100, 64),
    "micro": Shape(64, 4, 2, 4, 32, 3, 100, 128),
    "digits": Shape(64, 4, 2, 2, 8, 1, 10, 64),
}

GPU_SHAPES = SHAPES | {"wide": Shape(384, 12, 6, 4, 32, 3, 100, 64)}
"""Shapes for GPUs. A single run of "wide" occupies a whole GPU."""

POSITIONS = ("learned", "rope")
