"""AdamW over the flat parameters, the learning-rate schedule, and clipping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vit.backend import Array, Ops
from vit.parameters import Layout


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """Settings of AdamW. `weight_decay` is one number, or one per run."""

    learning_rate: float = 1e-3
    weight_decay: float | Sequence[float] = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    """Upper bound of the gradient norm of each run; None disables clipping."""


def warmup_cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """Return the learning rate of a step, counted from 0.

    The rate rises linearly to `peak` over `warmup` steps and then falls to 0 along half a cosine, as in Loshchilov
    and Hutter 2016 (arXiv 1608.03983) without restarts.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


class AdamW:
    """AdamW on slices of the flat parameters (R, P), which threads can update in parallel.

    The slices do not depend on the number of threads, and none contains both decayed and other parameters. Their sums
    of squares are added in a fixed order, so the result does not depend on which thread computes which slice.
    """

    SLICE = 1 << 16

    def __init__(self, layout: Layout, parameters: Array, training: AdamWConfig, ops: Ops) -> None:
        self.parameters, self.training, self.ops = parameters, training, ops
        self.first = ops.zeros(parameters.shape)
        self.second = ops.zeros(parameters.shape)
        self.step = 0
        runs = len(parameters)
        decay = np.broadcast_to(np.asarray(training.weight_decay, dtype=np.float64), (runs,))
        bounds = [
            *range(0, layout.decayed, self.SLICE),
            *range(layout.decayed, layout.size, self.SLICE),
            layout.size,
        ]
        self.slices = [slice(a, b) for a, b in pairwise(bounds)]
        self._decay = [decay if s.start < layout.decayed else np.zeros(runs) for s in self.slices]

    def sum_of_squares(self, gradient: Array, index: int) -> Array:
        """Return the sum of squares of one slice of the gradient, (R,) in float64."""
        return self.ops.sum_of_squares(gradient[:, self.slices[index]])

    def clip_scale(self, sums: Sequence[Array]) -> Array:
        """Return the factor that clips each run's gradient (R,): min(1, clip / (norm + 1e-6)), as in PyTorch."""
        norm = sum(sums[1:], sums[0]) ** 0.5
        clip = self.training.clip_norm
        return self.ops.xp.ones_like(norm) if clip is None else self.ops.xp.minimum(1.0, clip / (norm + 1e-6))

    def update(self, gradient: Array, index: int, scale: Array, learning_rate: Array) -> None:
        """Update one slice of the parameters in step `self.step`, counted from 1."""
        part = self.slices[index]
        self.ops.adamw(
            self.parameters[:, part],
            gradient[:, part],
            self.first[:, part],
            self.second[:, part],
            gradient_scale=scale,
            rate=learning_rate,
            decay=self.ops.xp.asarray(self._decay[index]),
            betas=self.training.betas,
            epsilon=self.training.eps,
            step=self.step,
        )
