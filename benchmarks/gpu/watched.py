"""A device that says what it does before it does it, so that a launch which never ends has a name."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu.progress import ON_HOST, Progress
from vit.backend.cuda.launch import Launch
from vit.backend.cuda.ops import Device, Replayable
from vit.backend.ops import Array

COMPILING = 60.0
"""Seconds that the compilation of kernels may take."""


class WatchedDevice:
    """A device of `CudaOps` whose launches, products and graphs are noted."""

    def __init__(self, device: Device, progress: Progress, *, waits: bool) -> None:
        """With `waits`, every launch is waited for, so that the last note is about the launch that does not end."""
        self._device, self._progress, self._waits = device, progress, waits
        self._capturing: list[str] | None = None
        self._last = "nothing"
        self.launched: set[str] = set()
        """Name expressions of all kernels launched or captured."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def launch(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, args: Sequence[Any]
    ) -> None:
        self.launched.add(kernel)
        about = f"kernel {kernel}, grid {tuple(grid)}, block {tuple(block)}, {shared_bytes} bytes of shared memory"
        launch: Launch = self._device.launch
        self._start(about, kernel, lambda: launch(kernel, grid, block, shared_bytes, args))

    def load(self, kernels: set[str]) -> None:
        if kernels:
            self._progress.note(f"compiling {', '.join(sorted(kernels))}", COMPILING)
        self._device.load(kernels)

    def products(self, precision: str) -> "_Products":
        return _Products(self._device.products(precision), self._start)

    def capture(self, work: Callable[[], Any]) -> Replayable:
        self._progress.note("capturing a graph")
        self._capturing = []
        try:
            return _Graph(self._device.capture(work), self._capturing, self._start)
        finally:
            self._capturing = None

    def to_numpy(self, array: Array) -> Array:
        self._progress.note(f"reading results; last started: {self._last}")
        host = self._device.to_numpy(array)
        self._progress.note(f"after {self._last}", ON_HOST)
        return host

    def _start(self, about: str, name: str, start: Callable[[], object]) -> None:
        self._last = about
        self._progress.note(about)
        start()
        if self._capturing is not None:
            self._capturing.append(name)
        elif self._waits:
            self._device.mark().wait()
        self._progress.note(f"after {about}", ON_HOST)


Start = Callable[[str, str, Callable[[], object]], None]


class _Products:
    def __init__(self, products: Any, start: Start) -> None:
        self._products, self._start = products, start

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        about = f"cuBLAS product {tuple(a.shape)} @ {tuple(b.shape)}, {a.dtype} to {out.dtype}"
        self._start(about, "cuBLAS", lambda: self._products.matmul(a, b, out))


class _Graph:
    def __init__(self, graph: Replayable, names: Sequence[str], start: Start) -> None:
        self._graph, self._start = graph, start
        self._about = f"graph of {len(names)} launches: {', '.join(dict.fromkeys(names))}"

    def launch(self) -> None:
        self._start(self._about, "graph", self._graph.launch)
