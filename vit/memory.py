"""What training takes, counted by the code that allocates it: the same layers, over arrays without memory."""

import inspect
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from vit.backend import Array, Ops
from vit.config import ViTConfig
from vit.engine import lanes_of
from vit.model import Network, layout
from vit.optim import AdamW, Training
from vit.parameters import Views
from vit.workspace import Draws, Workspace


class Ghost(np.ndarray):
    """An array whose elements are all one place in memory. Writing to it and computing with it does nothing."""

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            return kwargs["out"][0]
        if method == "__call__" and ufunc.signature is None:  # element by element
            return ghost(np.broadcast_shapes(*map(np.shape, inputs)), self.dtype)
        return getattr(ufunc, method)(*map(np.asarray, inputs), **kwargs)


def ghost(shape: tuple[int, ...], dtype: Any) -> Ghost:
    """An array of this shape that takes no memory."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, [0] * len(shape)).view(Ghost)


class Counted(Ops):
    """Operations that compute nothing, on arrays of any shape that take no memory; `bytes` is what they would take."""

    def __init__(self, name: str, dtype: str) -> None:
        super().__init__(np, dtype)
        self.name = name
        self.bytes = 0

    def empty(self, shape: tuple[int, ...]) -> Array:
        self.bytes += prod(shape) * self.dtype.itemsize
        return ghost(shape, self.dtype)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return self.empty(shape)

    def asarray(self, array: Array) -> Array:
        if not isinstance(array, Ghost):
            self.bytes += array.size * self.dtype.itemsize
        return array


def _nothing(self: Ops, x: Array = None, *rest: Any, out: Array = None, **more: Any) -> Array:
    return x if out is None else out


for _name, _method in vars(Ops).items():
    if inspect.isfunction(_method) and _name not in vars(Counted):
        setattr(Counted, _name, _nothing)


class GhostDraws(Draws):
    """Random numbers that are not drawn."""

    def keep(self, name: str, shape: tuple[int, ...], rate: float) -> np.ndarray:
        return ghost((len(self.seeds), *shape), np.dtype("float32"))


def parameter_bytes(config: ViTConfig, runs: int = 1, dtype: str = "float32") -> int:
    """Of the flat parameters (R, P) alone, padding included."""
    return runs * layout(config).size * np.dtype(dtype).itemsize


@lru_cache(maxsize=4096)
def training_bytes(
    config: ViTConfig,
    *,
    runs: int,
    batch_size: int,
    threads: int,
    backend: str = "numpy",
    dtype: str = "float32",
) -> int:
    """Of a model of R runs and its engine once it has trained and evaluated: parameters, gradients, moments, and the
    buffers of every thread's lane. Batches come on top."""
    ops = Counted(backend, dtype)
    lane_images, threads = lanes_of(config, batch_size, threads, backend)
    declared = layout(config)
    parameters = Views(declared, ops.empty((runs, declared.size)))
    AdamW(declared, parameters.flat, Training(), ops)
    ops.zeros(parameters.flat.shape)  # the sum of the lanes' gradients
    shared = ops.bytes
    gradients = Views(declared, ops.zeros(parameters.flat.shape))
    network = Network(config, Workspace(ops, parameters, gradients, lane_images))
    side = config.image_size
    images, targets = (runs, lane_images, side, side, config.channels), (runs, lane_images, config.classes)
    network.load(ghost(images, ops.dtype), ghost(targets, ops.dtype))
    network.train(1.0, GhostDraws([0] * runs, 1, 0))
    network.logits()
    return shared + threads * (ops.bytes - shared)
