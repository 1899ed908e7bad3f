"""How fast training steps are on this machine, and how much of them is matrix products."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vit import ViT, ViTConfig, cost, get_ops, one_hot
from vit.engine import AdamWConfig, Engine
from vit.graph_engine import GraphEngine

WARM_UP_STEPS = 3
LEAST_ROUNDS = 5
LEAD_IN = 0.02
"""Seconds of untimed work before each timed step. A step of a training follows one of its own: threads are awake, the
caches are its own, and no thread of the one before (OpenMP's spin for milliseconds) still takes a core."""


@dataclass(frozen=True)
class Speed:
    """Medians over `steps` full steps: forward, backward, clipping and AdamW."""

    steps: int
    milliseconds: float
    images_per_s: float
    gflops: float
    """10^9 floating-point operations, as `vit.cost` counts them, a second."""
    products_share: float | None
    """The time of the matrix products alone over that of the step; None where a step is not captured on a tape."""
    peer_milliseconds: float | None = None
    """Of a peer's steps, taken in turn with these; None without a peer."""
    ratio: tuple[float, float, float] | None = None
    """Of this step's time over the peer's: the median over pairs, and the middle 90 % of them."""


class Stepper:
    """Full training steps of a model on one random batch of images that stays the same."""

    def __init__(
        self,
        config: ViTConfig,
        batch_size: int,
        backend: str = "numpy",
        threads: int | None = None,
        precision: str | None = None,
    ) -> None:
        rng = np.random.default_rng(0)
        size = (1, batch_size, config.image_size, config.image_size, config.channels)
        labels = rng.integers(0, config.classes, size[:2])
        self.model = ViT(config, get_ops(backend, precision=precision), seeds=[0])
        self.images = self.model.ops.asarray(rng.standard_normal(size))
        self.targets = self.model.ops.asarray(one_hot(labels, config.classes, smoothing=0.1))
        self.engine: Engine | GraphEngine
        if backend == "numpy":
            self.engine = Engine(self.model, AdamWConfig(), batch_size, threads)
        else:
            self.engine = GraphEngine(self.model, AdamWConfig(), batch_size)
        self.flops = cost.TRAINING_FACTOR * cost.forward_flops(config) * batch_size

    def step(self) -> float:
        """Execute one step and return its mean loss."""
        losses = self.engine.step(self.images, self.targets, 1e-4)
        return float(self.model.ops.to_numpy(losses)[0])

    def products(self) -> bool:
        """Execute only the matrix products of a step, on the same threads; False if they cannot be separated."""
        separable = self.engine.replay_products(self.images.shape[1])
        self.model.ops.to_numpy(self.model.parameters.flat[:1, :1])  # waits where products are only started
        return separable


def alternate(works: Sequence[Callable[[], object]], seconds: float) -> np.ndarray:
    """Seconds (rounds made, works) of each in turn after a warm-up, for so long but at least `LEAST_ROUNDS` rounds.

    A turn is `LEAD_IN` seconds of the work untimed, then the work once, timed.
    """
    for _ in range(WARM_UP_STEPS):
        for work in works:
            work()
    times: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_ROUNDS or time.perf_counter() < end:
        row = []
        for work in works:
            led_in = time.perf_counter() + LEAD_IN
            while time.perf_counter() < led_in:
                work()
            start = time.perf_counter()
            work()
            row.append(time.perf_counter() - start)
        times.append(row)
    return np.array(times)


def measure(stepper: Stepper, *, batch_size: int, seconds: float, peer: Callable[[], object] | None = None) -> Speed:
    """Steps, products, and the steps of a peer where there is one, in turn for `seconds`."""
    works = [stepper.step, stepper.products, *([peer] if peer else [])]
    times = alternate(works, seconds)
    separable = stepper.products()
    step = float(np.median(times[:, 0]))
    return Speed(
        steps=len(times),
        milliseconds=step * 1e3,
        images_per_s=batch_size / step,
        gflops=stepper.flops / step / 1e9,
        products_share=float(np.median(times[:, 1] / times[:, 0])) if separable else None,
        peer_milliseconds=float(np.median(times[:, 2])) * 1e3 if peer else None,
        ratio=tuple(np.quantile(times[:, 0] / times[:, 2], (0.5, 0.05, 0.95)).tolist()) if peer else None,
    )


def peak_mb() -> float:
    """Largest resident memory of this process so far, in 2^20 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # rusage would count what the parent had before this process took its place
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, but on macOS bytes
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
