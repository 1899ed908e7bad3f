"""One optimisation step on a GPU: captured once as a graph, replayed, and fed from the device's own memory.

The first step of a kind runs as it is, which makes its buffers and loads its kernels; the second is captured; from
then on a step is one launch. What differs between steps (order of images, learning rates, draws, the count of steps)
lies in buffers whose addresses never change, so nothing is captured again: a graph belongs to a number of images and
to where they come from. Nothing is read back until somebody asks.
"""

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vit.backend import Array
from vit.backend.cuda.ops import CudaOps, Graph, Mark
from vit.errors import ConfigError
from vit.model import Network, ViT
from vit.optim import AdamWConfig
from vit.parameters import Layout
from vit.workspace import DeviceDraws

__all__ = ["AdamWConfig", "DeviceAdamW", "GraphEngine", "Resident"]


@dataclass(frozen=True)
class Resident:
    """A data set in device memory, shared by R runs, and what each makes of it. `GraphEngine.resident` makes one."""

    images: Array
    """uint8 (n, h, w, channels)."""
    labels: Array
    """int32 (n,)."""
    mean: Array
    """float32 (R, channels), in units of 0..1."""
    std: Array
    smoothing: Array
    """float32 (R,), of labels: targets are 1 - s at the label plus s / C everywhere."""


@dataclass(frozen=True)
class DeviceAugmentation:
    """What becomes of a batch on the device, as `load_batch` of `vit.backend.cuda_training` takes it."""

    crop_padding: int = 0
    flip: bool = False
    trivial_augment: bool = False
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


PLAIN = DeviceAugmentation()


@dataclass(frozen=True)
class _Work:
    """A kind of work that has run: its graph once it is captured, and what must live as long."""

    graph: Graph | None
    result: Any
    kept: tuple[object, ...]


