"""Calls of the CUDA kernels beside what float64 `Ops` makes of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cuda_shim import MULTIPROCESSORS, Shim, device, kernels_of, scratch
from tests.support.encoding_operations import angles
from tests.support.operations import BY_HEAD, CUDA_CASES, Case, Draw, Maker
from vit.backend import Ops
from vit.backend.cuda.kernels import CudaKernels

EPSILON = {"float32": 2.0**-24, "uint16": 2.0**-8}
"""Half a unit in the last place of 1, by the dtype of kernels' arrays."""
SUMS = 24 * EPSILON["float32"]
"""Of float32 arithmetic between reading and rounding, relative to the largest result."""
REFERENCE = Ops(np, "float64")
SIZES = [(5, 17, 48), (2, 65, 192), (3, 4, 33), (2, 3, 264), (1, 2, 1000)]
"""Images, tokens, width."""
HEADS = [(5, 17, 3, 16), (2, 10, 3, 20), (2, 6, 1, 6)]
"""Images, tokens, heads, head width."""
OTHERS = {"matmul", "sum_of_squares", "adamw"}
"""Methods of `Ops` that are no kernel here, or one with other arguments."""
WIDE = {"bias", "branch_bias", "weight", "mean", "rstd", "table", "cos", "sin", "targets", "losses"}
WIDE |= {"dweight", "dbias", "dbranch_bias", "matrices", "dmatrices"}
"""Arguments that are float32 whatever the type of activations."""
WIDE_TOKENS = {"add_branch": {"stream", "out"}, "add_depthwise_conv": {"x", "out"}}
WIDE_TOKENS["add_depthwise_conv_backward"] = {"x", "dy", "out"}
"""Arguments in the type of the residual stream, which is float32, by method."""
SUMS_OF_IMAGES = {"sum_tokens", "sum_images", "score_bias_gradient", "rotation_gradient"}
"""Methods whose `out` is float32, with any distance between its runs."""
STREAM = {"x", "stream", "dstream"}
"""Arguments of the layer norms in the type of the residual stream."""
PARAMETERS = {"bias", "branch_bias", "weight", "table", "dweight", "dbias", "dbranch_bias", "cos", "sin"}
PARAMETERS |= {"matrices", "dmatrices"}


def narrow(x: np.ndarray) -> np.ndarray:
    """To bf16 in uint16, rounded to nearest even."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def widen(x: np.ndarray) -> np.ndarray:
    """Float64 of an array as kernels have it."""
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64) if x.dtype == np.uint16 else x.astype(float)


def in_type(x: np.ndarray, kind: str) -> np.ndarray:
    return narrow(x) if kind == "bf16" else x.astype(np.float32)


def assert_close(actual: np.ndarray, expected: np.ndarray, name: str, slack: float = SUMS, scale: float = 1.0) -> None:
    """Within rounding to the array's type, and `slack` relative to the largest of `expected` and `scale`."""
    error = np.abs(widen(actual) - expected)
    bound = EPSILON[str(actual.dtype)] * np.abs(expected) * 1.01 + slack * max(scale, np.abs(expected).max())
    assert (error <= bound).all(), (
        f"{name}: {np.nanmax(error / bound):.2f} times the bound, {np.isnan(error).sum()} NaN"
    )


@dataclass
class Devices:
    """The same kernels with threads and blocks in one order and in the other."""

    forwards: CudaKernels
    backwards: CudaKernels

    def __iter__(self) -> Iterator[CudaKernels]:
        return iter((self.forwards, self.backwards))

    @classmethod
    def of(cls, pytestconfig: pytest.Config, runs: Iterable[Callable[[CudaKernels], object]]) -> "Devices":
        """With what the given calls launch compiled."""
        folder = Path(pytestconfig.cache.mkdir("cuda_shim"))
        names = kernels_of(runs)
        shims = [Shim(folder, backwards=backwards) for backwards in (False, True)]
        for shim in shims:
            shim.compile(names)
        return cls(*(CudaKernels(shim, scratch, MULTIPROCESSORS) for shim in shims))


