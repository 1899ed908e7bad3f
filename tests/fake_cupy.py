"""A module that answers as CuPy 14 does where `vit.backend.cupy_ops` asks, on NumPy arrays and the shim's kernels.

What is started on a stream that captures is recorded and not run, cuBLAS's calls included. Signatures are CuPy's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_cublas
import numpy as np
from cuda_shim import Shim


class CUDARuntimeError(RuntimeError):
    pass


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
        if self.capturing:
            self.calls.append(call)
        else:
            call()


class Function:
    def __init__(self, shim: Shim, kernel: str) -> None:
        self.shim, self.kernel = shim, kernel
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int, stream: Stream
    ) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "as the driver refuses"
        assert all(isinstance(part, tuple) for part in (grid, block, args)), "as Cython refuses"
        stream.start(partial(self.shim, self.kernel, grid, block, shared_mem, list(args)))


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

    def __init__(self, shim: Shim, capability: str = "90") -> None:
        super().__init__("cupy")
        self.compiled: list[tuple[str, ...]] = []

        class Device:
            id = 0
            compute_capability = capability
            attributes = {"MultiProcessorCount": 5}  # noqa: RUF012

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
                return Function(shim, name)

        self.RawModule = RawModule
        self.cuda = ModuleType("cupy.cuda")
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: 1, driverGetVersion=lambda: 13000
        )
        self.cuda.__dict__.update(Device=Device, Stream=Stream, runtime=runtime)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def asnumpy(self, a: Any, stream: Stream | None = None) -> np.ndarray:
        assert stream is None or not stream.capturing, "nothing is read during a capture"
        return np.array(a)
