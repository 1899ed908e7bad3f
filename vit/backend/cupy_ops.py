"""GPU backend: `CudaOps` on the current CUDA device, through CuPy. No other module imports cupy."""

import contextlib
import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import cupy

from vit.backend.cuda.cublas import WORKSPACE_BYTES, Cublas
from vit.backend.cuda.launch import address
from vit.backend.cuda.ops import CudaOps, Replayable
from vit.backend.cuda.sources import OPTIONS, file_of, text

SHARED_BYTES = 48 << 10
"""Shared memory (static and dynamic) per block that needs no opt-in."""
COMPILERS = 8
"""Sources compiled in parallel."""
TENSOR_CORES = 80
"""Lowest compute capability, times 10, with bf16 and TF32 products."""


class CupyOps(CudaOps):
    """Fused CUDA kernels and cuBLAS products on the current device, in float32."""

    def __init__(self, dtype: str = "float32", precision: str | None = None) -> None:
        """`precision` of products is "float32", "tf32" or "bf16"; by default bf16 if the GPU supports it."""
        if dtype != "float32":
            raise ValueError(f"dtype must be 'float32' with the cupy backend, got {dtype!r}")
        valid = device_precisions()
        if precision not in (None, *valid):
            raise ValueError(f"precision must be one of {', '.join(valid)} on this GPU, got {precision!r}")
        super().__init__(_device(cupy.cuda.Device().id), precision or valid[0])


class CupyDevice:
    """A CUDA device with one stream and the loaded kernels.

    The stream becomes the current stream of this thread, so that CuPy's own operations are ordered with the kernels. It
    is a blocking stream, so it synchronises with the null stream, which other threads use.
    """

    name = "cupy"
    xp = cupy

    def __init__(self, number: int) -> None:
        self.number = number
        attributes = cupy.cuda.Device(number).attributes
        self.multiprocessors = int(attributes["MultiProcessorCount"])
        self.shared_bytes = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self.compiling = 0.0
        self.stream = cupy.cuda.Stream()
        self.stream.use()  # not `with self.stream`, which would make the null stream current at its end
        self._functions: dict[str, Any] = {}
        self._dynamic: dict[str, int] = {}
        self._products: dict[str, CupyProducts] = {}

    def launch(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, args: Sequence[Any]
    ) -> None:
        if kernel not in self._functions:
            self.load({kernel})
        if shared_bytes > self._dynamic.get(kernel, 0):
            self._allow(kernel, shared_bytes)
        function = self._functions[kernel]
        function(tuple(grid), tuple(block), tuple(args), shared_mem=shared_bytes, stream=self.stream)

    def _allow(self, kernel: str, dynamic: int) -> None:
        """Raise a kernel's limit of dynamic shared memory if it needs an opt-in.

        Raises RuntimeError if the kernel needs more shared memory than a block of this GPU can have.
        """
        function = self._functions[kernel]
        total = dynamic + function.shared_size_bytes
        if total > self.shared_bytes:
            raise RuntimeError(
                f"{kernel} takes {total} bytes of shared memory, and a block of this GPU has {self.shared_bytes}"
            )
        if total > SHARED_BYTES:
            function.max_dynamic_shared_size_bytes = dynamic
        self._dynamic[kernel] = dynamic

    def load(self, kernels: set[str]) -> None:
        begun = time.perf_counter()
        by_file: dict[str, list[str]] = {}
        for kernel in sorted(kernels - self._functions.keys()):
            by_file.setdefault(file_of(kernel), []).append(kernel)
        with ThreadPoolExecutor(COMPILERS) as threads:
            for functions in threads.map(self._compile, by_file.items()):
                self._functions |= functions
        self.compiling += time.perf_counter() - begun

    def _compile(self, source: tuple[str, list[str]]) -> dict[str, Any]:
        """Return the functions of one file, compiled for this GPU or loaded from CuPy's cache on disk."""
        file, kernels = source
        with cupy.cuda.Device(self.number):
            module = cupy.RawModule(code=text(file), options=OPTIONS, name_expressions=kernels)
            return {kernel: module.get_function(kernel) for kernel in kernels}

    def products(self, precision: str) -> "CupyProducts":
        if precision not in self._products:
            self._products[precision] = CupyProducts(_cublas_library(), self.stream, precision)
        return self._products[precision]

    def capture(self, work: Callable[[], Any]) -> Replayable:
        self.stream.begin_capture()
        try:
            work()
        except BaseException:
            _abandon(self.stream)
            raise
        graph = self.stream.end_capture()
        graph.upload(self.stream)
        return _OnStream(graph, self.stream)

    def mark(self) -> "CupyMark":
        return CupyMark(self.stream)

    def to_numpy(self, array: Any) -> Any:
        if isinstance(array, cupy.ndarray):
            array = cupy.ascontiguousarray(array)  # otherwise asnumpy uses `with stream`: see `__init__`
        return cupy.asnumpy(array, stream=self.stream)