@dataclass
class Call:
    """A method, its case in float64, and the element types of its arrays."""

    method: str
    case: Case
    kinds: dict[str, str]
    apart: int = 0
    """Elements between the runs of parameters and their gradients."""

    def rounded(self) -> Case:
        """The case with arrays exact in their types."""
        arrays = {name: widen(in_type(array, self.kinds[name])) for name, array in self.case.arrays.items()}
        return Case(arrays, self.case.written, self.case.other)

    def run(self, kernels: CudaKernels) -> dict[str, np.ndarray]:
        """All arrays after the call, as the kernels have them."""
        arrays = {name: self._place(name, array) for name, array in self.case.arrays.items()}
        getattr(kernels, self.method)(**arrays, **self.case.other)
        return arrays

    def _place(self, name: str, array: np.ndarray) -> np.ndarray:
        array = in_type(array, self.kinds[name])
        summed = name == "out" and self.method in SUMS_OF_IMAGES
        if not (name in PARAMETERS or summed) or not self.apart or len(array) == 1:
            return device(array)
        size = array[0].size
        rows = np.full((len(array), size + self.apart), np.nan, dtype=array.dtype)
        rows[:, :size] = array.reshape(len(array), size)
        return device(rows)[:, :size].reshape(array.shape, copy=False)

    def expected(self) -> dict[str, np.ndarray]:
        case = self.rounded()
        return case.run(REFERENCE, self.method).written(case)


def kinds_of(method: str, case: Case, stream: str, activation: str) -> dict[str, str]:
    wide = WIDE | ({"out"} if method in SUMS_OF_IMAGES else set()) | WIDE_TOKENS.get(method, set())
    kinds = {}
    for name in case.arrays:
        if name in wide:
            kinds[name] = "float32"
        elif "layer_norm" in method and name in STREAM:
            kinds[name] = stream
        else:
            kinds[name] = activation
    return kinds


def calls_of(method: str, make: Maker, runs: int, stream: str, activation: str) -> Iterator[Call]:
    """A case in every size; parameters of the runs lie apart by what allows vector loads, and by what does not."""
    sizes: list[tuple[int, ...]] = [*(HEADS if method.startswith(BY_HEAD) else SIZES)]
    for seed, size in enumerate(sizes):
        case = make(Draw(runs, seed), *size)
        if case.other.get("branch_bias", 0) is None:  # no branch: the stream is x itself
            case.arrays["stream"] = case.arrays["x"]
        yield Call(method, case, kinds_of(method, case, stream, activation), apart=64 if seed % 2 else 3)


def fused() -> list[tuple[str, Maker]]:
    return [(method, make) for method, make in CUDA_CASES if method not in OTHERS]


def between(array: np.ndarray) -> np.ndarray:
    """The array as the second of three layers (R, 3, ...), as a block has its part of the tables of all."""
    layers = np.full((len(array), 3, *array.shape[1:]), np.nan, array.dtype)
    layers[:, 1] = array
    return device(layers)[:, 1]


