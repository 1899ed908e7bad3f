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
    """Settings of the optimiser. `weight_decay` may be one number or one for each run."""

    learning_rate: float = 1e-3
    weight_decay: float | Sequence[float] = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    """The gradient of a run is scaled down to this norm where it is larger; None never scales."""


def warmup_cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """Learning rate of a step (from 0): a linear rise to `peak` over `warmup` steps, then half a cosine to 0.

    Loshchilov and Hutter 2016 (arXiv 1608.03983), without restarts.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


class AdamW:
    """AdamW on slices of the flat parameters (R, P), so that threads can share the work.

    The slices are fixed and end where weight decay ends; sums over them are added in their order, so the result does
    not depend on who computes which.
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
        """Of one slice: (R,)."""
        return self.ops.sum_of_squares(gradient[:, self.slices[index]])

    def clip_scale(self, sums: Sequence[Array]) -> Array:
        """What each run's gradient is multiplied by (R,): min(1, clip / (norm + 1e-6)), as PyTorch does it."""
        norm = sum(sums[1:], sums[0]) ** 0.5
        clip = self.training.clip_norm
        return self.ops.xp.ones_like(norm) if clip is None else self.ops.xp.minimum(1.0, clip / (norm + 1e-6))

    def update(self, gradient: Array, index: int, scale: Array, learning_rate: Array) -> None:
        """One slice of the step number `self.step`, counted from 1."""
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
