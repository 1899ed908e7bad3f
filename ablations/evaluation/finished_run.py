"""A finished run, as protocols see it: its model, the test images, and what it has predicted on them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablations.config import RunConfig, vit_config
from ablations.data.loading import dataset_for
from ablations.errors import VitabError
from ablations.storage import Store, config_of
from vit import ViT, ViTConfig, get_ops
from vit.random import stream

if TYPE_CHECKING:
    from ablations.data import Dataset
    from ablations.data.loader import DataLoader
    from vit.engine import Engine
    from vit.graph_engine import GraphEngine
    from vit.model import Network

CHUNK = 4096
"""Images evaluated at once, at least one lane."""
LAYER_BATCH = 64
"""Images of which the results of all layers are in memory."""


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
        self._engines: dict[ViTConfig, Engine | GraphEngine] = {}

    @cached_property
    def config(self) -> RunConfig:
        return config_of(self.store, self.key)

    @cached_property
    def dataset(self) -> "Dataset":
        """The dataset of the run. Raises VitabError if it is not the one that the run was trained on."""
        dataset = dataset_for(self.config, self.data_dir, self.heartbeat)
        trained_on = self.store.environment(self.key).get("data_sha256")
        if trained_on not in (None, dataset.fingerprint):
            raise VitabError(
                f"the images of {self.config.data} differ from those that run {self.key[:16]} was trained on"
            )
        return dataset

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
        """Return the model for images of a side, which serves another grid in the way `other_grid`.

        Raises ConfigError if the patch does not divide the side or the encoding has no such way.
        """
        dataset = self.dataset
        trained = vit_config(
            self.config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes
        )
        if image_size in (None, dataset.image_size):
            return trained
        return replace(trained, image_size=image_size, trained_grid=trained.grid, other_grid=other_grid)

    def probabilities(self, images: np.ndarray, other_grid: str | None = None) -> np.ndarray:
        """Return class probabilities (n, C) of images, uint8 or float32 (n, h, w, channels) from 0 to 255.

        On the test images, with the backend of the training, these are the bits of the stored probabilities. Raises
        ConfigError if the model cannot serve images of this size.
        """
        engine = self._engine(self.model_config(images.shape[1], other_grid))
        ops, lane = engine.ops, engine.lane_images
        size = max(1, CHUNK // lane) * lane
        parts = []
        for start in range(0, len(images), size):
            self.heartbeat()
            part = ops.asarray(self.loader.normalise(images[start : start + size])[None])
            parts.append(ops.to_numpy(ops.softmax(engine.logits(part)))[0])
        return np.concatenate(parts)

    def accuracy(self, images: np.ndarray, other_grid: str | None = None) -> float:
        """Return the accuracy on images with the labels of the test images, from 0 to 1."""
        return float(np.mean(self.probabilities(images, other_grid).argmax(axis=1) == self.labels))

    def layers(self, images: np.ndarray) -> "Iterator[Network]":
        """Evaluate images in batches, on the CPU in float32, and yield the layers with their results after each batch.

        There is one run: the arrays of layers are (1, B, ...), and are overwritten by the next batch.
        """
        network = self._model(self.model_config(), get_ops("numpy")).network(min(LAYER_BATCH, len(images)))
        for start in range(0, len(images), LAYER_BATCH):
            self.heartbeat()
            network.load(self.loader.normalise(images[start : start + LAYER_BATCH])[None])
            network.logits()
            yield network

    def close(self) -> None:
        """Release the engines."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _model(self, config: ViTConfig, ops: object) -> ViT:
        model = ViT(config, ops, [self.config.seed])  # type: ignore[arg-type]
        model.load_state_dict(self.store.checkpoint(self.key))
        model.derive()
        return model

    def _engine(self, config: ViTConfig) -> "Engine | GraphEngine":
        if config not in self._engines:
            from vit.engine import AdamWConfig, Engine
            from vit.graph_engine import GraphEngine

            model = self._model(config, get_ops(self.backend, precision=self._precision()))
            batch = self.loader.batch_size
            self._engines[config] = (
                Engine(model, AdamWConfig(), batch, self.threads)
                if self.backend == "numpy"
                else GraphEngine(model, AdamWConfig(), batch)
            )
        return self._engines[config]

    def _precision(self) -> str | None:
        return self.config.precision if self.backend == "cupy" else None
