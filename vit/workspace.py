"""Memory of a network: parameters, gradients and reusable buffers; and the addresses of its random numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np

from vit.backend import Array, Ops
from vit.parameters import Views
from vit.random import stream

FULL_PRECISION = frozenset(
    {
        *("tokens", "embedded", "stream", "mean", "rstd", "logsumexp"),
        *("y", "targets", "losses", "dstream"),
    }
)
"""Names of the buffers in the type of the parameters. All others are operands."""


@dataclass
class Workspace:
    """Buffers for at most `capacity` images of each of R runs, allocated on first use and then kept.

    A buffer for fewer images is a contiguous part of the same memory. With `training`, each layer has its own saved
    buffers; without, corresponding layers of all blocks share them, because no backward pass follows.
    """

    ops: Ops
    parameters: Views
    weights: Views
    """The parameters as operands: the same arrays, or a rounded copy."""
    gradients: Views
    capacity: int
    training: bool
    tables: Views
    """What the encoding has computed from the parameters, shared by all networks of a model; see `ViT.derive`."""
    dtables: Views
    """Their gradients."""
    owner: str = ""
    """Part of the names of buffers, so that parts of a sum of encodings do not share them."""
    _memory: dict[str, Array] = field(default_factory=dict, repr=False)
    _views: dict[tuple[str, int, tuple[int, ...]], Array] = field(default_factory=dict, repr=False)

    @property
    def runs(self) -> int:
        return len(self.parameters.flat)

    def saved(self, layer: str, name: str, batch: int, *shape: int) -> Array:
        """Return a buffer (R, batch, *shape) that keeps its content until the backward pass."""
        return self._buffer(f"{layer if self.training else role(layer)}{self.owner}.{name}", batch, shape)

    def no_bias(self, shape: tuple[int, ...]) -> Array:
        """Return zeros of the given shape, as the bias of a branch that already includes its bias."""
        key = f"no bias {shape}"
        if key not in self._memory:
            self._memory[key] = self.ops.zeros(shape)
        return self._memory[key]

    def scratch(self, layer: str, name: str, batch: int, *shape: int) -> Array:
        """Return a buffer (R, batch, *shape) that the layers of the same role in all blocks share."""
        return self._buffer(f"{role(layer)}{self.owner}.{name}", batch, shape)

    def _buffer(self, key: str, batch: int, shape: tuple[int, ...]) -> Array:
        view = self._views.get((key, batch, shape))
        if view is None:
            memory = self._memory.get(key)
            if memory is None:
                make = self.ops.empty if key.rpartition(".")[2] in FULL_PRECISION else self.ops.empty_operand
                memory = self._memory[key] = make((self.runs * self.capacity * prod(shape),))
            view = memory[: self.runs * batch * prod(shape)].reshape(self.runs, batch, *shape)
            self._views[key, batch, shape] = view
        return view


def role(layer: str) -> str:
    """Return the name of a layer without the number of its block."""
    return re.sub(r"^blocks\.\d+", "blocks", layer)


@dataclass(frozen=True)
class Draws:
    """Dropout masks of one training step and lane. Those of a run do not depend on the other runs of the model."""

    seeds: Sequence[int]
    step: int
    lane: int

    def keep(self, name: str, shape: tuple[int, ...], rate: float) -> np.ndarray:
        """Return a mask (R, *shape): elements are 0 with probability `rate`, else 1 / (1 - rate)."""
        draws = [stream(seed, f"dropout {name}", self.step, self.lane).random(shape) for seed in self.seeds]
        return (np.stack(draws) >= rate) / (1 - rate)


@dataclass(frozen=True)
class DeviceDraws:
    """Addresses of the random numbers that CUDA kernels draw in a step: the seeds and a counter on the device."""

    seeds: Array
    """(R,) int64."""
    step: Array
    """(1,) int32, number of finished steps."""


AnyDraws: TypeAlias = Draws | DeviceDraws | None
