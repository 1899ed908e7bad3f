"""Accuracy on larger and smaller images, the patch size kept, so that the grid of patches grows or shrinks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from ablations.errors import VitabError
from ablations.evaluation.numbers import listed_numbers, numbers_option
from ablations.evaluation.protocol import Measurement, Metric, Protocol
from vit import ConfigError

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun

WAYS = ("extend", "interpolate", "resize", "unchanged")


@dataclass(frozen=True)
class Resolution(Protocol):
    """Test images resized to other sides, bicubic with antialiasing (Pillow).

    A side that is not a multiple of the patch is left out. Each encoding is measured in each of its ways to serve
    another grid; `accuracy-1.5x` is that of its default way.
    """

    factors: str = numbers_option("2/1.5/1.25/0.75/0.5", above=0, meaning="sides relative to the training images")

    description: ClassVar[str] = "accuracy on images of other sizes, with more or fewer patches"
    source: ClassVar[str] = "Touvron et al. 2019, arXiv 1906.06423"

    def metrics(self) -> list[Metric]:
        found = []
        for factor in listed_numbers(self.factors):
            noun = f"accuracy at {factor:g} times the image size"
            found.append(Metric(f"accuracy-{factor:g}x", noun))
            found += [Metric(f"accuracy-{factor:g}x-{way}", f"{noun} ({way})") for way in WAYS[:3]]
        return found

    def measure(self, run: "FinishedRun") -> Measurement:
        metrics, reasons = {}, []
        side = run.dataset.image_size
        for factor in listed_numbers(self.factors):
            size = round(factor * side)
            try:
                default = run.model_config(size)
            except ConfigError:
                reasons.append(f"a side of {size} pixels is not a multiple of the patch, {run.config.patch}")
                continue
            resized = resize(run.images, size)
            ways = ways_of(run.config.position)
            for i, way in enumerate(ways):
                try:
                    accuracy = run.accuracy(resized, None if default.trained_grid is None else way)
                except VitabError as error:
                    reasons.append(f"at {factor:g} times the size: {error}")
                    break
                if i == 0:
                    metrics[f"accuracy-{factor:g}x"] = accuracy
                if way != "unchanged":
                    metrics[f"accuracy-{factor:g}x-{way}"] = accuracy
        return Measurement(metrics, reasons=tuple(reasons))

    def passes(self, config: "RunConfig") -> float:
        return sum(len(ways_of(config.position)) * factor**2 for factor in listed_numbers(self.factors))


def ways_of(position: str) -> list[str]:
    """Return the ways in which an encoding can serve another grid, its default first."""
    from vit.positions import encoding

    parts = encoding(position).parts
    ways = [way for part in parts for way in part.other_grids if way != "unchanged"]
    return list(dict.fromkeys(ways)) or ["unchanged"]


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 images (n, h, w, channels) to (n, size, size, channels), bicubic with antialiasing."""
    if images.shape[1] == size:
        return images
    channels = images.shape[3]
    planes = (image[:, :, 0] if channels == 1 else image for image in images)
    resized = [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in planes]
    return np.stack(resized).reshape(len(images), size, size, channels)
