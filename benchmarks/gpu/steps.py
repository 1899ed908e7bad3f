"""Speed of GPU training: peaks of the GPU, and steps of R runs trained as one model, timed alternately with others."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.shapes import Shape
from vit import ViT, cost
from vit.backend.cuda.ops import CudaOps
from vit.graph_engine import AdamWConfig, DeviceAugmentation, GraphEngine

WINDOW = 0.15
"""Approximate seconds of one timed window. The overhead of launches and synchronisation is negligible in this time."""
WINDOWS = 5
IMAGES = 4096
"""Number of images of the dataset in device memory."""
PRODUCT, COPY = 8192, 1 << 28
"""Rows and columns of the large matrix product, and number of float32 elements of the large copy."""


@dataclass(frozen=True)
class Way:
    """Training steps to time. `start` starts some steps, `wait` waits for them. A step trains `images` images."""

    name: str
    images: int
    start: Callable[[int], None]
    wait: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds per step: median, minimum and maximum over the windows."""

    seconds: float
    low: float
    high: float


def time_ways(ways: Sequence[Way], windows: int = WINDOWS, window: float = WINDOW) -> dict[str, Timing]:
    """Time the ways alternately in windows, after a warm-up that determines the number of steps per window."""
    steps = {way.name: _steps(way, window) for way in ways}
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(windows):
        for way in ways:
            seconds[way.name].append(_window(way, steps[way.name]))
    return {name: Timing(float(np.median(s)), min(s), max(s)) for name, s in seconds.items()}


def _steps(way: Way, window: float) -> int:
    _window(way, 3)  # first step, graph capture, replay
    count = 1
    while (taken := count * _window(way, count)) < window / 8:
        count *= 4
    return max(1, round(count * window / taken))


def _window(way: Way, steps: int) -> float:
    way.wait()
    start = time.perf_counter()
    way.start(steps)
    way.wait()
    return (time.perf_counter() - start) / steps


@dataclass(frozen=True)
class Peaks:
    """Measured peaks of the GPU, by a large product of random matrices in bf16 (or float32) and a large copy."""

    tflops: float
    """10^12 operations per second; a multiply-add counts as two."""
    copy_gb_s: float
    """10^9 bytes per second, counting bytes read and bytes written."""


def measure_peaks(ops: CudaOps, size: int = PRODUCT, numbers: int = COPY, window: float = WINDOW) -> Peaks:
    """Measure the peaks. The matrix product is the one that training uses."""
    a, b, out = (ops.empty_operand((1, size, size)) for _ in range(3))
    draws = np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32)  # constants would take less power
    values = ops.asarray(np.resize(draws, (1, size, size)))
    for operand in (a, b):
        ops.round_operand(values, operand)
    source, copied = ops.zeros((numbers,)), ops.empty((numbers,))

    def multiply(steps: int) -> None:
        for _ in range(steps):
            ops.matmul(a, b, out=out)

    def copy(steps: int) -> None:
        for _ in range(steps):
            copied[...] = source

    product = Way("product", 0, multiply, lambda: ops.to_numpy(out[0, :1, :1]))
    move = Way("copy", 0, copy, lambda: ops.to_numpy(copied[:1]))
    times = time_ways([product, move], window=window)
    return Peaks(2 * size**3 / times["product"].low / 1e12, 2 * source.nbytes / times["copy"].low / 1e9)


class RunsAsOne:
    """R runs of one shape, trained as one model as in `vitab run`: images in device memory, random crops and flips."""

    def __init__(self, shape: Shape, position: str, runs: int, ops: CudaOps) -> None:
        config = shape.config(position)
        self.ops, self.images = ops, runs * shape.batch
        model = ViT(config, ops, seeds=[0] * runs)  # the same seed for all: the weights do not affect the time
        self.engine = GraphEngine(model, AdamWConfig(), shape.batch)
        self.steps = IMAGES // shape.batch
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (IMAGES, shape.image, shape.image, shape.channels), dtype=np.uint8)
        moments = np.full((runs, shape.channels), 0.5)
        self.data = self.engine.resident(
            pixels, rng.integers(0, shape.classes, IMAGES), moments, moments / 2, moments[:, 0] / 5
        )
        self.recipe = DeviceAugmentation(crop_padding=shape.image // 8, flip=True)
        order = np.stack([rng.permutation(IMAGES)[: self.steps * shape.batch] for _ in range(runs)])
        self.engine.start_epoch(order, np.full((runs, self.steps), 1e-4))
        self.flops = cost.TRAINING_FACTOR * cost.forward_flops(config) * self.images

    def way(self) -> Way:
        def start(steps: int) -> None:
            self.engine.train(self.data, self.recipe, steps, self.steps)

        return Way("vitab", self.images, start, lambda: self.engine.totals)

    def products(self, batch: int) -> Way:
        """Return the matrix products of a step without its other operations, as a way to be timed."""

        def start(steps: int) -> None:
            for _ in range(steps):
                self.engine.replay_products(batch)

        return Way("products", self.images, start, lambda: self.engine.totals)

    @property
    def bytes(self) -> int:
        """Minimum number of bytes that a step moves. Of the dataset, only the images of the batch are counted."""
        of_batch = self.images * self.data.images.nbytes // len(self.data.images)
        return self.engine.bytes_named - self.data.images.nbytes + of_batch

    def close(self) -> None:
        """Free the device memory."""
        self.engine.close()
        del self.engine, self.data
        release(self.ops)


def release(ops: CudaOps) -> None:
    """Release unused memory of CuPy's memory pool to the device."""
    gc.collect()
    if hasattr(ops.xp, "get_default_memory_pool"):
        ops.xp.get_default_memory_pool().free_all_blocks()
