"""A module that answers as CuPy 14 does where `vit.backend.cupy_ops` asks, on arrays apart and the shim's kernels.

What is started on a stream that captures is recorded and not run, cuBLAS's calls included. Signatures are CuPy's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.support import fake_cublas
from tests.support.cuda_shim import Shim
from tests.support.device_array import DeviceArray, on_device, unwrapped


class CUDARuntimeError(RuntimeError):
    pass


UNASKED = 48 << 10
"""Shared memory that a block may have without asking."""
OWN_SHARED = {
    f"attention_{kind}_backward<{width}, {biased}>": shared
    for biased in ("false", "true")
    for kind, sizes in (
        ("tensor", {width: 96 * width for width in (16, 32, 48, 64)}),
        ("float", {chunks: 512 + 512 * chunks for chunks in (1, 2, 3, 4)}),
    )
    for width, shared in sizes.items()
}
OWN_SHARED |= {"augment": 5136}
"""Bytes of static shared memory of the kernels that have dynamic shared memory, too; what is not here has none. That
these are the compiler's numbers is tested where there is a compiler."""


class Graph:
    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self.calls, self.uploaded, self.launches = calls, False, 0

    def upload(self, stream: "Stream | None" = None) -> None:
        self.uploaded = True

    def launch(self, stream: "Stream | None" = None) -> None:
        self.launches += 1
        for call in self.calls:
            call()


class Stream:
    made: "list[Stream]" = []  # noqa: RUF012

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr, self.capturing, self.used = 1 + len(Stream.made), False, False
        self.started = self.done = 0
        self.calls: list[Callable[[], object]] = []
        Stream.made.append(self)

    def use(self) -> "Stream":
        self.used = True
        return self

    def begin_capture(self, mode: int | None = None) -> None:
        if self.capturing:
            raise CUDARuntimeError("a capture within a capture")
        self.capturing, self.calls = True, []

    def end_capture(self) -> Graph:
        if not self.capturing:
            raise CUDARuntimeError("no capture")
        self.capturing = False
        return Graph(self.calls)

    def start(self, call: Callable[[], object]) -> None:
        self.started += 1
        if self.capturing:
            self.calls.append(call)
        else:
            call()


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.block, self.recorded = block, (None, 0)

    def record(self, stream: Stream) -> None:
        assert not stream.capturing, "it would become a part of the graph"
        self.recorded = (stream, stream.started)

    def synchronize(self) -> None:
        stream, at = self.recorded
        assert stream is not None
        stream.done = max(stream.done, at)


class Function:
    def __init__(self, shim: Shim, kernel: str, block_shared: int) -> None:
        self.shim, self.kernel, self.block_shared = shim, kernel, block_shared
        self.shared_size_bytes = OWN_SHARED.get(kernel, 0)
        self._asked: int | None = None

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return UNASKED - self.shared_size_bytes if self._asked is None else self._asked

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size + self.shared_size_bytes > self.block_shared:
            raise CUDARuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self._asked = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int, stream: Stream
    ) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDARuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        assert all(isinstance(part, tuple) for part in (grid, block, args)), "as Cython refuses"
        stream.start(partial(self.shim, self.kernel, grid, block, shared_mem, unwrapped(list(args))))


class Library:
    """The fake libcublas, whose products wait while their stream captures."""

    def __init__(self) -> None:
        self.loaded = fake_cublas.library()
        self.functions: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.loaded, name)
        return self.functions.setdefault(name, Gemm(function)) if "Gemm" in name else function


class Gemm:
    argtypes: list[Any]
    restype: Any

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> int:
        stream = next((stream for stream in Stream.made if stream.capturing), None)
        self.function.argtypes, self.function.restype = self.argtypes, self.restype
        if stream is None:
            return int(self.function(*arguments))
        stream.start(partial(self.function, *arguments))
        return 0


class FakeCupy(ModuleType):
    """`cupy`: NumPy's functions, and what of CUDA there is to see."""

    def __init__(self, shim: Shim, capability: str = "90", block_shared: int = 227 << 10) -> None:
        super().__init__("cupy")
        self.compiled: list[tuple[str, ...]] = []
        self.functions: dict[str, Function] = {}
        self.ndarray = DeviceArray

        class Device:
            id = 0
            compute_capability = capability
            attributes = {"MultiProcessorCount": 5, "MaxSharedMemoryPerBlockOptin": block_shared}  # noqa: RUF012

            def __init__(self, number: int = 0) -> None:
                assert number == 0

            def __enter__(self) -> None: ...

            def __exit__(self, *_: object) -> None: ...

        class RawModule:
            def __init__(module, *, code: str, options: tuple[str, ...], name_expressions: Sequence[str]) -> None:
                assert "#include" not in code
                module.names = tuple(name_expressions)
                self.compiled.append(module.names)
                shim.compile(module.names)

            def get_function(module, name: str) -> Function:
                assert name in module.names
                return self.functions.setdefault(name, Function(shim, name, block_shared))

        self.RawModule = RawModule
        self.cuda = ModuleType("cupy.cuda")
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=lambda: 1,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
        )
        nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
        self.cuda.__dict__.update(Device=Device, Stream=Stream, Event=Event, runtime=runtime, nvrtc=nvrtc)

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        return on_device(value, host=name in ("asarray", "array")) if callable(value) else value

    def asnumpy(self, a: DeviceArray | np.ndarray, stream: Stream | None = None) -> np.ndarray:
        if isinstance(a, np.ndarray):
            return a
        assert stream is None or not stream.capturing, "nothing is read during a capture"
        if stream is not None:
            # of what is not contiguous CuPy makes a copy in a `with stream`, whose end makes another stream current
            stream.used = stream.used and a.flags.c_contiguous
            stream.done = stream.started
        return np.array(a.held)
