"""Evaluation protocols on a GPU beside the same on NumPy, for models that are in no store."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ablations.config import RunConfig
from ablations.data import Dataset
from ablations.data.loader import DataLoader
from ablations.data.preprocessing import Preprocessing
from ablations.evaluation.finished_run import FinishedRun
from ablations.evaluation.registry import protocol
from ablations.models.inference import Inference, loaded
from benchmarks.gpu.comparisons import GRADIENT_LIMITS, Check, reference
from vit import ViT, ViTConfig
from vit.backend import Ops
from vit.backend.cuda.ops import CudaOps
from vit.graph_engine import AdamWConfig, GraphEngine

CONFIG = RunConfig(patch=4, width=32, heads=2, depth=2, batch_size=16)
POSITIONS = ("rope", "learned")
"""Encodings of the models: one that extends to other grids, and one whose table is resized."""
REFERENCE = reference()


class _Plain:
    """A model as an engine, by `Ops` alone."""

    lane_images = 64

    def __init__(self, model: ViT) -> None:
        self.model, self.ops = model, model.ops

    def logits(self, images: Any) -> Any:
        return self.model.forward(images)


class _Inference(Inference):
    """Computes probabilities by `ops`; the results of layers on NumPy, as the product does."""

    def __init__(self, model: ViT, loader: DataLoader, ops: Ops) -> None:
        super().__init__(model, Preprocessing.of(loader), loader.batch_size)
        self._ops = ops

    def _engine(self, config: ViTConfig) -> Any:
        if config not in self._engines:
            model = loaded(self.model.state_dict(), config, self._ops)
            made: Any = _Plain(model)
            if isinstance(self._ops, CudaOps):
                made = GraphEngine(model, AdamWConfig(), self.batch_size)
            self._engines[config] = made
        return self._engines[config]


class UnstoredRun(FinishedRun):
    """A model that counts as a finished run. `answers` are the probabilities that a protocol has asked for."""

    def __init__(self, config: RunConfig, data: Dataset, model: ViT, ops: Ops) -> None:
        super().__init__(None, "")  # type: ignore[arg-type]
        inference = _Inference(model, DataLoader.of(config, data), ops)
        self.__dict__ |= {"config": config, "dataset": data, "_inference": inference}
        self.answers: list[np.ndarray] = []
        self.stored_probabilities = self.probabilities_in_place = self.probabilities(data.test_images)

    def probabilities(self, images: np.ndarray, other_grid: str | None = None) -> np.ndarray:
        self.answers.append(super().probabilities(images, other_grid))
        return self.answers[-1]


def compared(ops: CudaOps, name: str, images: int = 40) -> Iterator[Check]:
    """Compare the probabilities and the names of the metrics of a protocol with those on NumPy."""
    rng = np.random.default_rng(21)
    pixels = rng.integers(0, 256, (2 * images, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(2 * images) % 4
    data = Dataset("made", pixels[:images], labels[:images], pixels[images:], labels[images:], ("a", "b", "c", "d"))
    for position in POSITIONS:
        config = replace(CONFIG, position=position)
        model = ViT(_architecture(config), REFERENCE, seeds=[5])
        state = {key: value + 0.1 * rng.normal(size=value.shape) for key, value in model.state_dict().items()}
        model = loaded(state, _architecture(config), REFERENCE)
        runs = [UnstoredRun(config, data, model, each) for each in (ops, REFERENCE)]
        found, wanted = (protocol(name).measure(run) for run in runs)
        pairs = [*zip(*(run.answers for run in runs), strict=True)]
        error = max(float(np.abs(ours - exact).max()) for ours, exact in pairs)
        yield Check(f"{len(pairs)} evaluations, {position}", error, GRADIENT_LIMITS[ops.precision])
        yield Check(f"metrics, {position}", float(set(found.metrics) != set(wanted.metrics)), 0.0)
        if isinstance(ops, CudaOps):
            runs[0].close()


def _architecture(config: RunConfig) -> ViTConfig:
    from ablations.config import vit_config

    return vit_config(config, image_size=16, channels=3, classes=4)
