"""Matrix products by cuBLAS: strided batches of views, without copies, usable during graph capture.

CuPy's wrapper sets the stream in each call, which fails during capture; `cupy.matmul` copies transposed views and does
not support batches of bf16. So this module calls the library that CuPy loads through ctypes, with its own handle and
workspace. It does not import CuPy, so tests can replace the library on a CPU.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from vit.backend.cuda.launch import address, type_name
from vit.backend.ops import Array

WORKSPACE_BYTES = 32 << 20
"""Size that cuBLAS recommends for compute capability 9.0; for others, it recommends 4 MiB."""
PRECISIONS = ("float32", "tf32", "bf16")
"""Precisions of products: the type of operands and multiplications. Sums are in float32."""

# library_types.h and cublas_api.h of CUDA 11 to 13
_DATA_TYPE = {"float": 0, "bf16": 14}
_COMPUTE_TYPE = {"float32": 68, "tf32": 77, "bf16": 68}
_DEFAULT_ALGORITHM = -1
_SUM_IN_FLOAT32 = 16
"""cublasMath_t: disallow reductions in bf16. TF32 is selected by the compute type of each product."""
_NO, _TRANSPOSED = 0, 1


class CublasError(RuntimeError):
    """Failed cuBLAS call."""


@dataclass(frozen=True)
class Matrices:
    """A strided batch of column-major matrices: address, leading dimension, and stride between matrices."""

    address: int
    leading: int
    stride: int
    transposed: bool


@dataclass(frozen=True)
class Gemm:
    """`batch` products C = op(A) op(B) of column-major matrices: C (m, n), op(A) (m, k), op(B) (k, n)."""

    m: int
    n: int
    k: int
    batch: int
    a: Matrices
    b: Matrices
    c: Matrices


def plan(a: Array, b: Array, out: Array) -> Iterator[Gemm]:
    """Yield the cuBLAS calls for out (..., M, N) = a (..., M, K) @ b (..., K, N), without copying views.

    Axes before the last two must have the same size in all three arrays, or size 1 in `a` or `b`. Axes that are
    contiguous in memory are merged. The largest axis is the batch; each index of the others needs a separate call.
    Raises ValueError if shapes do not fit or cuBLAS cannot read or write a view.
    """
    (rows, columns), inner = out.shape[-2:], a.shape[-1]
    lead = out.shape[:-2]
    if a.shape[-2:] != (rows, inner) or b.shape[-2:] != (inner, columns):
        raise ValueError(
            f"shapes of matmul must match, got {tuple(a.shape)}, {tuple(b.shape)} and out {tuple(out.shape)}"
        )
    arrays = (b, a, out)  # row-major out = a b is column-major out^T = b^T a^T
    strides = [_lead_strides(x, lead) for x in arrays]
    axes = _merged([(size, *(s[i] for s in strides)) for i, size in enumerate(lead)])
    (batch, *steps), *loops = sorted(axes, reverse=True) or [(1, 0, 0, 0)]
    forms = [_leading(x) for x in arrays]
    if forms[2][0]:
        raise ValueError("matmul: the rows of an out array must be contiguous")
    for index in product(*(range(size) for size, *_ in loops)):
        offsets = [sum(i * axis[1 + j] for i, axis in zip(index, loops, strict=True)) for j in range(3)]
        first, second, third = (
            Matrices(address(x) + offset * x.dtype.itemsize, leading, step, transposed)
            for x, offset, (transposed, leading), step in zip(arrays, offsets, forms, steps, strict=True)
        )
        yield Gemm(columns, rows, inner, batch, first, second, third)


def _lead_strides(x: Array, lead: tuple[int, ...]) -> list[int]:
    """Return the strides of the axes `lead` in elements; 0 for an axis of size 1, which is broadcast."""
    own = x.shape[:-2]
    if len(own) != len(lead) or any(size not in (1, full) for size, full in zip(own, lead, strict=True)):
        raise ValueError(f"matmul: axes before the last two must be {tuple(lead)}, got the shape {tuple(x.shape)}")
    strides = (stride // x.dtype.itemsize for stride in x.strides[:-2])
    return [0 if size == 1 else stride for size, stride in zip(own, strides, strict=True)]


def _merged(axes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return axes (size, strides...) without those of size 1, and with adjacent axes merged where possible."""
    merged: list[tuple[int, ...]] = []
    for size, *strides in axes:
        if size == 1:
            continue
        if merged and all(outer == size * inner for outer, inner in zip(merged[-1][1:], strides, strict=True)):
            merged[-1] = (merged[-1][0] * size, *strides)
        else:
            merged.append((size, *strides))
    return merged


