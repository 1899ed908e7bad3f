"""One RunConfig to one RunRecord: train, watch the validation split, and use the test set once, at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from ablations.batches import Feed
from ablations.config import RunConfig, vit_config
from ablations.data import Dataset
from ablations.errors import VitabError
from ablations.snapshot import Keeper, Snapshot
from vit import ViT, cost, get_ops
from vit.engine import Engine, Training
from vit.optim import warmup_cosine

CALIBRATION_STEPS = 6


@dataclass(frozen=True)
class EpochMetrics:
    """What is known after an epoch."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    """Of its last step."""
    train_loss: float
    """Mean over its steps, with label smoothing, dropout and augmentation as trained."""
    validation_loss: float
    """Plain cross-entropy."""
    validation_accuracy: float
    """0 to 1."""
    seconds: float
    """Spent on its training steps."""
    images_per_s: float


@dataclass(frozen=True)
class RunRecord:
    """A finished run."""

    config: RunConfig
    metrics: list[EpochMetrics]
    predictions: dict[str, np.ndarray]
    """Per test image: labels and predicted (n,) int64, probabilities (n, C) float32."""
    test_accuracy: float
    test_loss: float
    validation_accuracy: float
    """After the last epoch."""
    state: dict[str, np.ndarray]
    """The weights that were evaluated: the averaged ones where `ema` is on."""
    parameters: int
    flops: int
    """Of all training steps."""
    train_seconds: float
    seconds: float


def train(
    config: RunConfig,
    dataset: Dataset,
    *,
    backend: str = "numpy",
    threads: int | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    keeper: Keeper | None = None,
) -> RunRecord:
    """Train one run from its seed, or from where `keeper` has a snapshot of it.

    The same config and data give the same bits, whatever the threads and however often the run was cut short.
    Raises VitabError when the loss is no longer a number, and KeyboardInterrupt when `keeper` is asked to stop.
    """
    started = time.perf_counter()
    feed = Feed.of(config, dataset)
    run = _Run(config, dataset, feed, backend, threads, keeper or Keeper())
    try:
        before = run.resume()
        run.started = started - before
        metrics = run.metrics
        while len(metrics) < config.epochs:
            metrics.append(run.epoch(len(metrics) + 1, on_epoch))
        probabilities = run.probabilities(feed.normalise(dataset.test_images))
        state = run.state()
    finally:
        run.close()
    images = config.epochs * feed.steps * feed.batch_size
    return RunRecord(
        config=config,
        metrics=metrics,
        predictions={
            "labels": dataset.test_labels,
            "predicted": probabilities.argmax(axis=1),
            "probabilities": probabilities,
        },
        test_accuracy=_accuracy(probabilities, dataset.test_labels),
        test_loss=_finite("test", _cross_entropy(probabilities, dataset.test_labels), config.epochs),
        validation_accuracy=metrics[-1].validation_accuracy,
        state=state,
        parameters=cost.parameters(run.model.config),
        flops=cost.TRAINING_FACTOR * cost.forward_flops(run.model.config) * images,
        train_seconds=sum(m.seconds for m in metrics),
        seconds=time.perf_counter() - run.started,
    )


def calibrate(config: RunConfig, dataset: Dataset, *, backend: str = "numpy", threads: int | None = None) -> float:
    """Seconds an epoch of this run will take, from a few of its steps."""
    feed = Feed.of(config, dataset)
    run = _Run(config, dataset, feed, backend, threads)
    images, targets = next(feed.epoch(1))
    times = []
    try:
        for _ in range(CALIBRATION_STEPS):
            begun = time.perf_counter()
            run.step(images, targets, 0.0)
            times.append(time.perf_counter() - begun)
    finally:
        run.close()
    forward_only = len(feed.validation_images) / feed.batch_size / cost.TRAINING_FACTOR
    return float(np.median(times[2:])) * (feed.steps + forward_only)


class _Run:
    """A model, its engine, the average of its weights, and how far it has got."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        feed: Feed,
        backend: str,
        threads: int | None,
        keeper: Keeper | None = None,
    ) -> None:
        shape = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
        training = Training(weight_decay=config.weight_decay, clip_norm=config.clip_norm or None)
        self.config, self.feed = config, feed
        self.model = ViT(shape, get_ops(backend), [config.seed])
        self.engine = Engine(self.model, training, feed.batch_size, threads)
        self.validation_images = feed.normalise(feed.validation_images)
        self.average = self.model.parameters.flat.copy() if config.ema else None
        self.keeper = keeper or Keeper()
        self.metrics: list[EpochMetrics] = []
        self.losses: list[float] = []  # of the steps of the epoch at work
        self.spent = 0.0  # seconds, on that epoch by earlier attempts
        self.started = self.begun = 0.0  # when this run and that epoch would have, had this been the only attempt

    def resume(self) -> float:
        """Go to where the keeper's snapshot is, if it has one; seconds of work that this saves."""
        snapshot = self.keeper.load()
        if snapshot is None:
            return 0.0
        for name, value in self._arrays().items():
            value[...] = self.model.ops.asarray(snapshot.arrays[name])
        notes = snapshot.notes
        self.engine.optimizer.step = notes["optimizer_step"]
        self.metrics = [EpochMetrics(**metrics) for metrics in notes["metrics"]]
        self.losses, self.spent = notes["losses"], notes["epoch_seconds"]
        return float(notes["seconds"])

    def keep(self) -> None:
        """Have the keeper write down where the run is, between two steps."""
        now = time.perf_counter()
        notes = {
            "optimizer_step": self.engine.optimizer.step,
            "metrics": [asdict(metrics) for metrics in self.metrics],
            "losses": self.losses,
            "epoch_seconds": now - self.begun,
            "seconds": now - self.started,
        }
        to_numpy = self.model.ops.to_numpy
        self.keeper.save(Snapshot(notes, {name: to_numpy(value) for name, value in self._arrays().items()}))

    def _arrays(self) -> dict[str, np.ndarray]:
        """All arrays that a step reads and writes."""
        optimizer = self.engine.optimizer
        arrays = {"weights": self.model.parameters.flat, "first": optimizer.first, "second": optimizer.second}
        return arrays if self.average is None else arrays | {"average": self.average}

    def epoch(self, epoch: int, on_epoch: Callable[[EpochMetrics], None]) -> EpochMetrics:
        """An epoch (from 1) of training, and what the validation split says after it."""
        feed = self.feed
        self.begun = time.perf_counter() - self.spent
        loss, rate = self.train_epoch(epoch)
        seconds = time.perf_counter() - self.begun
        probabilities = self.probabilities(self.validation_images)
        metrics = EpochMetrics(
            epoch=epoch,
            learning_rate=rate,
            train_loss=loss,
            validation_loss=_finite("validation", _cross_entropy(probabilities, feed.validation_labels), epoch),
            validation_accuracy=_accuracy(probabilities, feed.validation_labels),
            seconds=seconds,
            images_per_s=feed.steps * feed.batch_size / seconds,
        )
        on_epoch(metrics)
        return metrics

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Mean loss of the steps, and the learning rate of the last."""
        steps = self.feed.steps
        for images, targets in self.feed.epoch(epoch, len(self.losses)):
            rate = self.rate((epoch - 1) * steps + len(self.losses))
            self.losses.append(_finite("training", self.step(images, targets, rate), epoch))
            if self.keeper.due():
                self.keep()
        loss, self.losses, self.spent = float(np.mean(self.losses)), [], 0.0
        return loss, self.rate(epoch * steps - 1)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0 through all epochs."""
        config, steps = self.config, self.feed.steps
        return warmup_cosine(step, config.epochs * steps, round(config.warmup_epochs * steps), config.learning_rate)

    def step(self, images: np.ndarray, targets: np.ndarray, rate: float) -> float:
        ops = self.model.ops
        loss = self.engine.step(ops.asarray(images[None]), ops.asarray(targets[None]), rate)
        if self.average is not None:
            # Polyak averaging: average = d average + (1 - d) weights, with d rising to `ema` as weights settle
            decay = min(self.config.ema, (1 + self.engine.optimizer.step) / (10 + self.engine.optimizer.step))
            self.average *= decay
            self.average += (1 - decay) * self.model.parameters.flat
        return float(ops.to_numpy(loss)[0])

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(n, C) float32 of normalised images (n, h, w, c), by the averaged weights where there are any."""
        ops = self.model.ops
        with self._evaluated_weights():
            logits = self.engine.logits(ops.asarray(images[None]))
        return np.asarray(ops.to_numpy(ops.softmax(logits))[0])

    def state(self) -> dict[str, np.ndarray]:
        with self._evaluated_weights():
            return self.model.state_dict()

    def close(self) -> None:
        self.engine.close()

    @contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        if self.average is None:
            yield
            return
        flat = self.model.parameters.flat
        trained = flat.copy()
        flat[...] = self.average
        try:
            yield
        finally:
            flat[...] = trained


def _finite(part: str, loss: float, epoch: int) -> float:
    if not np.isfinite(loss):
        raise VitabError(f"the {part} loss became {loss} in epoch {epoch}; try a lower learning_rate")
    return loss


def _accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def _cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    likelihood = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean())
