"""How fast a GPU trains: the chip's own peaks, and steps of R runs as one, in turn with other ways to make them."""

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
"""Seconds that one timed window lasts, about: so many steps that the host's launching and waiting do not count."""
WINDOWS = 5
IMAGES = 4096
"""Of the data set in device memory that batches are gathered from."""
PRODUCT, COPY = 8192, 1 << 28
"""Rows and columns of the large product; float32 numbers of the large copy."""


@dataclass(frozen=True)
class Way:
    """A way to train: `start` starts so many steps, `wait` waits for all of them; a step trains `images` images."""

    name: str
    images: int
    start: Callable[[int], None]
    wait: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds a step: the median of some windows, and the fastest and slowest of them."""

    seconds: float
    low: float
    high: float


def time_ways(ways: Sequence[Way], windows: int = WINDOWS, window: float = WINDOW) -> dict[str, Timing]:
    """Each way in turn, window by window, after a warm-up that also says how many steps a window has."""
    steps = {way.name: _steps(way, window) for way in ways}
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(windows):
        for way in ways:
            seconds[way.name].append(_window(way, steps[way.name]))
    return {name: Timing(float(np.median(s)), min(s), max(s)) for name, s in seconds.items()}


def _steps(way: Way, window: float) -> int:
    _window(way, 3)  # runs, is captured, is replayed
    count = 1
    while (taken := count * _window(way, count)) < window / 8:
        count *= 4
    return max(1, round(count * window / taken))


def _window(way: Way, steps: int) -> float:
    way.wait()
    begun = time.perf_counter()
    way.start(steps)
    way.wait()
    return (time.perf_counter() - begun) / steps


@dataclass(frozen=True)
class Peaks:
    """What the chip does at its best here: one large bf16 product (or float32), one large copy."""

    tflops: float
    """10^12 operations a second, a multiply-add as two."""
    copy_gb_s: float
    """10^9 bytes a second, read and written."""


def measure_peaks(ops: CudaOps, size: int = PRODUCT, numbers: int = COPY, window: float = WINDOW) -> Peaks:
    """The peaks, with the products that training uses."""
    a, b, out = (ops.empty_operand((1, size, size)) for _ in range(3))
    for operand in (a, b):
        operand.fill(0x3F80 if ops.rounds_operands else 1)  # ones, which cost what others do
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
    """R runs of a shape trained as one model, as `vitab run` trains them: images in device memory, crops and flips."""

    def __init__(self, shape: Shape, position: str, runs: int, ops: CudaOps) -> None:
        config = shape.config(position)
        self.ops, self.images = ops, runs * shape.batch
        model = ViT(config, ops, seeds=[0] * runs)  # whose weights are drawn once, as they do not matter here
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
        """The matrix products of a step alone."""

        def start(steps: int) -> None:
            for _ in range(steps):
                self.engine.replay_products(batch)

        return Way("products", self.images, start, lambda: self.engine.totals)

    @property
    def bytes(self) -> int:
        """That a step moves at least: of the images, those of the batch."""
        of_batch = self.images * self.data.images.nbytes // len(self.data.images)
        return self.engine.bytes_named - self.data.images.nbytes + of_batch

    def close(self) -> None:
        """Gives the memory back to the device."""
        self.engine.close()
        del self.engine, self.data
        release(self.ops)


def release(ops: CudaOps) -> None:
    """Returns memory that nothing holds any more from CuPy's pool to the device."""
    gc.collect()
    if hasattr(ops.xp, "get_default_memory_pool"):
        ops.xp.get_default_memory_pool().free_all_blocks()
