"""Accuracy on corrupted images, with the corruptions of CIFAR-10-C that need no photographs of their own."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from ablations.evaluation.protocol import Measurement, Metric, Protocol

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun

SEVERITIES = 5
CHUNK = 1000
"""Images that are corrupted at once, in float64."""


@dataclass(frozen=True)
class Corruption(Protocol):
    """Noise (Gaussian, shot, impulse), Gaussian blur, contrast, brightness and JPEG at five severities.

    The parameters are those of CIFAR-10-C, for images of 32 x 32 pixels; they are the same for other sizes. `accuracy`
    is the mean over corruptions and severities.
    """

    description: ClassVar[str] = "accuracy on images with noise, blur, other contrast or brightness, and JPEG artefacts"
    source: ClassVar[str] = "Hendrycks and Dietterich 2019, arXiv 1903.12261"

    def metrics(self) -> list[Metric]:
        mean = Metric("accuracy", "mean accuracy on corrupted images")
        return [mean, *(Metric(f"accuracy-{name}", f"accuracy on images with {noun}") for name, noun in NOUNS.items())]

    def measure(self, run: "FinishedRun") -> Measurement:
        table = np.zeros((len(CORRUPTIONS), SEVERITIES))
        for i, (name, (corrupt, parameters)) in enumerate(CORRUPTIONS.items()):
            for severity, parameter in enumerate(parameters):
                generator = run.generator(f"corruption {name} {severity}")
                parts = []
                for start in range(0, len(run.images), CHUNK):
                    run.heartbeat()
                    parts.append(corrupt(run.images[start : start + CHUNK], parameter, generator))
                table[i, severity] = run.accuracy(np.concatenate(parts))
        by_name = {f"accuracy-{name}": float(row.mean()) for name, row in zip(CORRUPTIONS, table, strict=True)}
        return Measurement({"accuracy": float(table.mean()), **by_name}, {"accuracy": table})

    def passes(self, config: "RunConfig") -> float:
        return len(CORRUPTIONS) * SEVERITIES


def gaussian_noise(images: np.ndarray, deviation: float, generator: np.random.Generator) -> np.ndarray:
    """Add normal noise with this standard deviation, images being from 0 to 1."""
    return _bytes(images / 255 + generator.normal(0, deviation, images.shape))


def shot_noise(images: np.ndarray, photons: float, generator: np.random.Generator) -> np.ndarray:
    """Replace a pixel x by a Poisson count with mean x `photons`, divided by `photons`."""
    return _bytes(generator.poisson(images / 255 * photons) / photons)


def impulse_noise(images: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Set this share of the values to black or white, with even chances."""
    hit, white = generator.random(images.shape) < share, generator.random(images.shape) < 0.5
    return np.where(hit, np.where(white, 255, 0), images).astype(np.uint8)


def gaussian_blur(images: np.ndarray, deviation: float, generator: np.random.Generator) -> np.ndarray:
    """Convolve with a normal density of this standard deviation in pixels; the edge is repeated outside."""
    return _bytes(gaussian_filter(images / 255, (0, deviation, deviation, 0), mode="nearest"))


def contrast(images: np.ndarray, factor: float, generator: np.random.Generator) -> np.ndarray:
    """Multiply the distance of each channel from its mean over the image."""
    x = images / 255
    mean = x.mean(axis=(1, 2), keepdims=True)
    return _bytes((x - mean) * factor + mean)


def brightness(images: np.ndarray, change: float, generator: np.random.Generator) -> np.ndarray:
    """Add to the value of each pixel in HSV, with its hue and saturation kept."""
    x = images / 255
    value = x.max(axis=3, keepdims=True)
    brighter = np.minimum(value + change, 1)
    return _bytes(np.where(value > 0, x / np.where(value > 0, value, 1) * brighter, brighter))


def jpeg(images: np.ndarray, quality: float, generator: np.random.Generator) -> np.ndarray:
    """Compress with JPEG at this quality."""
    grey = images.shape[3] == 1
    compressed = []
    for image in images:
        content = io.BytesIO()
        Image.fromarray(image[:, :, 0] if grey else image).save(content, "JPEG", quality=int(quality))
        compressed.append(np.asarray(Image.open(content)).reshape(image.shape))
    return np.stack(compressed)


Corrupt = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, ...]]] = {
    "gaussian-noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot-noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse-noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian-blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "jpeg": (jpeg, (80, 65, 58, 50, 40)),
}
"""Each corruption, and its parameter at the severities 1 to 5."""
NOUNS = {
    "gaussian-noise": "Gaussian noise",
    "shot-noise": "shot noise",
    "impulse-noise": "impulse noise",
    "gaussian-blur": "Gaussian blur",
    "contrast": "reduced contrast",
    "brightness": "increased brightness",
    "jpeg": "JPEG artefacts",
}


def _bytes(x: np.ndarray) -> np.ndarray:
    """Return values from 0 to 1 as uint8, clipped and rounded down as in CIFAR-10-C."""
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)