def _leading(x: Array) -> tuple[bool, int]:
    """Return whether cuBLAS must transpose the matrices of `x`, and their leading dimension in elements."""
    height, width = x.shape[-2:]
    rows, columns = (stride // x.dtype.itemsize for stride in x.strides[-2:])
    rows, columns = width if height == 1 else rows, height if width == 1 else columns  # strides of size 1 are arbitrary
    if (columns == 1 or width == 1) and rows >= width:
        return False, rows
    if (rows == 1 or height == 1) and columns >= height:
        return True, columns
    raise ValueError("matmul: one of the last two axes must be contiguous, and no row or column repeated")


class Cublas:
    """A cuBLAS handle bound to one stream and one workspace."""

    def __init__(self, library: Any, stream: int, workspace: int, workspace_bytes: int, precision: str) -> None:
        """`library` is a ctypes.CDLL of libcublas; the workspace is device memory that outlives this object."""
        self._library = library
        self._compute = _COMPUTE_TYPE[precision]
        self._one, self._zero = ctypes.c_float(1), ctypes.c_float(0)
        declare(library)
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, stream)  # first: it resets the workspace
        self._call("cublasSetWorkspace_v2", self._handle, workspace, workspace_bytes)
        self._call("cublasSetMathMode", self._handle, _SUM_IN_FLOAT32)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Compute out = a @ b. `a` and `b` are both float32, or both bf16 with `out` bf16 or float32."""
        operand, result = type_name(a), type_name(out)
        if type_name(b) != operand or (operand, result) == ("float", "bf16"):
            raise TypeError(
                f"operands of one type are required for matmul, got {a.dtype}, {b.dtype} and out {out.dtype}"
            )
        for gemm in plan(a, b, out):
            self._gemm(gemm, _DATA_TYPE[operand], _DATA_TYPE[result])

    def close(self) -> None:
        """Destroy the handle. No captured graph or running product may use it."""
        if self._handle:
            self._call("cublasDestroy_v2", self._handle)
            self._handle = ctypes.c_void_p()

    def _gemm(self, gemm: Gemm, operand: int, result: int) -> None:
        a, b, c = gemm.a, gemm.b, gemm.c
        head = (self._handle, _operation(a), _operation(b), gemm.m, gemm.n, gemm.k, ctypes.byref(self._one))
        tail = (self._compute, _DEFAULT_ALGORITHM)
        zero = ctypes.byref(self._zero)
        if gemm.batch == 1:  # this function may split a long sum into parallel parts
            operands = (a.address, operand, a.leading, b.address, operand, b.leading)
            self._call("cublasGemmEx", *head, *operands, zero, c.address, result, c.leading, *tail)
        else:
            first = (a.address, operand, a.leading, a.stride)
            second = (b.address, operand, b.leading, b.stride)
            third = (c.address, result, c.leading, c.stride, gemm.batch)
            self._call("cublasGemmStridedBatchedEx", *head, *first, *second, zero, *third, *tail)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = self._library.cublasGetStatusString(status).decode()
            raise CublasError(f"cuBLAS: {name} failed with status {status}, {text}")


def declare(library: Any) -> None:
    """Declare the C signatures, so that ctypes does not truncate addresses to 32 bits."""
    pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    head = [pointer, whole, whole, whole, whole, whole, pointer]
    matrix, batched = [pointer, whole, whole], [pointer, whole, whole, long]
    signatures = {
        "cublasCreate_v2": [pointer],
        "cublasDestroy_v2": [pointer],
        "cublasSetStream_v2": [pointer, pointer],
        "cublasSetWorkspace_v2": [pointer, pointer, ctypes.c_size_t],
        "cublasSetMathMode": [pointer, whole],
        "cublasGemmEx": [*head, *matrix, *matrix, pointer, *matrix, whole, whole],
        "cublasGemmStridedBatchedEx": [*head, *batched, *batched, pointer, *batched, whole, whole, whole],
    }
    for name, kinds in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = kinds, whole
    library.cublasGetStatusString.argtypes = [whole]
    library.cublasGetStatusString.restype = ctypes.c_char_p


def _operation(matrices: Matrices) -> int:
    return _TRANSPOSED if matrices.transposed else _NO
