"""What turns a picture into the input of a trained model, and its output into words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ablations.data.augmentation import normalise
from ablations.data.dataset import Dataset
from ablations.data.pictures import CROP, read_picture

if TYPE_CHECKING:
    from ablations.data.loader import DataLoader


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a trained model: geometry and normalisation of its images, and the names of its classes."""

    image_size: int
    channels: int
    mean: tuple[float, ...]
    """Of each channel of the training images, in units of 0 to 1."""
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    resize: str = CROP
    """How pictures become square; see `read_picture`."""

    @classmethod
    def of(cls, loader: "DataLoader") -> "Preprocessing":
        """Return the preprocessing of a run with this loader."""
        dataset: Dataset = loader.dataset
        mean, std = (tuple(map(float, values)) for values in (loader.mean, loader.std))
        resize = loader.config.resize
        return cls(dataset.image_size, dataset.channels, mean, std, tuple(dataset.class_names), resize)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Preprocessing":
        """Return it from the output of `to_plain`. Raises KeyError or TypeError if that is invalid."""
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in plain.items()}
        return cls(**values)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def read(self, source: Path | BinaryIO, *, name: str | None = None) -> np.ndarray:
        """Return a picture as `read_picture` does, as the pictures of the training were read."""
        return read_picture(source, self.image_size, self.channels, resize=self.resize, name=name)

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Return uint8 images (n, h, w, c) as float32, standardised by the training images."""
        mean, std = (np.array(values, dtype=np.float32) for values in (self.mean, self.std))
        return np.asarray(normalise(images, mean, std))
