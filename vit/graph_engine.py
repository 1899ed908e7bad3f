"""Training and evaluation on a GPU: a step is captured once as a CUDA graph and then replayed.

The first step of a kind is run directly, which allocates its buffers and loads its kernels; the second is captured;
later steps launch the graph. Values that differ between steps (order of images, learning rates, the step counter) are
in buffers at fixed addresses, so one graph serves all steps with the same number of images and the same dataset.
Results are copied to the host only on request.
"""

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vit.backend import Array
from vit.backend.cuda.ops import CudaOps, Graph, Mark
from vit.errors import ConfigError
from vit.model import Network, ViT, capture_problem
from vit.optim import AdamWConfig
from vit.parameters import Layout
from vit.workspace import DeviceDraws

__all__ = ["AdamWConfig", "DeviceAdamW", "GraphEngine", "Resident"]


@dataclass(frozen=True)
class Resident:
    """Dataset in device memory, shared by R runs, and each run's normalisation and label smoothing.

    `GraphEngine.resident` creates it.
    """

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
    """Augmentation on the device; arguments of `load_batch` in `vit.backend.cuda.training`."""

    crop_padding: int = 0
    flip: bool = False
    trivial_augment: bool = False
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


PLAIN = DeviceAugmentation()


@dataclass(frozen=True)
class _Work:
    """A kind of work that has run: its graph, if captured, its result, and objects that must be kept alive."""

    graph: Graph | None
    result: Any
    kept: tuple[object, ...]


