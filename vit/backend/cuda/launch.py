"""Launching of CUDA kernels, independent of the device: a GPU through CuPy, or the CPU in tests.

An array is any object with `shape`, `dtype`, `strides` and the `data` attribute of NumPy or CuPy. bf16 arrays have
dtype bfloat16, or uint16 with the same bits.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from vit.backend.ops import Array

NULL = np.uintp(0)
"""Null pointer argument."""
BLOCK = 256
"""Default number of threads per block, as in common.cuh."""


class Launch(Protocol):
    """Function that starts a kernel on the current stream without waiting for it."""

    def __call__(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, args: Sequence[Any]
    ) -> None:
        """Start a kernel, given by a name expression such as "bias_gelu<bf16, 8>" (see `vit.backend.cuda.sources`).

        `grid` and `block` have three entries. `shared_bytes` is the dynamic shared memory; the function's limit must be
        raised first if static and dynamic shared memory exceed 48 KiB. `args` are arrays, passed by address, and NumPy
        scalars of the exact C type, passed by value (`NULL` for a null pointer), as `cupy.RawKernel` takes them.
        """


class Launcher:
    """Base class of all groups of kernels: launch function, scratch memory, and division of work into blocks."""

    def __init__(
        self,
        launch: Launch,
        scratch: Callable[[int], Array],
        multiprocessors: int = 132,
        shared_bytes: int = 227 << 10,
    ) -> None:
        """
        Args:
            launch: Function that starts a kernel.
            scratch: Function that returns device memory for at least a given number of float32 elements, 16-byte
                aligned and valid until its next call. It must stay allocated as long as a captured graph uses it.
            multiprocessors: Number of multiprocessors. It determines the parts of sums, and so their rounding.
            shared_bytes: Largest shared memory of a block, with opt-in.
        """
        self.launch, self.scratch = launch, scratch
        self.multiprocessors, self.shared_bytes = multiprocessors, shared_bytes

    def over_elements(self, kernel: str, packs: int, runs: int, args: Sequence[Any]) -> None:
        """Launch one thread per pack of elements of each run. Raise ValueError for 2^31 packs or more per run."""
        if packs >= 2**31:
            raise ValueError(f"{kernel}: packs of elements must be fewer than 2^31, got {packs}; use a smaller batch")
        self.launch(kernel, (-(-packs // BLOCK), runs, 1), (BLOCK, 1, 1), 0, args)

    def over_columns(self, kernel: str, v: int, parts: int, columns: int, runs: int, args: Sequence[Any]) -> None:
        """Launch the grid of columns.cuh: (parts of the rows, tiles of columns, runs)."""
        tile = (32 if v == 1 else 8) * v
        self.launch(kernel, (parts, -(-columns // tile), runs), (BLOCK, 1, 1), 0, args)

    def parts(self, rows: int, columns: int, runs: int) -> int:
        """Return the number of parts of the rows, chosen to give about two blocks per multiprocessor."""
        tiles = -(-columns // 64) * runs
        return max(1, min(-(-rows // 32), -(-2 * self.multiprocessors // tiles)))

    def sum_parts(self, parts: Array, count: int, columns: int, *outs: Array | None) -> None:
        """Sum `parts` (R, count, outs, columns) over count into up to three arrays `outs` (R, columns)."""
        runs = next(len(out) for out in outs if out is not None)
        given = [*outs, None, None][:3]
        pointers = [argument for out in given for argument in (optional(out), run_stride(out))]
        args = (parts, i32(count), i32(columns), *pointers)
        self.launch("sum_parts", (-(-columns // 64), len(outs), runs), (1024, 1, 1), 0, args)


def type_name(array: Array) -> str:
    """Return the C++ name of an array's element type. Raise TypeError if no kernel supports it."""
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
    """Raise ValueError if an array is not C-contiguous."""
    _require_contiguous(0, arrays)


def require_contiguous_runs(**arrays: Array | None) -> None:
    """Raise ValueError if an array is not C-contiguous within each run. The stride between runs is arbitrary."""
    _require_contiguous(1, arrays)


def require_contiguous_tables(**arrays: Array | None) -> None:
    """Raise ValueError if an array (R, H, ...) is not C-contiguous within each run and head."""
    _require_contiguous(2, arrays)


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
    """Raise ValueError if an array has another shape."""
    for name, array in arrays.items():
        if array is not None and tuple(array.shape) != tuple(shape):
            raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(array.shape)}")


def require_type(name: str, **arrays: Array | None) -> None:
    """Raise TypeError if an array has another element type."""
    for argument, array in arrays.items():
        if array is not None and type_name(array) != name:
            raise TypeError(f"{argument} must have the type {name}, got {array.dtype}")


def run_stride(array: Array | None) -> np.int64:
    """Return the stride between runs in elements, 0 for an array that all runs share."""
    return stride(array, 0)


def stride(array: Array | None, axis: int) -> np.int64:
    """Return the stride of an axis in elements, 0 if the axis has length 1."""
    if array is None or array.shape[axis] == 1:
        return np.int64(0)
    return np.int64(array.strides[axis] // array.dtype.itemsize)


def vector(width: int, *arrays: Array | None) -> int:
    """Return the elements per vector load: 16 bytes of the narrowest type if all rows are aligned to it, else 1."""
    given = [array for array in arrays if array is not None]
    elements = 16 // min(array.dtype.itemsize for array in given)
    return elements if width % elements == 0 and all(aligned(array) for array in given) else 1


def aligned(array: Array) -> bool:
    """Return whether every run begins at a multiple of 16 bytes."""
    return address(array) % 16 == 0 and (array.shape[0] == 1 or array.strides[0] % 16 == 0)


def optional(array: Array | None) -> Any:
    return NULL if array is None else array


def expression(kernel: str, *parameters: str | int | bool) -> str:
    """Return the name expression of a kernel with template arguments, such as "bias_gelu<bf16, 8, true>"."""
    names = [str(p).lower() if isinstance(p, bool) else str(p) for p in parameters]
    return f"{kernel}<{', '.join(names)}>"


def i32(value: int) -> np.int32:
    return np.int32(value)


def u32(value: int) -> np.uint32:
    return np.uint32(value)


def f32(value: float) -> np.float32:
    return np.float32(value)
