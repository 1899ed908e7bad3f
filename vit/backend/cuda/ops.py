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

    # Everything else is a kernel of the same name; see `BY_KERNEL`

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

    def residual_layer_norm_backward_rounded(
        self, dout: Array, dstream: Array, *saved: Array, rounded: Array, **sums: Array
    ) -> None:
        self.kernels.residual_layer_norm_backward(dout, dstream, *saved, **sums, dbranch=rounded)

    def fuses_attention(self, tokens: int, head_width: int) -> bool:
        return cuda_attention.fits(tokens, head_width)


BY_KERNEL = (
    *("patchify", "add_bias", "sum_tokens", "add_table", "sum_images", "mean_tokens", "mean_tokens_backward"),
    *("copy_tokens", "fill", "add", "add_branch", "add_depthwise_conv", "add_depthwise_conv_backward"),
    *("residual_layer_norm", "residual_layer_norm_backward", "bias_gelu", "bias_gelu_backward"),
    *("attention", "attention_backward", "qkv_bias", "qkv_bias_backward"),
    *("qkv_bias_rotate", "qkv_bias_rotate_backward", "rotation_gradient", "qkv_bias_turn", "qkv_bias_turn_backward"),
    *("add_score_bias", "score_bias_gradient", "add_relative_scores", "relative_scores_gradient", "add_to_queries"),
    *("softmax", "softmax_backward", "cross_entropy"),
)
"""Operations of `Ops` that are a method of `CudaKernels` with the same arguments. That of `cross_entropy` also adds the
sum of the losses and the number of correct predictions to `totals` (R, 2), if given."""


def _by_kernel(name: str) -> Callable[..., Any]:
    def operation(self: CudaOps, *arguments: Any, **named: Any) -> Any:
        return getattr(self.kernels, name)(*arguments, **named)

    return operation


for _name in BY_KERNEL:
    setattr(CudaOps, _name, _by_kernel(_name))
