"""Memory that training needs, counted by running the layers on arrays that allocate no memory."""

import inspect
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from vit.backend import Array, Ops
from vit.backend.cuda import attention as cuda_attention
from vit.config import ViTConfig
from vit.engine import lanes_of
from vit.model import Network, layout
from vit.optim import AdamW, AdamWConfig
from vit.parameters import Views
from vit.workspace import DeviceDraws, Draws, Workspace


class MetaArray(np.ndarray):
    """Array whose elements all share one memory location. Assignments and ufuncs compute nothing."""

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            return kwargs["out"][0]
        if method == "__call__" and ufunc.signature is None:  # element by element
            return meta_array(np.broadcast_shapes(*map(np.shape, inputs)), self.dtype)
        return getattr(ufunc, method)(*map(np.asarray, inputs), **kwargs)


def meta_array(shape: tuple[int, ...], dtype: Any) -> MetaArray:
    """Return an array of the given shape that allocates only one element."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, [0] * len(shape)).view(MetaArray)


class AllocationCounter(Ops):
    """`Ops` that compute nothing and allocate no memory, but count in `bytes` the bytes they would allocate."""

    def __init__(self, name: str, dtype: str, *, rounds_operands: bool = False) -> None:
        super().__init__(np, dtype)
        self.name, self.rounds_operands = name, rounds_operands
        self.bytes = 0

    def empty(self, shape: tuple[int, ...]) -> Array:
        self.bytes += prod(shape) * self.dtype.itemsize
        return meta_array(shape, self.dtype)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return self.empty(shape)

    def empty_operand(self, shape: tuple[int, ...]) -> Array:
        if not self.rounds_operands:
            return self.empty(shape)
        self.bytes += prod(shape) * 2
        return meta_array(shape, np.dtype("uint16"))

    def fuses_attention(self, tokens: int, head_width: int) -> bool:
        return self.name != "numpy" and cuda_attention.fits(tokens, head_width)

    def asarray(self, array: Array) -> Array:
        if not isinstance(array, MetaArray):
            self.bytes += array.size * self.dtype.itemsize
        return array


def _nothing(self: Ops, x: Array = None, *rest: Any, out: Array = None, **more: Any) -> Array:
    return x if out is None else out


for _name, _method in vars(Ops).items():
    if inspect.isfunction(_method) and _name not in vars(AllocationCounter):
        setattr(AllocationCounter, _name, _nothing)


class MetaDraws(Draws):
    """Dropout masks without values, as meta arrays."""

    def keep(self, name: str, shape: tuple[int, ...], rate: float) -> np.ndarray:
        return meta_array((len(self.seeds), *shape), np.dtype("float32"))


def parameter_bytes(config: ViTConfig, runs: int = 1, dtype: str = "float32") -> int:
    """Return the bytes of the flat parameters (R, P), including padding."""
    return runs * layout(config).size * np.dtype(dtype).itemsize


@lru_cache(maxsize=4096)
def training_bytes(
    config: ViTConfig,
    *,
    runs: int,
    batch_size: int,
    threads: int,
    dtype: str = "float32",
) -> int:
    """Return the bytes of a model of R runs and its CPU engine after training and evaluation.

    Includes parameters, gradients, moments and the buffers of all threads, but not the batches.
    """
    ops = AllocationCounter("numpy", dtype)
    lane_images, threads = lanes_of(config, batch_size, threads, "numpy")
    declared = layout(config)
    parameters = Views(declared, ops.empty((runs, declared.size)))
    AdamW(declared, parameters.flat, AdamWConfig(), ops)
    ops.zeros(parameters.flat.shape)  # the sum of the lanes' gradients
    shared = ops.bytes
    gradients = Views(declared, ops.zeros(parameters.flat.shape))
    network = Network(config, Workspace(ops, parameters, parameters, gradients, lane_images))
    side = config.image_size
    images, targets = (runs, lane_images, side, side, config.channels), (runs, lane_images, config.classes)
    network.load(meta_array(images, ops.dtype), meta_array(targets, ops.dtype))
    network.train(1.0, MetaDraws([0] * runs, 1, 0))
    network.logits()
    return shared + threads * (ops.bytes - shared)


@lru_cache(maxsize=4096)
def device_training_bytes(
    config: ViTConfig, *, runs: int, batch_size: int, precision: str = "float32", average: bool = False
) -> int:
    """Return the device memory of a model of R runs and its graph engine, in bytes.

    Includes parameters, the weights as operands, gradients, moments, averaged weights (with `average`), buffers for
    training and evaluation, and scratch memory of the kernels, but not the dataset.
    """
    ops = AllocationCounter("cupy", "float32", rounds_operands=precision == "bf16")
    declared = layout(config)
    shape = (runs, declared.size)
    parameters, gradients, *_ = (Views(declared, ops.empty(shape)) for _ in range(4 + average))
    weights = Views(declared, ops.empty_operand(shape)) if ops.rounds_operands else parameters
    draws = DeviceDraws(meta_array((runs,), np.dtype("int64")), meta_array((1,), np.dtype("int32")))
    for training in (True, False):
        network = Network(config, Workspace(ops, parameters, weights, gradients, batch_size, training))
        network.inputs(batch_size)
        if training:
            network.train(1.0, draws)
        else:
            network.logits()
    tiles = -(-config.tokens // (128 if ops.rounds_operands else 64))
    ops.empty((runs * batch_size * tiles * 3 * config.width,))  # scratch: partial sums of the qkv bias gradient
    return ops.bytes
