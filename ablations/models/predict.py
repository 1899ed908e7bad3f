"""Classify pictures with a trained model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ablations.data.pictures import pictures_in
from ablations.errors import UsageError
from ablations.models.trained import TrainedModel, top


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture, the most probable first."""

    picture: str
    classes: tuple[str, ...]
    probabilities: tuple[np.float32, ...]


def find_pictures(given: Iterable[str]) -> list[str]:
    """Return files as they are given, and the pictures in each folder (see `pictures_in`).

    Raises UsageError for a folder without pictures.
    """
    found: list[str] = []
    for text in given:
        if Path(text).is_dir():
            pictures = pictures_in(Path(text))
            if not pictures:
                raise UsageError(
                    f"folder {text} must have at least one picture (PNG, JPEG, WebP, BMP, TIFF or GIF), got none"
                )
            found += map(str, pictures)
        else:
            found.append(text)
    return found


def predict(model: TrainedModel, pictures: Sequence[tuple[str, np.ndarray]], count: int) -> list[Prediction]:
    """Return the `count` most probable classes of pictures, all if there are fewer.

    `pictures` are names with uint8 images (h, w, c), as `Preprocessing.read` returns them. On the test images, in
    their order, the probabilities are those that a run trained on a CPU has stored, bit for bit.
    """
    if not pictures:
        return []
    found = []
    for (name, _), row in zip(pictures, model.probabilities(np.stack([image for _, image in pictures])), strict=True):
        best = top(row, count)
        found.append(Prediction(name, tuple(model.class_names[i] for i in best), tuple(row[i] for i in best)))
    return found