class DeviceAdamW:
    """AdamW over all of (R, P) at once, with everything that changes in device memory."""

    def __init__(
        self, layout: Layout, parameters: Array, copy: Array | None, training: AdamWConfig, ops: CudaOps, ema: float
    ) -> None:
        """`copy` are the parameters as bf16 operands, if there are any; `ema` the decay of an average, 0 for none."""
        runs = len(parameters)
        self.parameters, self.copy, self.training, self.ops, self.ema = parameters, copy, training, ops, ema
        self.decayed = layout.decayed
        self.first = ops.zeros(parameters.shape)
        self.second = ops.zeros(parameters.shape)
        self.average = parameters.copy() if ema else None
        decay = np.broadcast_to(np.asarray(training.weight_decay, dtype=np.float32), (runs,))
        self._decay = ops.xp.asarray(decay.copy())
        self.counter = ops.xp.zeros(1, dtype="int32")
        """Finished steps, on the device."""
        self._step = 0

    @property
    def step(self) -> int:
        """Steps that were started."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        self.counter.fill(step)

    def count(self, steps: int) -> None:
        """Takes note of steps that were started, and that count themselves on the device."""
        self._step += steps

    def update(self, gradient: Array, rate: Array) -> None:
        """One step; `rate` (R, s) holds the learning rates of s steps, of which this is number `step` mod s."""
        self.ops.kernels.adamw(
            self.parameters,
            gradient,
            self.first,
            self.second,
            rate=rate,
            decay=self._decay,
            decayed=self.decayed,
            step=self.counter,
            clip_norm=self.training.clip_norm,
            betas=self.training.betas,
            epsilon=self.training.eps,
            copy=self.copy,
            average=self.average,
            average_decay=self.ema,
        )


class GraphEngine:
    """Trains and evaluates the R runs of a model on a GPU, in batches of at most `batch_size` images."""

    def __init__(self, model: ViT, training: AdamWConfig, batch_size: int, *, ema: float = 0.0) -> None:
        """`ema` is the decay of averaged weights (R, P), `optimizer.average`; 0 for none."""
        if not isinstance(model.ops, CudaOps):
            raise ConfigError(f"backend must be that of a GPU for a graph engine, got {model.ops.name!r}")
        self.model, self.training, self.ops = model, training, model.ops
        self.batch_size = self.lane_images = batch_size
        self.network: Network = model.network(batch_size)
        self.evaluated: Network = model.network(batch_size, training=False)
        self.gradient = self.network.workspace.gradients.flat
        runs = len(model.seeds)
        copy = model.weights.flat if self.ops.rounds_operands else None
        self.optimizer = DeviceAdamW(model.layout, model.parameters.flat, copy, training, self.ops, ema)
        self._totals = self.ops.zeros((runs, 2))
        self._rate = self.ops.zeros((runs, 1))
        self._seeds = self.ops.xp.asarray(np.array(model.seeds, dtype=np.int64))
        self._start = self.ops.xp.zeros(1, dtype="int32")
        self._tables: dict[int, tuple[Array, Array]] = {}
        self._works: dict[tuple[Hashable, ...], _Work] = {}
        self._products: dict[int, Graph] = {}

    # Steps on batches that the host has

    def step(self, images: Array, targets: Array, learning_rate: float | Array | None = None) -> Array:
        """One step of AdamW on images (R, B, h, w, channels) and soft targets (R, B, C).

        Returns the mean losses (R,) before it. `learning_rate` may be one number or one for each run (R,).
        """
        self.model.check_images(images)
        batch = self._check_batch(images.shape[1])
        if targets.shape != (*images.shape[:2], self.model.config.classes):
            raise ConfigError(
                f"targets must have the shape ({images.shape[0]}, {batch}, {self.model.config.classes}) with images "
                f"of shape {tuple(images.shape)}, got {tuple(targets.shape)}"
            )
        rate = self.training.learning_rate if learning_rate is None else learning_rate
        self._rate[...] = self.ops.asarray(np.broadcast_to(np.asarray(rate), (len(images),)).astype(np.float32))[
            :, None
        ]
        self.model.round_weights()
        self.network.load(self.ops.asarray(images), self.ops.asarray(targets))
        self._run(("step", batch), lambda: self._train(batch, self._rate))
        self.optimizer.count(1)
        return self.network.workspace.scratch("head", "losses", batch).mean(axis=1)

    def logits(self, images: Array) -> Array:
        """Logits (R, n, C) of any number of images (R, n, h, w, channels), without dropout."""
        self.model.check_images(images)

        def load(part: slice) -> None:
            self.evaluated.load(self.ops.xp.ascontiguousarray(self.ops.asarray(images[:, part])))

        return self._evaluate(images.shape[1], load)

    @property
    def bytes_named(self) -> int:
        """`Graph.bytes_named` of a captured training step; 0 before there is one."""
        steps = (work.graph for key, work in self._works.items() if work.graph and key[0] != "logits")
        return max((graph.bytes_named for graph in steps), default=0)

    def replay_products(self, batch: int) -> bool:
        """Starts the matrix products alone of a step on `batch` images, after one was made: to measure their share.

        Overwrites nothing but buffers and gradients.
        """
        if batch not in self._products:
            self._products[batch] = self.ops.capture(lambda: self._train(batch, self._rate), products_only=True)
        self._products[batch].launch()
        return True

    # Steps on a data set in device memory

    def resident(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        smoothing: np.ndarray | None = None,
    ) -> Resident:
        """Brings uint8 images (n, h, w, channels) and labels (n,) onto the device, what normalises them for each run,
        (R, channels), and how each smooths its labels, (R,), if it does."""
        xp = self.ops.xp
        smooth = np.zeros(len(self.model.seeds)) if smoothing is None else smoothing
        return Resident(
            xp.asarray(np.ascontiguousarray(images)),
            xp.asarray(labels.astype(np.int32)),
            xp.asarray(np.ascontiguousarray(mean, dtype=np.float32)),
            xp.asarray(np.ascontiguousarray(std, dtype=np.float32)),
            xp.asarray(np.ascontiguousarray(smooth, dtype=np.float32)),
        )

    def start_epoch(self, order: np.ndarray, rates: np.ndarray) -> None:
        """What the steps of an epoch will read: image numbers (R, steps B) and learning rates (R, steps).

        Step i of the epoch is the one before which `optimizer.step` mod steps is i. Forgets the totals.
        """
        steps = rates.shape[1]
        if order.shape != (len(rates), steps * self.batch_size) or len(rates) != len(self.model.seeds):
            raise ConfigError(
                f"order must fit rates {rates.shape} and {self.batch_size} images per step, got {order.shape}"
            )
        if steps not in self._tables:
            xp = self.ops.xp
            self._tables[steps] = xp.empty(order.shape, dtype="int32"), xp.empty(rates.shape, dtype="float32")
        for table, values in zip(self._tables[steps], (order, rates), strict=True):
            table[...] = self.ops.xp.asarray(np.ascontiguousarray(values, dtype=table.dtype))
        self._totals.fill(0)

    def train(self, data: Resident, recipe: DeviceAugmentation, count: int, steps: int) -> None:
        """Starts the next `count` of the `steps` steps of an epoch, on batches gathered and augmented on the device."""
        order, rate = self._tables[steps]
        self.model.round_weights()

        def work() -> None:
            self._load(self.network, data, recipe, order, self.optimizer.counter, steps, self.batch_size)
            self._train(self.batch_size, rate)

        for _ in range(count):
            self._run(("train", id(data), recipe, steps), work, data)
        self.optimizer.count(count)

    def mark(self) -> Mark:
        """The place behind all steps that were started, to wait for: the device may be far behind."""
        return self.ops.device.mark()

    @property
    def totals(self) -> np.ndarray:
        """Of the steps since `start_epoch`: (R, 2) sums of the losses of their images, and of right answers.

        Waits for all steps that were started. May be set, to go on with an epoch.
        """
        return np.asarray(self.ops.to_numpy(self._totals), dtype=np.float64)

    @totals.setter
    def totals(self, sums: np.ndarray) -> None:
        self._totals[...] = self.ops.asarray(sums)

    def evaluate(self, data: Resident, order: np.ndarray) -> Array:
        """Logits (R, n, C) of the images numbered `order` (R, n), each run's own."""
        order = np.ascontiguousarray(order, dtype=np.int32)

        def load(part: slice) -> None:
            own = self.ops.xp.asarray(np.ascontiguousarray(order[:, part]))
            self._load(self.evaluated, data, PLAIN, own, self._start, 1, own.shape[1])

        return self._evaluate(order.shape[1], load)

    def close(self) -> None:
        """Lets go of the graphs, when all that was started is done."""
        self.ops.to_numpy(self.optimizer.counter)
        self._works.clear()
        self._products.clear()

    def _train(self, batch: int, rate: Array) -> None:
        draws = DeviceDraws(self._seeds, self.optimizer.counter)
        self.network.inputs(batch)
        self.network.train(1 / batch, draws, self._totals)
        self.optimizer.update(self.gradient, rate)

    def _load(
        self,
        network: Network,
        data: Resident,
        recipe: DeviceAugmentation,
        order: Array,
        step: Array,
        steps: int,
        batch: int,
    ) -> None:
        patches, targets = network.inputs(batch)
        self.ops.kernels.load_batch(
            data.images,
            data.labels,
            order,
            step,
            steps_per_epoch=steps,
            patch=self.model.config.patch_size,
            mean=data.mean,
            std=data.std,
            smoothing=data.smoothing,
            seeds=self._seeds,
            patches=patches,
            targets=targets,
            **asdict(recipe),
        )

    def _evaluate(self, count: int, load: Callable[[slice], None]) -> Array:
        self.model.round_weights()
        logits = self.ops.empty((len(self.model.seeds), count, self.model.config.classes))
        for start in range(0, count, self.batch_size):
            part = slice(start, min(start + self.batch_size, count))
            load(part)
            logits[:, part] = self._forward(part.stop - part.start)
        return logits

    def _forward(self, batch: int) -> Array:
        def work() -> Array:
            self.evaluated.inputs(batch)
            return self.evaluated.logits()

        return self._run(("logits", batch), work)

    def _run(self, key: tuple[Hashable, ...], work: Callable[[], Any], *kept: object) -> Any:
        """Runs `work` as it is the first time, captures it the second, replays it from then on; returns its result.

        An encoding that computes with array expressions of its own cannot be captured, and runs as it is each time.
        """
        known = self._works.get(key)
        capturable = self.network.position.traceable
        if known is None and capturable:
            self.ops.load_kernels(work)
        if known is None or not capturable:
            result = work()
            self._works[key] = _Work(None, result, kept)
            return result
        graph = known.graph
        if graph is None:
            results: list[Any] = []
            graph = self.ops.capture(lambda: results.append(work()))
            known = self._works[key] = _Work(graph, results[0], kept)
        graph.launch()
        return known.result

    def _check_batch(self, batch: int) -> int:
        if batch > self.batch_size:
            raise ConfigError(f"images must be at most {self.batch_size} per run, got {batch}")
        return batch
