"""A trained model with its preprocessing: from pictures to class probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablations.config import RunConfig, run_label, vit_config
from ablations.data.preprocessing import Preprocessing
from ablations.data.registry import check_data_dir
from ablations.errors import UsageError, VitabError
from ablations.models.inference import Inference, loaded
from ablations.models.training_data import data_name, dataset_of
from ablations.storage import Store, readable_config
from vit import ViT, ViTConfig, get_ops

if TYPE_CHECKING:
    import pandas as pd

    from vit.model import Network


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The model of a finished run, on the CPU in float32, and how pictures become its inputs."""

    key: str
    config: RunConfig
    preprocessing: Preprocessing
    model: ViT
    batch_size: int
    """Images per step of the training, on which the rounding of the probabilities depends."""
    data: str = ""
    """Name of the data, such as that of a folder of one's own pictures; empty for that in the configuration."""
    note: str = ""
    """What was worked out again because an older version did not store it; empty if nothing was."""

    @classmethod
    def load(cls, store: Store, key: str, data_dir: Path | None = None) -> "TrainedModel":
        """Return the model of a finished run.

        A checkpoint of an older version has no preprocessing; it is then computed from the dataset, which must be
        there. Raises VitabError for a diverged run, a damaged file, an encoding whose source cannot be read, or a
        dataset that is missing or has changed.
        """
        config = readable_config(store, key)
        check_data_dir([config.data], data_dir)
        check_usable(store, key)
        preprocessing, note = store.preprocessing(key), ""
        if preprocessing is None:
            preprocessing = _from_data(store, key, config, data_dir)
            note = (
                f"the checkpoint of run {key[:16]} is of an older version; its normalisation was computed from the data"
            )
        p = preprocessing
        shape = vit_config(config, image_size=p.image_size, channels=p.channels, classes=len(p.class_names))
        model = loaded(store.checkpoint(key), shape, get_ops("numpy"))
        return cls(
            key, config, preprocessing, model, _batch_size(store, key, config), data_name(store, key, config), note
        )

    @property
    def vit_config(self) -> ViTConfig:
        return self.model.config

    @property
    def label(self) -> str:
        """The run in words."""
        return label_of(self.key, self.config, self.data)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.preprocessing.class_names

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, C) of uint8 images (n, h, w, c).

        Raises UsageError if they are not such images, and ConfigError if they have another size than in the training
        and the encoding cannot serve it. On the test images, in their order, these are the bits of the stored
        probabilities of a run trained on a CPU.
        """
        channels = self.preprocessing.channels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != channels:
            raise UsageError(f"images must be uint8 (n, h, w, {channels}), got {images.dtype} {images.shape}")
        return self._inference.probabilities(images)

    def classify(self, *pictures: str | Path) -> "pd.DataFrame":
        """Return class probabilities of pictures in files: a row for each file, a column for each class.

        Raises UsageError for a file that cannot be read.
        """
        import pandas as pd

        p = self.preprocessing
        images = np.empty((len(pictures), p.image_size, p.image_size, p.channels), dtype=np.uint8)
        for image, picture in zip(images, pictures, strict=True):
            image[...] = p.read(Path(picture))
        return pd.DataFrame(self.probabilities(images), index=list(map(str, pictures)), columns=list(self.class_names))

    def layers(self, images: np.ndarray) -> "Iterator[Network]":
        """Evaluate uint8 images in batches, and yield the layers with their results after each batch.

        There is one run: the arrays of layers are (1, B, ...), and are overwritten by the next batch.
        """
        return self._inference.layers(images)

    @cached_property
    def _inference(self) -> Inference:
        return Inference(self.model, self.preprocessing, self.batch_size)


def label_of(key: str, config: RunConfig, data: str = "") -> str:
    """Return a run in words: `run 0123456789abcdef: rope, depth 2, patch 4, seed 0, trained on digits`.

    `data` is the name of its data, if it is not that in the configuration.
    """
    return f"run {key[:16]}: {run_label(config, ('position', 'depth', 'patch'))}, trained on {data or config.data}"


def check_usable(store: Store, key: str) -> None:
    """Raise VitabError if a finished run diverged, so that it has no model to use."""
    if store.diverged([key]):
        raise VitabError(f"run {key[:16]} diverged; it has no usable model")


def _from_data(store: Store, key: str, config: RunConfig, data_dir: Path | None) -> Preprocessing:
    """Return the preprocessing of a run whose checkpoint does not have it."""
    from ablations.data.loader import DataLoader

    return Preprocessing.of(DataLoader.of(config, dataset_of(store, key, data_dir)))


def _batch_size(store: Store, key: str, config: RunConfig) -> int:
    """Return the images per step of a finished run: those of the configuration, unless there were fewer in all."""
    from ablations.data.loader import steps_of

    recorded = store.environment(key).get("dataset", {})
    images, validation = recorded.get("train_images"), recorded.get("validation_images", 0)
    return config.batch_size if images is None else steps_of(config, images, validation)[1]


def top(probabilities: np.ndarray, count: int) -> Sequence[int]:
    """Return the most probable classes of one image, of (C,), the most probable first."""
    return [int(i) for i in np.argsort(-probabilities, kind="stable")[:count]]
