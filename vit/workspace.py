"""The memory of one lane: parameters it reads, gradients it writes, buffers it reuses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np

from vit.backend import Array, Ops
from vit.parameters import Views
from vit.random import stream

WIDE = frozenset(
    {
        *("tokens", "embedded", "stream", "mean", "rstd", "logsumexp"),
        *("y", "targets", "losses", "dstream"),
    }
)
"""Buffers of the type of the parameters. All others are read by products and have the type of operands."""


@dataclass
class Workspace:
    """Buffers for at most `capacity` images of each of R runs, made when first asked for and then kept.

    A buffer for fewer images is a contiguous part of the same memory. With `training`, each layer has its own saved
    buffers; without, the layers of all blocks share them, as nothing is needed for a backward pass.
    """

    ops: Ops
    parameters: Views
    weights: Views
    """The parameters as operands: themselves, or a rounded copy."""
    gradients: Views
    capacity: int
    training: bool = True
    _memory: dict[str, Array] = field(default_factory=dict, repr=False)
    _views: dict[tuple[str, int, tuple[int, ...]], Array] = field(default_factory=dict, repr=False)

    @property
    def runs(self) -> int:
        return len(self.parameters.flat)

    def saved(self, layer: str, name: str, batch: int, *shape: int) -> Array:
        """A buffer (R, batch, *shape) that keeps its content from forward to backward."""
        return self._buffer(f"{layer if self.training else role(layer)}.{name}", batch, shape)

    def no_bias(self, shape: tuple[int, ...]) -> Array:
        """Zeros, in place of a bias that was added elsewhere."""
        key = f"no bias {shape}"
        if key not in self._memory:
            self._memory[key] = self.ops.zeros(shape)
        return self._memory[key]

    def scratch(self, layer: str, name: str, batch: int, *shape: int) -> Array:
        """A buffer (R, batch, *shape) whose content lasts until another block's layer of the same role asks for it."""
        return self._buffer(f"{role(layer)}.{name}", batch, shape)

    def _buffer(self, key: str, batch: int, shape: tuple[int, ...]) -> Array:
        view = self._views.get((key, batch, shape))
        if view is None:
            memory = self._memory.get(key)
            if memory is None:
                make = self.ops.empty if key.rpartition(".")[2] in WIDE else self.ops.empty_operand
                memory = self._memory[key] = make((self.runs * self.capacity * prod(shape),))
            view = memory[: self.runs * batch * prod(shape)].reshape(self.runs, batch, *shape)
            self._views[key, batch, shape] = view
        return view


def role(layer: str) -> str:
    """The name of a layer without the number of its block."""
    return re.sub(r"^blocks\.\d+", "blocks", layer)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step and lane: the same for a run alone and among others."""

    seeds: Sequence[int]
    step: int
    lane: int

    def keep(self, name: str, shape: tuple[int, ...], rate: float) -> np.ndarray:
        """(R, *shape): 0 with probability `rate`, else 1 / (1 - rate)."""
        draws = [stream(seed, f"dropout {name}", self.step, self.lane).random(shape) for seed in self.seeds]
        return (np.stack(draws) >= rate) / (1 - rate)


@dataclass(frozen=True)
class DeviceDraws:
    """The random numbers of a step that kernels draw: from the seeds, and a counter that each step moves on."""

    seeds: Array
    """(R,) int64."""
    step: Array
    """(1,) int32, finished steps."""


AnyDraws: TypeAlias = Draws | DeviceDraws | None