class DeviceAdamW:
    """AdamW over all parameters (R, P) at once, with all changing values in device memory."""

    def __init__(
        self, layout: Layout, parameters: Array, copy: Array | None, training: AdamWConfig, ops: CudaOps, ema: float
    ) -> None:
        """`copy` is the bf16 copy of the parameters, if any; `ema` the decay of averaged weights, 0 for none."""
        runs = len(parameters)
        self.parameters, self.copy, self.training, self.ops, self.ema = parameters, copy, training, ops, ema
        self.decayed = layout.decayed
        self.first = ops.zeros(parameters.shape)
        self.second = ops.zeros(parameters.shape)
        self.average = parameters.copy() if ema else None
        decay = np.broadcast_to(np.asarray(training.weight_decay, dtype=np.float32), (runs,))
        self._decay = ops.xp.asarray(decay.copy())
        self.counter = ops.xp.zeros(1, dtype="int32")
        """Number of finished steps, on the device."""
        self._step = 0

    @property
    def step(self) -> int:
        """Number of steps started."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        self.counter.fill(step)

    def count(self, steps: int) -> None:
        """Add to the number of steps started. The device counts finished steps itself."""
        self._step += steps

    def update(self, gradient: Array, rate: Array) -> None:
        """Make one step; `rate` (R, s) contains learning rates, of which column `step` mod s applies."""
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
    """Training and evaluation of the R runs of a model on a GPU, in batches of at most `batch_size` images."""

    def __init__(self, model: ViT, training: AdamWConfig, batch_size: int, *, ema: float = 0.0) -> None:
        """`ema` is the decay of the averaged weights `optimizer.average` (R, P); 0 for none.

        Raises ConfigError if the model is not on a GPU.
        """
        if not isinstance(model.ops, CudaOps):
            raise ConfigError(f"backend must be 'cupy' with a graph engine, got {model.ops.name!r}")
        self.model, self.training, self.ops = model, training, model.ops
        self.batch_size = self.lane_images = batch_size
        self.network: Network = model.network(batch_size)
        self.evaluated: Network = model.network(batch_size, training=False)
        self._captures = capture_problem(model.config, "cupy") is None
        self.gradient = self.network.workspace.gradients.flat
        runs = len(model.seeds)
        copy = model.weights.flat if self.ops.rounds_operands else None
        self.optimizer = DeviceAdamW(model.layout, model.parameters.flat, copy, training, self.ops, ema)
        self._totals = self.ops.zeros((runs, 2))
        self._rate = self.ops.zeros((runs, 1))
        self._seeds = self.ops.xp.asarray(np.array(model.seeds, dtype=np.int64))
        self._start = self.ops.xp.zeros(1, dtype="int32")
        self._epochs: dict[int, tuple[Array, Array]] = {}
        self._works: dict[tuple[Hashable, ...], _Work] = {}
        self._products: dict[int, Graph] = {}

    # Steps on batches from the host

    def step(self, images: Array, targets: Array, learning_rate: float | Array | None = None) -> Array:
        """Make one step of AdamW on images (R, B, h, w, channels) and soft targets (R, B, C).

        Returns the mean losses (R,) before the step. `learning_rate` is one number, or one per run (R,).
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
        self._step(("step", batch), lambda: None, batch, self._rate)
        return self.network.workspace.scratch("head", "losses", batch).mean(axis=1)

    def logits(self, images: Array) -> Array:
        """Return the logits (R, n, C) of any number of images (R, n, h, w, channels), without dropout."""
        self.model.check_images(images)

        def load(part: slice) -> None:
            self.evaluated.load(self.ops.xp.ascontiguousarray(self.ops.asarray(images[:, part])))

        return self._evaluate(images.shape[1], load)

    @property
    def bytes_named(self) -> int:
        """`Graph.bytes_named` of the captured training step; 0 if none has been captured."""
        steps = (work.graph for key, work in self._works.items() if work.graph and key[0] != "logits")
        return max((graph.bytes_named for graph in steps), default=0)

    def replay_products(self, batch: int) -> bool:
        """Start only the matrix products of an earlier step on `batch` images, to measure their share of its time.

        Overwrites buffers and gradients, but no parameters.
        """
        if batch not in self._products:
            self._products[batch] = self.ops.capture(lambda: self._gradient(batch), products_only=True)
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
        """Copy uint8 images (n, h, w, channels) and labels (n,) to the device.

        `mean` and `std` (R, channels) normalise the images of each run; `smoothing` (R,) is its label smoothing.
        """
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
        """Set the image indices (R, steps B) and learning rates (R, steps) of an epoch, and reset the totals.

        Step i of the epoch is the one that starts when `optimizer.step` mod steps is i.
        """
        steps = rates.shape[1]
        if order.shape != (len(rates), steps * self.batch_size) or len(rates) != len(self.model.seeds):
            raise ConfigError(
                f"order must fit rates {rates.shape} and {self.batch_size} images per step, got {order.shape}"
            )
        if steps not in self._epochs:
            xp = self.ops.xp
            self._epochs[steps] = xp.empty(order.shape, dtype="int32"), xp.empty(rates.shape, dtype="float32")
        for table, values in zip(self._epochs[steps], (order, rates), strict=True):
            table[...] = self.ops.xp.asarray(np.ascontiguousarray(values, dtype=table.dtype))
        self._totals.fill(0)

    def train(self, data: Resident, recipe: DeviceAugmentation, count: int, steps: int) -> None:
        """Start the next `count` of the `steps` steps of an epoch, on batches gathered and augmented on the device."""
        order, rate = self._epochs[steps]
        self.model.round_weights()

        def load() -> None:
            self._load(self.network, data, recipe, order, self.optimizer.counter, steps, self.batch_size)

        for _ in range(count):
            self._step(("train", id(data), recipe, steps), load, self.batch_size, rate, data)

    def mark(self) -> Mark:
        """Return a mark after all steps started, to wait for them, since the device runs asynchronously."""
        return self.ops.device.mark()

    @property
    def totals(self) -> np.ndarray:
        """Sum of the losses and number of correct predictions since `start_epoch`, (R, 2).

        Reading it waits for all steps started. It may be set, to resume an epoch.
        """
        return np.asarray(self.ops.to_numpy(self._totals), dtype=np.float64)

    @totals.setter
    def totals(self, sums: np.ndarray) -> None:
        self._totals[...] = self.ops.asarray(sums)

    def evaluate(self, data: Resident, order: np.ndarray) -> Array:
        """Return the logits (R, n, C) of the images with indices `order` (R, n)."""
        order = np.ascontiguousarray(order, dtype=np.int32)

        def load(part: slice) -> None:
            own = self.ops.xp.asarray(np.ascontiguousarray(order[:, part]))
            self._load(self.evaluated, data, PLAIN, own, self._start, 1, own.shape[1])

        return self._evaluate(order.shape[1], load)

    def close(self) -> None:
        """Wait for all steps started, then release the graphs."""
        self.ops.to_numpy(self.optimizer.counter)
        self._works.clear()
        self._products.clear()

    def _step(
        self, key: tuple[Hashable, ...], load: Callable[[], None], batch: int, rate: Array, *kept: object
    ) -> None:
        """Start one step on the batch that `load` puts into the input buffers.

        The step is one graph. If the encoding has learned tables, it is two, for the gradient and the update, and the
        tables are computed outside them.
        """
        self.model.derive(self.optimizer.step + 1)
        workspace = self.network.workspace

        def gradient() -> None:
            load()
            self._gradient(batch)

        def update() -> None:
            self.optimizer.update(self.gradient, rate)

        if workspace.dtables:
            self._run(("gradient", *key), gradient, *kept)
            self.model.derive_backward(workspace.dtables, workspace.gradients)
            self._run(("update", *key), update)
        else:

            def step() -> None:
                gradient()
                update()

            self._run(key, step, *kept)
        self.optimizer.count(1)

    def _gradient(self, batch: int) -> None:
        draws = DeviceDraws(self._seeds, self.optimizer.counter)
        self.network.inputs(batch)
        self.network.train(1 / batch, draws, self._totals)

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
        self.model.derive()
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
        """Run `work` directly the first time, capture it the second time, then replay it; return its result.

        If `capture_problem` finds a reason, `work` is always run directly.
        """
        known = self._works.get(key)
        capturable = self._captures
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
