"""R runs of one shape trained as one model, each from its own seed and on its own batches."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from ablations.config import RunConfig, vit_config
from ablations.data import Dataset
from ablations.data.loader import Batch, DataLoader
from ablations.data.preprocessing import Preprocessing
from ablations.storage import EpochMetrics, RunRecord, TrainingRecord
from ablations.training.checkpoint import Checkpointer, TrainingState
from ablations.training.outcome import (
    accuracy,
    cross_entropy,
    diverged_record,
    diverged_trial_record,
    is_pruned,
    trained_record,
    trial_record,
)
from vit import ViT, cost, get_ops
from vit.engine import AdamWConfig, Engine
from vit.optim import warmup_cosine

EVALUATED = 1024
"""Approximate number of images of each run that are evaluated at once."""


class StackedRun:
    """One run of a stack: its data loader and its progress.

    A run of a trial has `thresholds`, by which it may be pruned (`is_pruned`), and ends without the test.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        checkpointer: Checkpointer | None = None,
        on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
        thresholds: Sequence[float] | None = None,
    ) -> None:
        self.config, self.loader, self.thresholds = config, DataLoader.of(config, dataset), thresholds
        self.checkpointer, self.on_epoch = checkpointer or Checkpointer(), on_epoch
        self.over = False
        self.rewind()

    def rewind(self) -> None:
        """Return to the last checkpoint, or to the start if there is none."""
        self.snapshot = self.checkpointer.load()
        progress: dict[str, Any] = self.snapshot.progress if self.snapshot else {}
        self.metrics = [EpochMetrics(**metrics) for metrics in progress.get("metrics", [])]
        self.losses: list[float] = progress.get("losses", [])  # of the steps of the current epoch
        self.steps_before = int(progress.get("optimizer_step", 0))
        self.epoch_before = float(progress.get("epoch_seconds", 0.0))  # spent on that epoch by earlier attempts
        self.seconds_before = float(progress.get("seconds", 0.0))  # spent on the run by earlier attempts
        places: list[dict[str, Any]] = progress.get("places", [])
        self.places = places + [self.checkpointer.place] * (self.checkpointer.place not in places)

    @property
    def resume_point(self) -> tuple[int, ...]:
        """Values that runs must share to continue in one stack: step, batches per epoch, batch size and split sizes."""
        loader = self.loader
        return self.steps_before, loader.steps, loader.batch_size, len(loader.train), len(loader.validation)

    @property
    def is_finished_trial(self) -> bool:
        """Whether this is a run of a trial that ends after the epochs that it was trained."""
        if self.thresholds is None:
            return False
        reached = [metrics.validation_accuracy for metrics in self.metrics]
        return len(reached) == self.config.epochs or is_pruned(self.thresholds, reached)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 over all epochs."""
        config, steps = self.config, self.loader.steps
        return warmup_cosine(step, config.epochs * steps, round(config.warmup_epochs * steps), config.learning_rate)


class Stack:
    """A model of R runs of one resume_point, its engine, and the average of its weights.

    A run that diverges or raises an error ends alone, and its index in the model is not used again. `on_end` is called
    at once with the run and its record or error.
    """

    def __init__(
        self,
        members: Sequence[StackedRun],
        dataset: Dataset,
        backend: str = "numpy",
        threads: int | None = None,
        on_end: Callable[[StackedRun, TrainingRecord | BaseException], None] = lambda member, outcome: None,
    ) -> None:
        first = members[0]
        shape = vit_config(
            first.config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes
        )
        decay = [member.config.weight_decay for member in members]
        training = AdamWConfig(weight_decay=decay, clip_norm=first.config.clip_norm or None)
        self.config, self.members, self.on_end = first.config, list(members), on_end
        self.steps, self.batch_size = first.loader.steps, first.loader.batch_size
        self.dataset = dataset
        ops = get_ops(backend, precision=first.config.precision)
        self.model = ViT(shape, ops, [member.config.seed for member in members])
        self.engine, self.average = self._make_engine(training, threads)
        self.share = 1 / len(members)
        self.started = self.begun = time.perf_counter()
        self._resume()

    @property
    def live(self) -> list[tuple[int, StackedRun]]:
        """The runs that have not ended, each with its index in the model."""
        return [(r, member) for r, member in enumerate(self.members) if not member.over]

    def epoch(self, epoch: int) -> None:
        """Train an epoch (from 1) and evaluate the validation splits after it."""
        self.begun = time.perf_counter()
        losses = self.train_epoch(epoch)
        seconds = (time.perf_counter() - self.begun) * self.share
        if not self.live:
            return
        probabilities = self.validation_probabilities()
        for r, member in self.live:
            spent, labels = seconds + member.epoch_before, member.loader.validation_labels
            validation_loss = cross_entropy(probabilities[r], labels)
            if not math.isfinite(validation_loss):
                self.end_diverged(member, epoch, self.steps, spent)
                continue
            member.epoch_before = 0.0
            with self.isolated(member):
                metrics = EpochMetrics(
                    epoch=epoch,
                    learning_rate=member.rate(epoch * self.steps - 1),
                    train_loss=losses[r],
                    validation_loss=validation_loss,
                    validation_accuracy=accuracy(probabilities[r], labels),
                    seconds=spent,
                    images_per_s=self.steps * self.batch_size / spent,
                )
                member.metrics.append(metrics)
                member.on_epoch(metrics)
                if member.is_finished_trial:
                    self._end(member, trial_record(self.config.epochs, **self._facts(r, epoch * self.steps)))

    def train_epoch(self, epoch: int) -> list[float]:
        """Train an epoch; return the mean loss of each run over its steps, NaN for an ended run."""
        with ExitStack() as loaders:
            coming = [
                loaders.enter_context(closing(member.loader.epoch(epoch, len(member.losses))))
                for member in self.members
            ]
            for step in range(max(len(member.losses) for member in self.members), self.steps):
                at = (epoch - 1) * self.steps + step
                images, targets = self._batches(coming)
                if not self.live:
                    break
                rates = [0.0 if member.over else member.rate(at) for member in self.members]
                losses = self.step(images, targets, np.array(rates))
                for r, member in self.live:
                    if math.isfinite(losses[r]):
                        member.losses.append(losses[r])
                    else:
                        self.end_diverged(member, epoch, step + 1, self.epoch_seconds(member))
                if self.is_due(self.images_after(step + 1)):
                    self.keep()
                if not self.live:
                    break
        means = [float("nan") if member.over else float(np.mean(member.losses)) for member in self.members]
        for member in self.members:
            member.losses = []
        return means

    def step(self, images: np.ndarray, targets: np.ndarray, rates: np.ndarray) -> list[float]:
        """Execute a step on images (R, B, h, w, c), targets (R, B, C), rates (R,); return the losses before it."""
        ops = self.model.ops
        losses = self.engine.step(ops.asarray(images), ops.asarray(targets), rates)
        if self.average is not None:
            # Polyak averaging: average = d average + (1 - d) weights, with d rising to `ema` as weights settle
            decay = min(self.config.ema, (1 + self.engine.optimizer.step) / (10 + self.engine.optimizer.step))
            self.average *= decay
            self.average += (1 - decay) * self.model.parameters.flat
        return [float(loss) for loss in ops.to_numpy(losses)]

    def validation_probabilities(self) -> np.ndarray:
        """`probabilities` of each run's own validation images, (R, n, C)."""
        return self.probabilities(self.dataset.train_images, [member.loader.validation for member in self.members])

    def test_probabilities(self) -> np.ndarray:
        """`probabilities` of the test images, (R, n, C)."""
        images = self.dataset.test_images
        return self.probabilities(images, [np.arange(len(images))] * len(self.members))

    def trial(self) -> Callable[[], object]:
        """Execute a step at a learning rate of 0, for timing."""
        batches = [next(member.loader.epoch(1)) for member in self.members]
        images, targets = (np.stack(arrays) for arrays in zip(*batches, strict=True))
        return lambda: self.step(images, targets, np.zeros(len(self.members)))

    def probabilities(self, images: np.ndarray, indices: Sequence[np.ndarray]) -> np.ndarray:
        """Return class probabilities (R, n, C), float32, of each run's `indices` (n,) into uint8 images (N, h, w, c).

        The averaged weights are used if the recipe averages them.
        """
        ops, lane = self.model.ops, self.engine.lane_images
        size = max(1, EVALUATED // lane) * lane
        parts = []
        with self._evaluated_weights():
            for start in range(0, len(indices[0]), size):
                self.show_life()
                part = [
                    m.loader.normalise(images[own[start : start + size]])
                    for m, own in zip(self.members, indices, strict=True)
                ]
                parts.append(ops.to_numpy(ops.softmax(self.engine.logits(ops.asarray(np.stack(part))))))
        return np.concatenate(parts, axis=1)

    def state(self, run: int = 0) -> dict[str, np.ndarray]:
        """Return the weights of a run with which it is evaluated."""
        with self._evaluated_weights():
            return self.model.state_dict(run)

    def seconds(self, member: StackedRun) -> float:
        """Return a run's share of the elapsed seconds, including earlier attempts."""
        return member.seconds_before + (time.perf_counter() - self.started) * self.share

    def epoch_seconds(self, member: StackedRun) -> float:
        """Return a run's share of the seconds since its current epoch began, including earlier attempts."""
        return member.epoch_before + (time.perf_counter() - self.begun) * self.share

    def images_after(self, done: int) -> int:
        """Return the images of each run evaluated after this step of an epoch, before the next step."""
        return len(self.members[0].loader.validation) if done == self.steps else 0

    def is_due(self, images: int = 0) -> bool:
        """Return whether to save checkpoints before another step and the evaluation of `images` images of each run."""
        # evaluating an image takes less time than training on it
        due = [member.checkpointer.is_due(1 + images / self.batch_size) for _, member in self.live]
        return any(due)  # asks every run, which sends its heartbeat

    def keep_before_test(self) -> None:
        """Save checkpoints after the last epoch if the test takes long."""
        if self.is_due(len(self.dataset.test_labels)):
            self.keep()

    def show_life(self) -> None:
        """Send the heartbeats of all runs."""
        for _, member in self.live:
            member.checkpointer.heartbeat()

    def keep(self) -> None:
        """Save a checkpoint of each run, between two steps. Runs that are asked to stop end."""
        arrays = {name: self.model.ops.to_numpy(value) for name, value in self._arrays().items()}
        for r, member in self.live:
            progress = {
                "optimizer_step": self.engine.optimizer.step,
                "metrics": [asdict(metrics) for metrics in member.metrics],
                "losses": member.losses,
                "epoch_seconds": self.epoch_seconds(member),
                "seconds": self.seconds(member),
                "places": member.places,
            }
            try:
                member.checkpointer.save(TrainingState(progress, {name: value[r] for name, value in arrays.items()}))
            except KeyboardInterrupt as asked:
                self._end(member, asked)

    @contextmanager
    def isolated(self, member: StackedRun) -> Iterator[None]:
        """End only this run if an error occurs within the context."""
        try:
            yield
        except Exception as error:
            self._end(member, error)

    def record(self, run: int, probabilities: np.ndarray) -> RunRecord:
        """Return the record of a run after its last epoch, from the `test_probabilities` (n, C).

        A test loss that is not finite means that it diverged.
        """
        labels, state = self.dataset.test_labels, self.state(run)
        facts = self._facts(run, self.config.epochs * self.steps)
        facts["preprocessing"] = Preprocessing.of(self.members[run].loader)
        if not math.isfinite(cross_entropy(probabilities, labels)):
            return diverged_record(self.config.epochs, self.dataset.classes, labels, state, **facts)
        return trained_record(probabilities, labels, state, **facts)

    def end_diverged(self, member: StackedRun, epoch: int, step: int, seconds: float) -> None:
        """End a run whose loss was not finite in this step of this epoch (both from 1), on which it spent `seconds`."""
        run, dataset = self.members.index(member), self.dataset
        facts = self._facts(run, (epoch - 1) * self.steps + step, seconds)
        if member.thresholds is not None:
            self._end(member, diverged_trial_record(epoch, dataset.classes, **facts))
            return
        facts["preprocessing"] = Preprocessing.of(member.loader)
        self._end(member, diverged_record(epoch, dataset.classes, dataset.test_labels, self.state(run), **facts))

    def close(self) -> None:
        self.engine.close()

    def _make_engine(self, training: AdamWConfig, threads: int | None) -> tuple[Any, Any]:
        """Return the engine, and the average of the weights (R, P) if the recipe has one."""
        engine = Engine(self.model, training, self.batch_size, threads)
        return engine, self.model.parameters.flat.copy() if self.config.ema else None

    def _facts(self, run: int, steps: int, unfinished: float = 0.0) -> dict[str, Any]:
        """Return the fields of every record, after `steps` steps and `unfinished` seconds of an unfinished epoch."""
        member, model = self.members[run], self.model.config
        return {
            "config": member.config,
            "metrics": member.metrics,
            "parameters": cost.parameters(model),
            "flops": cost.TRAINING_FACTOR * cost.forward_flops(model) * steps * self.batch_size,
            "train_seconds": sum(metrics.seconds for metrics in member.metrics) + unfinished,
            "seconds": self.seconds(member),
            "stack": len(self.members),
            "places": member.places,
        }

    def _resume(self) -> None:
        for r, member in enumerate(self.members):
            if member.snapshot is not None:
                for name, value in self._arrays().items():
                    value[r] = self.model.ops.asarray(member.snapshot.arrays[name])
                member.snapshot = None
        self.engine.optimizer.step = self.members[0].steps_before

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays (R, P) that a step reads and writes."""
        optimizer = self.engine.optimizer
        arrays = {"weights": self.model.parameters.flat, "first": optimizer.first, "second": optimizer.second}
        return arrays if self.average is None else arrays | {"average": self.average}

    def _batches(self, coming: Sequence[Iterator[Batch]]) -> Batch:
        """Return the next batch of each run, (R, B, ...); an ended run gets the batch of another run."""
        batches: dict[int, Batch] = {}
        for r, member in self.live:
            with self.isolated(member):
                batches[r] = next(coming[r])
        some = next(iter(batches.values()), (np.empty(0), np.empty(0)))
        images, targets = zip(*(batches.get(r, some) for r in range(len(self.members))), strict=True)
        return np.stack(images), np.stack(targets)

    def _end(self, member: StackedRun, outcome: TrainingRecord | BaseException) -> None:
        member.over = True
        for value in self._arrays().values():
            value[self.members.index(member)] = 0  # so that no NaN is computed with from here on
        self.on_end(member, outcome)

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
