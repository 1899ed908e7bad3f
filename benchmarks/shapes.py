"""The shapes that are measured."""

from dataclasses import dataclass

from vit import ViTConfig


@dataclass(frozen=True)
class Shape:
    """A model and its batch, and what is aimed at: time over the faster PyTorch, and products over the step."""

    width: int
    depth: int
    heads: int
    patch: int
    image: int
    channels: int
    classes: int
    batch: int
    ratio: float
    products: float

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
    "tiny-cifar": Shape(192, 6, 3, 4, 32, 3, 100, 64, ratio=0.75, products=0.85),
    "small": Shape(128, 6, 4, 4, 32, 3, 100, 64, ratio=0.65, products=0.75),
    "micro": Shape(64, 4, 2, 4, 32, 3, 100, 128, ratio=0.60, products=0.60),
    "digits": Shape(64, 4, 2, 2, 8, 1, 10, 64, ratio=0.60, products=0.50),
}

POSITIONS = ("learned", "rope")