class CupyProducts(Cublas):
    """cuBLAS on a CuPy stream, with its workspace."""

    def __init__(self, library: ctypes.CDLL, stream: Any, precision: str) -> None:
        self.workspace = cupy.empty(WORKSPACE_BYTES, dtype="uint8")
        super().__init__(library, stream.ptr, address(self.workspace), WORKSPACE_BYTES, precision)


class CupyMark:
    """An event in a stream. `wait` blocks without busy-waiting until the device has reached it."""

    def __init__(self, stream: Any) -> None:
        self._event = cupy.cuda.Event(block=True, disable_timing=True)
        self._event.record(stream)

    def wait(self) -> None:
        self._event.synchronize()


class _OnStream:
    """A captured graph bound to the stream of the kernels."""

    def __init__(self, graph: Any, stream: Any) -> None:
        self._graph, self._stream = graph, stream

    def launch(self) -> None:
        self._graph.launch(self._stream)


@cache
def _device(number: int) -> CupyDevice:
    """Return the `CupyDevice` of a device, whose stream and loaded kernels all models of the process share."""
    return CupyDevice(number)


def _cublas_library() -> ctypes.CDLL:
    """Return the libcublas that CuPy loads, from wheels or the CUDA toolkit."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
    except ImportError:  # CuPy 13 has no pathfinder: the dynamic linker finds its libraries
        return ctypes.CDLL(f"libcublas.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}")
    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)


def _abandon(stream: Any) -> None:
    """End a failed capture, so that the stream can be used again."""
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
        stream.end_capture()


def device_precisions() -> tuple[str, ...]:
    """Return the precisions of products that the current device supports, fastest first."""
    tensor_cores = int(cupy.cuda.Device().compute_capability) >= TENSOR_CORES
    return ("bf16", "tf32", "float32") if tensor_cores else ("float32",)


def device_problem() -> str | None:
    """Return why no CUDA device can be used, in one line, or None if one can."""
    runtime = cupy.cuda.runtime
    try:
        if not runtime.driverGetVersion():
            return "there is no NVIDIA driver"
        if not runtime.getDeviceCount():
            return "the NVIDIA driver finds no GPU"
    except runtime.CUDARuntimeError as error:
        return f"CUDA finds no usable GPU ({error})"
    missing = [name for name, find in _PARTS.items() if not _works(find)]
    if not missing:
        return None
    extra = f"cuda{runtime.runtimeGetVersion() // 1000}"
    return f"CuPy finds no {', no '.join(missing)}: pip install 'vitab[{extra}]'"


def _headers() -> str:
    """Return the folder of the CUDA runtime headers, which CuPy's own kernels include; "" if it cannot be found out."""
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError:  # CuPy 13 searches for them itself
        return ""
    if found := find_nvidia_header_directory("cudart"):
        return str(found)
    raise RuntimeError("no headers")


_PARTS: dict[str, Callable[[], object]] = {
    "cuBLAS": lambda: _cublas_library(),
    "NVRTC": lambda: cupy.cuda.nvrtc.getVersion(),
    "CUDA headers": _headers,
}
"""CUDA components that CuPy's wheel does not include, each with a function that raises an error if it is missing."""


def _works(find: Callable[[], object]) -> bool:
    try:
        find()
    except (ImportError, OSError, RuntimeError):
        return False
    return True