@dataclass
class Attention:
    """Both passes of attention on (images, tokens, heads, head width); no rotation where `prefix` is None."""

    runs: int
    size: tuple[int, int, int, int]
    prefix: int | None
    kind: str
    own: str = ""
    """The axes that have angles of their own: "run", "head"."""
    biased: str = ""
    """Whose bias is added to the scores: that of "all" runs, or one of each "run"."""

    def __post_init__(self) -> None:
        images, tokens, heads, width = self.size
        draw = Draw(self.runs, sum(self.size))
        self.scale = width**-0.5
        self.qkv = widen(in_type(1.5 * draw(images, tokens, 3, heads, width), self.kind))
        self.bias = draw(3 * heads * width).astype(np.float32).astype(float)
        self.dout = widen(in_type(draw(images, tokens, heads * width), self.kind))
        biases = 2 * draw(heads, tokens, tokens).astype(np.float32)
        self.score_bias = {"": None, "run": biases, "all": biases[:1]}[self.biased]
        self.angles: dict[str, Any] = {"cos": None, "sin": None}
        if self.prefix is not None:
            drawn = angles(draw, tokens - self.prefix, heads, width, self.own)
            self.angles = {name: table.astype(np.float32) for name, table in drawn.items()}

    def run(self, kernels: CudaKernels) -> dict[str, np.ndarray]:
        images, tokens, heads, _ = self.size
        qkv, dout = (device(in_type(x, self.kind)) for x in (self.qkv, self.dout))
        blank = {name: device(in_type(np.full(x.shape, np.nan), self.kind)) for name, x in (("o", dout), ("dqkv", qkv))}
        logsumexp = device(np.full((self.runs, images, heads, tokens), np.nan, dtype=np.float32))
        bias, dbias = device(self.bias.astype(np.float32)), device(np.full(self.bias.shape, np.nan, dtype=np.float32))
        turn = [None if table is None else between(table) for table in self.angles.values()]
        score_bias = None if self.score_bias is None else between(self.score_bias)
        dscore_bias = None if score_bias is None else between(np.full((self.runs, *score_bias.shape[1:]), np.nan, "f4"))
        head = (qkv, bias, self.scale, *turn, self.prefix or 0, score_bias)
        kernels.attention(*head, out=blank["o"], logsumexp=logsumexp)
        gradients = {"dqkv": blank["dqkv"], "dbias": dbias, "dscore_bias": dscore_bias}
        kernels.attention_backward(dout, *head, blank["o"], logsumexp, **gradients)
        made = {"out": blank["o"], "logsumexp": logsumexp, **gradients}
        return {name: array for name, array in made.items() if array is not None}

    def expected(self) -> dict[str, np.ndarray]:
        """By `Ops`, step by step, queries, keys and values rounded as the kernels round them."""
        ops, qkv = REFERENCE, self.qkv.copy()
        images, tokens, heads, width = self.size
        turn = (self.angles["cos"], self.angles["sin"], self.prefix)
        if self.prefix is None:
            ops.qkv_bias(qkv, self.bias, self.scale)
        else:
            ops.qkv_bias_rotate(qkv, self.bias, self.scale, *turn)
        qkv = widen(in_type(qkv, self.kind))
        q, k, v = (qkv[:, :, :, i].swapaxes(2, 3) for i in range(3))
        scores = ops.matmul(q, k, trans_b=True)
        if self.score_bias is not None:
            ops.add_score_bias(scores, self.score_bias.astype(float))
        top = scores.max(axis=-1)
        logsumexp = top + np.log(np.exp(scores - top[..., None]).sum(axis=-1))
        probabilities = ops.softmax(scores)
        shape = (self.runs, images, tokens, heads * width)
        out = ops.matmul(probabilities, v).swapaxes(2, 3).reshape(shape)
        dout = self.dout.reshape(self.runs, images, tokens, heads, width).swapaxes(2, 3)
        dscores = ops.softmax_backward(ops.matmul(dout, v, trans_b=True), probabilities)
        dqkv, dbias = np.empty_like(qkv), np.empty_like(self.bias)
        dqkv[:, :, :, 0] = ops.matmul(dscores, k).swapaxes(2, 3)
        dqkv[:, :, :, 1] = ops.matmul(dscores, q, trans_a=True).swapaxes(2, 3)
        dqkv[:, :, :, 2] = ops.matmul(probabilities, dout, trans_a=True).swapaxes(2, 3)
        if self.prefix is None:
            ops.qkv_bias_backward(dqkv, self.scale, dbias=dbias)
        else:
            ops.qkv_bias_rotate_backward(dqkv, self.scale, *turn, dbias=dbias)
        summed = {} if self.score_bias is None else {"dscore_bias": dscores.sum(axis=1)}
        return {"out": out, "logsumexp": logsumexp, "dqkv": dqkv, "dbias": dbias} | summed
