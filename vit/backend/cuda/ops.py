"""`Ops` with CUDA kernels and cuBLAS, on a GPU through CuPy or, in tests, on a CPU that runs the same kernels."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from vit.backend.cuda import attention as cuda_attention
from vit.backend.cuda.kernels import CudaKernels
from vit.backend.cuda.launch import Launch
from vit.backend.ops import Array, Ops


class Replayable(Protocol):
    """Captured work."""

    def launch(self) -> None:
        """Start the work without waiting for it."""


class Mark(Protocol):
    """Position in the sequence of work started on a device."""

    def wait(self) -> None:
        """Wait until the device has finished all work before the mark."""


class Products(Protocol):
    """Matrix products, batched over the axes before the last two."""

    def matmul(self, a: Array, b: Array, out: Array) -> None: ...


class Device(Protocol):
    """Interface of a device for `CudaOps`. All work is started in order on one stream."""

    name: str
    xp: ModuleType
    multiprocessors: int
    shared_bytes: int
    """Largest shared memory of a block, with opt-in."""
    compiling: float
    """Seconds spent on compiling kernels."""

    @property
    def launch(self) -> Launch: ...

    def load(self, kernels: set[str]) -> None:
        """Compile the kernels (name expressions) that are not loaded, in parallel."""

    def products(self, precision: str) -> Products: ...

    def capture(self, work: Callable[[], Any]) -> Replayable:
        """Record the operations that `work` starts, without running them."""

    def mark(self) -> Mark:
        """Return a mark after all work started so far."""

    def to_numpy(self, array: Array) -> Array:
        """Return a copy of the array in host memory, after all work started so far."""


class Graph:
    """Captured work, with references to the arrays that it reads and writes."""

    def __init__(self, replayable: Replayable, arrays: Sequence[Array]) -> None:
        self._replayable, self._arrays = replayable, arrays

    @property
    def bytes_named(self) -> int:
        """Bytes of all arrays passed to kernels and products, once per call: a lower bound of the memory traffic if the
        calls access whole arrays."""
        return sum(int(array.nbytes) for array in self._arrays)

    def launch(self) -> None:
        """Start the work on the same arrays, without waiting for it."""
        self._replayable.launch()


class CudaOps(Ops):
    """Operations in float32 with matrix products in `precision` "float32", "tf32" or "bf16".

    With "bf16", operands are stored in bf16, as uint16 arrays with the same bits.
    """

    def __init__(self, device: Device, precision: str) -> None:
        super().__init__(device.xp, "float32")
        self.name, self.device, self.precision = device.name, device, precision
        self.rounds_operands = precision == "bf16"
        self._products = device.products(precision)
        self._scratch = self.empty((0,))
        self._outgrown: list[Array] = []
        self._captured: list[Array] | None = None
        self._products_only = False
        self._noted: set[str] | None = None
        self.kernels = CudaKernels(self._launch, self._float_scratch, device.multiprocessors, device.shared_bytes)

    # Launching and capturing

    def load_kernels(self, work: Callable[[], Any]) -> None:
        """Compile all kernels that `work` launches, in parallel, without running them."""
        noted: set[str] = set()
        self._noted = noted
        try:
            work()
        finally:
            self._noted = None
        self.device.load(noted)

    def capture(self, work: Callable[[], Any], *, products_only: bool = False) -> Graph:
        """Capture the operations that `work` starts, without running them.

        `work` may call only kernels and products, and must have run before, so that its buffers and kernels exist.
        `products_only` omits the kernels, to measure the products.
        """
        captured: list[Array] = []
        self._captured, self._products_only = captured, products_only
        try:
            replayable = self.device.capture(work)
        finally:
            self._captured, self._products_only = None, False
        return Graph(replayable, captured)

    def _launch(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, args: Sequence[Any]
    ) -> None:
        if self._noted is not None:
            self._noted.add(kernel)
            return
        if self._products_only:
            return
        self._keep(*args)
        self.device.launch(kernel, grid, block, shared_bytes, args)

    def _keep(self, *arguments: Any) -> None:
        if self._captured is not None:
            self._captured.extend(x for x in arguments if not isinstance(x, np.generic))

    def _float_scratch(self, elements: int) -> Array:
        """Return scratch memory, shared by all kernels. Replaced arrays are kept, as captured graphs may use them."""
        if self._scratch.size < elements:
            self._outgrown.append(self._scratch)
            self._scratch = self.empty((elements,))
        return self._scratch[:elements]

    # Arrays

    def asarray(self, array: Array) -> Array:
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            array = np.ascontiguousarray(array, dtype=np.float32)  # before the transfer, which is then shorter
        return super().asarray(array)

    def to_numpy(self, array: Array) -> Array:
        return self.device.to_numpy(array)

    def empty_operand(self, shape: tuple[int, ...]) -> Array:
        return self.xp.empty(shape, dtype="uint16") if self.rounds_operands else self.empty(shape)

    def round_operand(self, x: Array, out: Array) -> None:
        self.kernels.cast(x, out)

    # Products

    def matmul(
        self, a: Array, b: Array, *, trans_a: bool = False, trans_b: bool = False, out: Array | None = None
    ) -> Array:
        a = a.swapaxes(-1, -2) if trans_a else a
        b = b.swapaxes(-1, -2) if trans_b else b
        if out is None:
            lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            out = self.empty_operand((*lead, a.shape[-2], b.shape[-1]))
        if self._noted is None:
            self._keep(a, b, out)
            self._products.matmul(a, b, out)
        return out

    # Patches and tokens

    def patchify(self, images: Array, patch: int, out: Array) -> Array:
        return self.kernels.patchify(images, patch, out)

    def add_bias(self, x: Array, bias: Array) -> Array:
        return self.kernels.add_bias(x, bias)

    def sum_tokens(self, dy: Array, out: Array) -> Array:
        return self.kernels.sum_tokens(dy, out)

    def add_table(self, x: Array, table: Array) -> None:
        self.kernels.add_table(x, table)

    def sum_images(self, dy: Array, out: Array) -> None:
        self.kernels.sum_images(dy, out)

    def mean_tokens(self, x: Array, out: Array) -> None:
        self.kernels.mean_tokens(x, out)

    def mean_tokens_backward(self, dy: Array, out: Array) -> None:
        self.kernels.mean_tokens_backward(dy, out)

    def copy_tokens(self, source: Array, out: Array) -> None:
        self.kernels.copy_tokens(source, out)

    def fill(self, out: Array, value: float) -> None:
        self.kernels.fill(out, value)

    def add(self, x: Array, y: Array) -> None:
        self.kernels.add(x, y)

    def dropout(
        self,
        x: Array,
        bias: Array | None,
        *,
        rate: float,
        path_rate: float,
        seeds: Array,
        step: Array,
        site: int,
        out: Array,
    ) -> None:
        rates = {"rate": rate, "path_rate": path_rate}
        self.kernels.dropout(x, bias, **rates, seeds=seeds, step=step, site=site, out=out)

    # Convolution of patch tokens

    def add_branch(self, stream: Array, branch: Array, bias: Array, out: Array) -> None:
        self.kernels.add_branch(stream, branch, bias, out)

    def add_depthwise_conv(self, x: Array, weight: Array, bias: Array, prefix: int, out: Array) -> None:
        self.kernels.add_depthwise_conv(x, weight, bias, prefix, out)

    def add_depthwise_conv_backward(
        self, dy: Array, x: Array, weight: Array, prefix: int, *, out: Array, dweight: Array, dbias: Array
    ) -> None:
        self.kernels.add_depthwise_conv_backward(dy, x, weight, prefix, out=out, dweight=dweight, dbias=dbias)

    # Layer normalisation

    def residual_layer_norm(
        self,
        x: Array,
        branch: Array | None,
        branch_bias: Array | None,
        weight: Array,
        bias: Array,
        *,
        stream: Array,
        out: Array,
        mean: Array,
        rstd: Array,
    ) -> None:
        self.kernels.residual_layer_norm(
            x, branch, branch_bias, weight, bias, stream=stream, out=out, mean=mean, rstd=rstd
        )

    def residual_layer_norm_backward(
        self,
        dout: Array,
        dstream: Array,
        stream: Array,
        weight: Array,
        mean: Array,
        rstd: Array,
        *,
        dweight: Array,
        dbias: Array,
        dbranch_bias: Array | None,
    ) -> None:
        sums = {"dweight": dweight, "dbias": dbias, "dbranch_bias": dbranch_bias}
        self.kernels.residual_layer_norm_backward(dout, dstream, stream, weight, mean, rstd, **sums)

    def residual_layer_norm_backward_rounded(
        self,
        dout: Array,
        dstream: Array,
        stream: Array,
        weight: Array,
        mean: Array,
        rstd: Array,
        *,
        dweight: Array,
        dbias: Array,
        dbranch_bias: Array | None,
        rounded: Array,
    ) -> None:
        sums = {"dweight": dweight, "dbias": dbias, "dbranch_bias": dbranch_bias}
        self.kernels.residual_layer_norm_backward(dout, dstream, stream, weight, mean, rstd, **sums, dbranch=rounded)

    # GELU

    def bias_gelu(self, x: Array, bias: Array, *, out: Array, derivative: bool) -> None:
        self.kernels.bias_gelu(x, bias, out=out, derivative=derivative)

    def bias_gelu_backward(self, dy: Array, derivative: Array, *, dbias: Array) -> Array:
        return self.kernels.bias_gelu_backward(dy, derivative, dbias=dbias)

    # Attention

    def fuses_attention(self, tokens: int, head_width: int) -> bool:
        return cuda_attention.fits(tokens, head_width)

    def attention(
        self,
        qkv: Array,
        bias: Array,
        scale: float,
        cos: Array | None,
        sin: Array | None,
        prefix: int,
        score_bias: Array | None,
        *,
        out: Array,
        logsumexp: Array,
    ) -> None:
        self.kernels.attention(qkv, bias, scale, cos, sin, prefix, score_bias, out=out, logsumexp=logsumexp)

    def attention_backward(
        self,
        dout: Array,
        qkv: Array,
        bias: Array,
        scale: float,
        cos: Array | None,
        sin: Array | None,
        prefix: int,
        score_bias: Array | None,
        out: Array,
        logsumexp: Array,
        *,
        dqkv: Array,
        dbias: Array,
        dscore_bias: Array | None,
    ) -> None:
        forward = (qkv, bias, scale, cos, sin, prefix, score_bias, out, logsumexp)
        self.kernels.attention_backward(dout, *forward, dqkv=dqkv, dbias=dbias, dscore_bias=dscore_bias)

    def qkv_bias(self, qkv: Array, bias: Array, scale: float) -> None:
        self.kernels.qkv_bias(qkv, bias, scale)

    def qkv_bias_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        self.kernels.qkv_bias_backward(dqkv, scale, dbias=dbias)

    def qkv_bias_rotate(self, qkv: Array, bias: Array, scale: float, cos: Array, sin: Array, prefix: int) -> None:
        self.kernels.qkv_bias_rotate(qkv, bias, scale, cos, sin, prefix)

    def qkv_bias_rotate_backward(
        self, dqkv: Array, scale: float, cos: Array, sin: Array, prefix: int, *, dbias: Array
    ) -> None:
        self.kernels.qkv_bias_rotate_backward(dqkv, scale, cos, sin, prefix, dbias=dbias)

    def rotation_gradient(self, qkv: Array, bias: Array | None, dqkv: Array, prefix: int, out: Array) -> None:
        self.kernels.rotation_gradient(qkv, bias, dqkv, prefix, out)

    def add_score_bias(self, scores: Array, bias: Array) -> None:
        self.kernels.add_score_bias(scores, bias)

    def score_bias_gradient(self, dscores: Array, out: Array) -> None:
        self.kernels.score_bias_gradient(dscores, out)

    def add_relative_scores(self, scores: Array, products: Array, prefix: int) -> None:
        self.kernels.add_relative_scores(scores, products, prefix)

    def relative_scores_gradient(self, dscores: Array, prefix: int, out: Array) -> None:
        self.kernels.relative_scores_gradient(dscores, prefix, out)

    def qkv_bias_turn(self, qkv: Array, bias: Array, scale: float, matrices: Array, prefix: int) -> None:
        self.kernels.qkv_bias_turn(qkv, bias, scale, matrices, prefix)

    def qkv_bias_turn_backward(
        self, qkv: Array, dqkv: Array, scale: float, matrices: Array, prefix: int, *, dbias: Array, dmatrices: Array
    ) -> None:
        sums = {"dbias": dbias, "dmatrices": dmatrices}
        self.kernels.qkv_bias_turn_backward(qkv, dqkv, scale, matrices, prefix, **sums)

    def add_to_queries(self, dqkv: Array, dqueries: Array) -> None:
        self.kernels.add_to_queries(dqkv, dqueries)

    def softmax(self, x: Array) -> Array:
        return self.kernels.softmax(x)

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        return self.kernels.softmax_backward(dy, y)

    # Loss

    def cross_entropy(
        self,
        logits: Array,
        targets: Array,
        scale: float,
        *,
        losses: Array,
        dlogits: Array,
        totals: Array | None = None,
    ) -> None:
        """Compute `Ops.cross_entropy`; add the sum of the losses and the number of correct predictions to `totals`.

        `totals` is (R, 2) or None. A prediction is correct if the largest logit is at the largest target.
        """
        self.kernels.cross_entropy(logits, targets, scale, losses=losses, dlogits=dlogits, totals=totals)
