"""Memory that training needs, counted by running the layers on arrays that allocate no memory."""

from functools import lru_cache
from math import prod

import numpy as np

from vit.backend import Array
from vit.backend.probe import MetaArray, MetaOps, meta_array
from vit.config import ViTConfig
from vit.engine import lanes_of
from vit.model import Network, layout, table_layout
from vit.optim import AdamW, AdamWConfig
from vit.parameters import Views
from vit.positions import encoding
from vit.workspace import DeviceDraws, Draws, Workspace


class AllocationCounter(MetaOps):
    """`Ops` that compute nothing and allocate no memory, but count in `bytes` the bytes they would allocate."""

    def __init__(self, name: str, dtype: str, *, rounds_operands: bool = False) -> None:
        super().__init__(name, dtype)
        self.rounds_operands = rounds_operands
        self.bytes = 0

    def empty(self, shape: tuple[int, ...]) -> Array:
        self.bytes += prod(shape) * self.dtype.itemsize
        return super().empty(shape)

    def empty_operand(self, shape: tuple[int, ...]) -> Array:
        if not self.rounds_operands:
            return self.empty(shape)
        self.bytes += prod(shape) * 2
        return meta_array(shape, np.dtype("uint16"))

    def asarray(self, array: Array) -> Array:
        if not isinstance(array, MetaArray):
            self.bytes += array.size * self.dtype.itemsize
        return array


class MetaDraws(Draws):
    """Dropout masks without values, as meta arrays."""

    def keep(self, name: str, shape: tuple[int, ...], rate: float) -> np.ndarray:
        return meta_array((len(self.seeds), *shape), np.dtype("float32"))


def parameter_bytes(config: ViTConfig, runs: int = 1, dtype: str = "float32") -> int:
    """Return the bytes of the flat parameters (R, P), including padding."""
    return runs * layout(config).size * np.dtype(dtype).itemsize


def _tables(config: ViTConfig, runs: int, ops: AllocationCounter) -> Views:
    """Return the tables of the encoding, which all networks of a model share."""
    of = table_layout(encoding(config.position).tables(config))
    return Views(of, ops.empty((runs, of.size)))


def _table_gradients(config: ViTConfig, runs: int, ops: AllocationCounter) -> Views:
    of = table_layout(encoding(config.position).table_gradients(config))
    return Views(of, ops.empty((runs, of.size)))


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
    for _ in range(2):  # the sum of the lanes' gradients, and the copy that the first replay is compared with
        ops.zeros(parameters.flat.shape)
        _table_gradients(config, runs, ops)
    tables = _tables(config, runs, ops)
    shared = ops.bytes
    gradients = Views(declared, ops.zeros(parameters.flat.shape))
    dtables = _table_gradients(config, runs, ops)
    workspace = Workspace(ops, parameters, parameters, gradients, lane_images, True, tables, dtables)
    network = Network(config, workspace)
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
    tables = _tables(config, runs, ops)
    draws = DeviceDraws(meta_array((runs,), np.dtype("int64")), meta_array((1,), np.dtype("int32")))
    for training in (True, False):
        dtables = _table_gradients(config, runs, ops)
        workspace = Workspace(ops, parameters, weights, gradients, batch_size, training, tables, dtables)
        network = Network(config, workspace)
        network.inputs(batch_size)
        if training:
            network.train(1.0, draws)
        else:
            network.logits()
    tiles = -(-config.tokens // (128 if ops.rounds_operands else 64))
    ops.empty((runs * batch_size * tiles * 3 * config.width,))  # scratch: partial sums of the qkv bias gradient
    return ops.bytes
