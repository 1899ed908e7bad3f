"""How a CUDA kernel is launched, by whomever: on a GPU through CuPy, in the tests on the CPU.

Nothing here imports CuPy. An array is anything with `shape`, `dtype`, `strides` and NumPy's or CuPy's way to its
address. bf16 arrays have the dtype bfloat16 or, where there is none, uint16 of the same bits.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from vit.backend.ops import Array

NULL = np.uintp(0)
"""A pointer argument that is not given."""
BLOCK = 256
"""Threads of a block where a kernel does not say otherwise, as in common.cuh."""


class Launch(Protocol):
    """Starts a kernel on the current stream and returns at once."""

    def __call__(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, args: Sequence[Any]
    ) -> None:
        """`kernel` is a name expression such as "bias_gelu<bf16, 8>"; `vit.backend.cuda_sources` knows its file.

        `grid` and `block` have three entries, `shared_bytes` is dynamic shared memory (the function's limit has to
        be raised first where it and the kernel's own are more than 48 KiB), `args` are arrays (their address is
        passed) and NumPy scalars of the exact C type (passed by value; `NULL` for a null pointer). These are what
        `cupy.RawKernel` takes.
        """


class Launcher:
    """What every group of kernels shares: the way to launch, scratch memory, and how work is cut."""

    def __init__(
        self,
        launch: Launch,
        scratch: Callable[[int], Array],
        multiprocessors: int = 132,
        shared_bytes: int = 227 << 10,
    ) -> None:
        """
        Args:
            launch: Starts a kernel.
            scratch: Given a number of float32 elements, returns device memory of at least so many, 16-byte aligned,
                that lasts until the next call on the same stream. In a captured graph it must be memory that is kept.
            multiprocessors: Of the device; decides into how many parts sums are cut, and so their rounding.
            shared_bytes: Shared memory that a block of the device may have where it asks.
        """
        self.launch, self.scratch = launch, scratch
        self.multiprocessors, self.shared_bytes = multiprocessors, shared_bytes

    def over_elements(self, kernel: str, packs: int, runs: int, args: Sequence[Any]) -> None:
        """One thread for each of `packs` packs of each run. Raises ValueError for more than 32 bits count."""
        if packs >= 2**31:
            raise ValueError(f"{kernel}: packs of elements must be fewer than 2^31, got {packs}; use a smaller batch")
        self.launch(kernel, (-(-packs // BLOCK), runs, 1), (BLOCK, 1, 1), 0, args)

    def over_columns(self, kernel: str, v: int, parts: int, columns: int, runs: int, args: Sequence[Any]) -> None:
        """Blocks of columns.cuh: `parts` of the rows, tiles of columns, runs."""
        tile = (32 if v == 1 else 8) * v
        self.launch(kernel, (parts, -(-columns // tile), runs), (BLOCK, 1, 1), 0, args)

    def parts(self, rows: int, columns: int, runs: int) -> int:
        """Into how many parts the rows of a run are cut so that tiles of 64 columns fill the device twice."""
        tiles = -(-columns // 64) * runs
        return max(1, min(-(-rows // 32), -(-2 * self.multiprocessors // tiles)))

    def sum_parts(self, parts: Array, count: int, columns: int, *outs: Array | None) -> None:
        """parts (R, count, outs, columns) summed over count into each of up to three outs (R, columns)."""
        runs = next(len(out) for out in outs if out is not None)
        given = [*outs, None, None][:3]
        pointers = [argument for out in given for argument in (optional(out), run_stride(out))]
        args = (parts, i32(count), i32(columns), *pointers)
        self.launch("sum_parts", (-(-columns // 64), len(outs), runs), (1024, 1, 1), 0, args)


def type_name(array: Array) -> str:
    """The C++ name of an array's element type. Raises TypeError for one that no kernel has."""
    name = str(array.dtype)
    if name == "float32":
        return "float"
    if name in ("bfloat16", "uint16"):
        return "bf16"
    raise TypeError(f"dtype must be float32 or bfloat16 with CUDA kernels, got {name}")


def address(array: Array) -> int:
    data = array.data
    return int(data.ptr) if hasattr(data, "ptr") else int(array.ctypes.data)


def require_contiguous(**arrays: Array | None) -> None:
    """Raises ValueError for an array that is not C-contiguous."""
    _require_contiguous(0, arrays)


def require_contiguous_runs(**arrays: Array | None) -> None:
    """Raises ValueError for an array that is not C-contiguous within each run: any stride between runs."""
    _require_contiguous(1, arrays)


def _require_contiguous(first_axis: int, arrays: dict[str, Array | None]) -> None:
    for name, array in arrays.items():
        if array is None:
            continue
        expected = array.dtype.itemsize
        axes = zip(array.shape[first_axis:], array.strides[first_axis:], strict=True)
        for length, stride in reversed([*axes]):
            if length != 1 and stride != expected:
                raise ValueError(f"{name} must be contiguous, got strides {array.strides} for shape {array.shape}")
            expected *= length


def require_shape(shape: Sequence[int], **arrays: Array | None) -> None:
    """Raises ValueError for an array of another shape."""
    for name, array in arrays.items():
        if array is not None and tuple(array.shape) != tuple(shape):
            raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(array.shape)}")


def require_type(name: str, **arrays: Array | None) -> None:
    """Raises TypeError for an array of another element type."""
    for argument, array in arrays.items():
        if array is not None and type_name(array) != name:
            raise TypeError(f"{argument} must have the type {name}, got {array.dtype}")


def run_stride(array: Array | None) -> np.int64:
    """Elements from one run to the next, 0 for an array that all runs share."""
    if array is None or array.shape[0] == 1:
        return np.int64(0)
    return np.int64(array.strides[0] // array.dtype.itemsize)


def vector(width: int, *arrays: Array | None) -> int:
    """Elements that a thread moves at a time: 16 bytes of the narrowest type where all rows allow it, else 1."""
    given = [array for array in arrays if array is not None]
    elements = 16 // min(array.dtype.itemsize for array in given)
    return elements if width % elements == 0 and all(aligned(array) for array in given) else 1


def aligned(array: Array) -> bool:
    """Whether every run begins at a multiple of 16 bytes."""
    return address(array) % 16 == 0 and (array.shape[0] == 1 or array.strides[0] % 16 == 0)


def optional(array: Array | None) -> Any:
    return NULL if array is None else array


def expression(kernel: str, *parameters: str | int | bool) -> str:
    """A kernel with its template's parameters, such as "bias_gelu<bf16, 8, true>"."""
    names = [str(p).lower() if isinstance(p, bool) else str(p) for p in parameters]
    return f"{kernel}<{', '.join(names)}>"


def i32(value: int) -> np.int32:
    return np.int32(value)


def u32(value: int) -> np.uint32:
    return np.uint32(value)


def f32(value: float) -> np.float32:
    return np.float32(value)
