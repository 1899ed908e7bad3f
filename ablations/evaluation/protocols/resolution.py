"""Accuracy on larger and smaller images, the patch size kept, so that the grid of patches grows or shrinks."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from ablations.evaluation.numbers import listed_numbers, numbers_option
from ablations.evaluation.protocol import Measurement, Metric, Protocol
from vit import ConfigError
from vit.positions import encoding

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun

WAYS = ("extend", "interpolate", "resize")


@dataclass(frozen=True)
class Resolution(Protocol):
    """Test images resized to other sides, bicubic with antialiasing (Pillow).

    A side that is not a multiple of the patch is left out. Each encoding is measured in each of its ways to serve
    another grid; `accuracy-1.5x` is that of its default way. Of a sum of encodings, each part has its own default way,
    and another way is that of the parts that have it.
    """

    factors: str = numbers_option("2/1.5/1.25/0.75/0.5", above=0, meaning="sides relative to the training images")

    description: ClassVar[str] = "accuracy on images of other sizes, with more or fewer patches"
    source: ClassVar[str] = "Touvron et al. 2019, arXiv 1906.06423"

    def metrics(self) -> list[Metric]:
        found = []
        for factor in listed_numbers(self.factors):
            noun = f"accuracy at {factor:g} times the image size"
            found.append(Metric(f"accuracy-{factor:g}x", noun))
            found += [Metric(f"accuracy-{factor:g}x-{way}", f"{noun} ({way})", tested=False) for way in WAYS]
        return found

    def measure(self, run: "FinishedRun") -> Measurement:
        metrics, reasons = {}, []
        side = run.dataset.image_size
        for factor in listed_numbers(self.factors):
            size = round(factor * side)
            if not math.isclose(size, factor * side):
                reasons.append(f"{factor:g} times {side} pixels is not a whole number of pixels")
                continue
            if size % run.config.patch:
                reasons.append(f"a side of {size} pixels is not a multiple of the patch, {run.config.patch}")
                continue
            resized = resize(run.images, size)
            try:
                default = run.accuracy(resized)
                of_way = {way: run.accuracy(resized, way) for way in other_ways(run.config.position)}
            except ConfigError as error:
                reasons.append(f"at {factor:g} times the size: {error}")
                continue
            metrics[f"accuracy-{factor:g}x"] = default
            if way := named_default(run.config.position):
                metrics[f"accuracy-{factor:g}x-{way}"] = default
            metrics |= {f"accuracy-{factor:g}x-{way}": accuracy for way, accuracy in of_way.items()}
        return Measurement(metrics, reasons=tuple(reasons))

    def passes(self, config: "RunConfig") -> float:
        return sum((1 + len(other_ways(config.position))) * factor**2 for factor in listed_numbers(self.factors))


def other_ways(position: str) -> list[str]:
    """Return the ways to serve another grid that differ from the default way of an encoding."""
    parts = encoding(position).parts
    return [way for way in WAYS if any(way in part.other_grids and way != part.other_grids[0] for part in parts)]


def named_default(position: str) -> str | None:
    """Return the name of the default way of an encoding; None if its parts have different ones, or none."""
    names = {part.other_grids[0] for part in encoding(position).parts} & {*WAYS}
    return names.pop() if len(names) == 1 else None


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 images (n, h, w, channels) to (n, size, size, channels), bicubic with antialiasing."""
    if images.shape[1] == size:
        return images
    channels = images.shape[3]
    planes = (image[:, :, 0] if channels == 1 else image for image in images)
    resized = [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in planes]
    return np.stack(resized).reshape(len(images), size, size, channels)
