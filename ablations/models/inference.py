"""The model of a finished run, evaluated on images: class probabilities, and the results of its layers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ablations.data.preprocessing import Preprocessing
from vit import ViT, ViTConfig, get_ops

if TYPE_CHECKING:
    from vit.engine import Engine
    from vit.graph_engine import GraphEngine
    from vit.model import Network

CHUNK = 4096
"""Images evaluated at once, at least one lane."""
LAYER_BATCH = 64
"""Images of which the results of all layers are in memory."""


class Inference:
    """Evaluates images in chunks, in the way and with the rounding of the training.

    `model` is that of the run, on the CPU in float32; `batch_size` the images per step of the training, on which the
    rounding depends. `backend`, `precision` and `threads` are those of the evaluation, and `heartbeat` is called
    between parts of long work. Engines are made on first use.
    """

    def __init__(
        self,
        model: ViT,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        backend: str = "numpy",
        precision: str | None = None,
        threads: int | None = None,
        heartbeat: Callable[[], object] = lambda: None,
    ) -> None:
        self.model, self.preprocessing, self.batch_size = model, preprocessing, batch_size
        self.backend, self.precision, self.threads, self.heartbeat = backend, precision, threads, heartbeat
        self._engines: dict[ViTConfig, Engine | GraphEngine] = {}

    def model_config(self, image_size: int | None = None, other_grid: str | None = None) -> ViTConfig:
        """Return the model for images of a side, which serves another grid in the way `other_grid`.

        Raises ConfigError if the patch does not divide the side or the encoding has no such way.
        """
        trained = self.model.config
        if image_size in (None, trained.image_size):
            return trained
        return replace(trained, image_size=image_size, trained_grid=trained.grid, other_grid=other_grid)

    def probabilities(self, images: np.ndarray, other_grid: str | None = None) -> np.ndarray:
        """Return class probabilities (n, C) of images, uint8 or float32 (n, h, w, channels) from 0 to 255.

        On the test images, in their order and with the backend of the training, these are the bits of the stored
        probabilities. Raises ConfigError if the model cannot serve images of this size.
        """
        config = self.model_config(images.shape[1], other_grid)
        if not len(images):
            return np.empty((0, config.classes), dtype=np.float32)
        engine = self._engine(config)
        ops, lane = engine.ops, engine.lane_images
        size = max(1, CHUNK // lane) * lane
        parts = []
        for start in range(0, len(images), size):
            self.heartbeat()
            part = ops.asarray(self.preprocessing.normalise(images[start : start + size])[None])
            parts.append(ops.to_numpy(ops.softmax(engine.logits(part)))[0])
        return np.concatenate(parts)

    def layers(self, images: np.ndarray) -> "Iterator[Network]":
        """Evaluate images in batches, on the CPU in float32, and yield the layers with their results after each batch.

        There is one run: the arrays of layers are (1, B, ...), and are overwritten by the next batch.
        """
        network = self.model.network(min(LAYER_BATCH, len(images)))
        for start in range(0, len(images), LAYER_BATCH):
            self.heartbeat()
            network.load(self.preprocessing.normalise(images[start : start + LAYER_BATCH])[None])
            network.logits()
            yield network

    def close(self) -> None:
        """Release the engines."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _engine(self, config: ViTConfig) -> "Engine | GraphEngine":
        if config not in self._engines:
            from vit.engine import AdamWConfig, Engine
            from vit.graph_engine import GraphEngine

            model = self._model(config)
            self._engines[config] = (
                Engine(model, AdamWConfig(), self.batch_size, self.threads)
                if self.backend == "numpy"
                else GraphEngine(model, AdamWConfig(), self.batch_size)
            )
        return self._engines[config]

    def _model(self, config: ViTConfig) -> ViT:
        """Return the model with this configuration and the weights of the run."""
        if self.backend == "numpy" and config == self.model.config:
            return self.model
        return loaded(self.model.state_dict(), config, get_ops(self.backend, precision=self.precision))


def loaded(state: dict[str, np.ndarray], config: ViTConfig, ops: object) -> ViT:
    """Return a model with these weights, which have the names and layouts of `ViT.state_dict`."""
    model = ViT(config, ops, [0])  # type: ignore[arg-type]
    model.load_state_dict(state)
    model.derive()
    return model
