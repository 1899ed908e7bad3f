"""A stack of runs on a GPU: the dataset is in device memory, an epoch is a number of launches of one CUDA graph, and
its losses are read back once, at its end."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ablations.config import RunConfig
from ablations.data import Dataset
from ablations.training.stack import EVALUATED, Stack
from vit.backend.cuda.ops import Mark
from vit.graph_engine import AdamWConfig, DeviceAugmentation, GraphEngine

CHANNELS = 4
"""Channels up to which kernels can apply more than crops and flips."""
STEPS_AT_ONCE = 16
"""Steps launched between two checks of the clock and of `stop`. The host is at most twice as many steps ahead."""


def recipe_on_device(config: RunConfig, dataset: Dataset, image_bytes: int) -> DeviceAugmentation | None:
    """Return the augmentation that GPU kernels apply to the batches of such runs, None if the CPU makes the batches.

    Images larger than `image_bytes` can only be cropped and flipped on the GPU.
    """
    changes = {name: getattr(config, name) for name in ("trivial_augment", "erase", "mixup", "cutmix")}
    too_large = dataset.image_size**2 * dataset.channels > image_bytes or dataset.channels > CHANNELS
    return (
        None if any(changes.values()) and too_large else DeviceAugmentation(config.crop_padding, config.flip, **changes)
    )


class DeviceStack(Stack):
    """As `Stack`, for a backend whose engine captures steps. The same images in the same order; augmentation and
    dropout are drawn by counters on the device, and so other than on a CPU."""

    engine: GraphEngine

    def train_epoch(self, epoch: int) -> list[float]:
        recipe = self._recipe
        if recipe is None:
            return super().train_epoch(epoch)
        first = max(len(member.losses) for member in self.members)
        sums = [[sum(member.losses) * self.batch_size, 0.0] for member in self.members]
        self._start_epoch(epoch)
        self.engine.totals = np.array(sums)
        before: Mark | None = None
        for step in range(first, self.steps, STEPS_AT_ONCE):
            done = min(step + STEPS_AT_ONCE, self.steps)
            self.engine.train(self._training_set, recipe, done - step, self.steps)
            mark = self.engine.mark()
            if before:
                before.wait()
            before = mark
            if self.is_due(self.images_after(done)):
                self._note(epoch, done)
                self.keep()
            if not self.live:
                break
        self._note(epoch, self.steps)
        means = [float("nan") if member.over else member.losses[0] for member in self.members]
        for member in self.members:
            member.losses = []
        return means

    def step(self, images: np.ndarray, targets: np.ndarray, rates: np.ndarray) -> list[float]:
        losses = self.engine.step(images, targets, rates)  # which averages the weights, too
        return [float(loss) for loss in self.model.ops.to_numpy(losses)]

    def validation_probabilities(self) -> np.ndarray:
        return self._evaluate(self._training_set, np.stack([member.loader.validation for member in self.members]))

    def test_probabilities(self) -> np.ndarray:
        test = self._resident(self.dataset.test_images, self.dataset.test_labels)
        return self._evaluate(test, np.stack([np.arange(len(self.dataset.test_images))] * len(self.members)))

    def trial(self) -> Callable[[], object]:
        recipe = self._recipe
        if recipe is None:
            return super().trial()
        self._start_epoch(1, peak=0.0)

        def step() -> object:
            self.engine.train(self._training_set, recipe, 1, self.steps)
            return self.engine.totals

        return step

    def _make_engine(self, training: AdamWConfig, threads: int | None) -> tuple[Any, Any]:
        engine = GraphEngine(self.model, training, self.batch_size, ema=self.config.ema)
        self.engine = engine
        self._training_set = self._resident(self.dataset.train_images, self.dataset.train_labels)
        self._recipe = recipe_on_device(self.config, self.dataset, engine.ops.kernels.image_bytes)
        return engine, engine.optimizer.average

    def _resident(self, images: np.ndarray, labels: np.ndarray) -> Any:
        mean, std = (np.stack([getattr(m.loader, name) for m in self.members]) for name in ("mean", "std"))
        smoothing = np.array([member.config.label_smoothing for member in self.members])
        return self.engine.resident(images, labels, mean, std, smoothing)

    def _start_epoch(self, epoch: int, peak: float = 1.0) -> None:
        """Pass each run's images and learning rates (times `peak`) of an epoch to the engine; skip ended runs."""
        taken = slice(self.steps * self.batch_size)
        order = np.stack([member.loader.train[member.loader.order(epoch)[taken]] for member in self.members])
        rates: list[list[float]] = []
        schedules: dict[tuple[float, ...], list[float]] = {}
        for member in self.members:
            config = member.config
            schedule = (config.learning_rate, config.warmup_epochs, float(config.epochs))
            if schedule not in schedules:
                steps = range((epoch - 1) * self.steps, epoch * self.steps)
                schedules[schedule] = [peak * member.rate(step) for step in steps]
            rates.append([0.0] * self.steps if member.over else schedules[schedule])
        self.engine.start_epoch(order, np.array(rates))

    def _note(self, epoch: int, done: int) -> None:
        """Add the mean loss of the first `done` steps of an epoch to each run's losses."""
        means = self.engine.totals[:, 0] / (done * self.batch_size)
        for r, member in self.live:
            if math.isfinite(mean := float(means[r])):
                member.losses = [mean] * done
            else:
                self.end_diverged(member, epoch, done, self.epoch_seconds(member))

    def _evaluate(self, data: Any, order: np.ndarray) -> np.ndarray:
        """(R, n, C) float32 of each run's images numbered `order` (R, n)."""
        ops, parts = self.model.ops, []
        size = max(1, EVALUATED // self.batch_size) * self.batch_size
        with self._evaluated_weights():
            for start in range(0, order.shape[1], size):
                self.show_life()
                logits = self.engine.evaluate(data, order[:, start : start + size])
                parts.append(ops.to_numpy(ops.softmax(logits)))
        return np.concatenate(parts, axis=1)
