"""A finished run, as protocols see it: its model, the test images, and what it has predicted on them."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablations.config import RunConfig, vit_config
from ablations.data.preprocessing import Preprocessing
from ablations.models.inference import Inference, loaded
from ablations.models.training_data import dataset_of
from ablations.storage import Store, config_of
from vit import ViTConfig, get_ops
from vit.random import stream

if TYPE_CHECKING:
    from ablations.data import Dataset
    from ablations.data.loader import DataLoader
    from vit.model import Network


class FinishedRun:
    """One finished run. Everything is loaded on first use."""

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        data_dir: Path | None = None,
        backend: str = "numpy",
        threads: int | None = None,
        heartbeat: Callable[[], object] = lambda: None,
    ) -> None:
        """`heartbeat` is called between parts of long work."""
        self.store, self.key, self.data_dir = store, key, data_dir
        self.backend, self.threads, self.heartbeat = backend, threads, heartbeat

    @cached_property
    def config(self) -> RunConfig:
        return config_of(self.store, self.key)

    @cached_property
    def dataset(self) -> "Dataset":
        """The dataset of the run. Raises VitabError if it is not the one that the run was trained on."""
        return dataset_of(self.store, self.key, self.data_dir, self.heartbeat)

    @cached_property
    def loader(self) -> "DataLoader":
        from ablations.data.loader import DataLoader

        return DataLoader.of(self.config, self.dataset)

    @property
    def images(self) -> np.ndarray:
        """Test images, uint8 (n, h, w, channels)."""
        return self.dataset.test_images

    @property
    def labels(self) -> np.ndarray:
        """Labels of the test images, (n,)."""
        return self.dataset.test_labels

    @cached_property
    def stored_probabilities(self) -> np.ndarray:
        """Class probabilities (n, C) of the test images, as they were predicted after the training."""
        return self.store.predictions(self.key)["probabilities"]

    @cached_property
    def probabilities_in_place(self) -> np.ndarray:
        """Class probabilities (n, C) of the test images, with the rounding of `probabilities` on other images.

        The stored ones, unless they were predicted by another backend.
        """
        if self.store.environment(self.key).get("backend") == self.backend:
            return self.stored_probabilities
        return self.probabilities(self.images)

    @cached_property
    def accuracy_in_place(self) -> float:
        """Accuracy on the test images by `probabilities_in_place`, from 0 to 1."""
        return float(np.mean(self.probabilities_in_place.argmax(axis=1) == self.labels))

    def sample(self, count: int) -> np.ndarray:
        """Return up to `count` test images, drawn at random: the same for runs with the same seed."""
        return self.images[self.generator("sample").permutation(len(self.images))[:count]]

    def generator(self, name: str) -> np.random.Generator:
        """Return random numbers that runs with the same seed share. The same name gives the same numbers again."""
        return stream(self.config.seed, f"evaluation {name}")

    def model_config(self, image_size: int | None = None, other_grid: str | None = None) -> ViTConfig:
        """Return the model for images of a side: see `Inference.model_config`."""
        return self._inference.model_config(image_size, other_grid)

    def probabilities(self, images: np.ndarray, other_grid: str | None = None) -> np.ndarray:
        """Return class probabilities (n, C) of images, uint8 or float32 (n, h, w, channels) from 0 to 255.

        On the test images, with the backend of the training, these are the bits of the stored probabilities. Raises
        ConfigError if the model cannot serve images of this size.
        """
        return self._inference.probabilities(images, other_grid)

    def accuracy(self, images: np.ndarray, other_grid: str | None = None) -> float:
        """Return the accuracy on images with the labels of the test images, from 0 to 1."""
        return float(np.mean(self.probabilities(images, other_grid).argmax(axis=1) == self.labels))

    def layers(self, images: np.ndarray) -> "Iterator[Network]":
        """Evaluate images in batches, on the CPU in float32, and yield the layers with their results after each batch.

        There is one run: the arrays of layers are (1, B, ...), and are overwritten by the next batch.
        """
        return self._inference.layers(images)

    def close(self) -> None:
        """Release the engines."""
        if "_inference" in vars(self):  # it was used
            self._inference.close()

    @cached_property
    def _inference(self) -> Inference:
        dataset, config = self.dataset, self.config
        shape = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
        return Inference(
            loaded(self.store.checkpoint(self.key), shape, get_ops("numpy")),
            Preprocessing.of(self.loader),
            self.loader.batch_size,
            backend=self.backend,
            precision=config.precision if self.backend == "cupy" else None,
            threads=self.threads,
            heartbeat=self.heartbeat,
        )
