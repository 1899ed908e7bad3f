"""A device for `CudaOps` on the CPU: NumPy arrays, the fake cuBLAS, and graphs that record what is started.

Kernels are either the CUDA sources themselves, through a `launch`, or `ReferenceKernels`: `Ops` behind the kernels'
interface, fast enough to train with. While a graph is captured nothing is computed, so whatever a step does beside
kernels and products is missing from its replays, and a test sees it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from tests.support.draws import dropped, loaded
from tests.support.fake_cublas import bf16, library, widened
from vit.backend.cuda.cublas import WORKSPACE_BYTES, Cublas
from vit.backend.cuda.ops import CudaOps
from vit.backend.ops import Ops


class Recorder:
    """Runs calls, or records them while a graph is captured."""

    def __init__(self) -> None:
        self.recorded: list[Callable[[], Any]] | None = None
        self.captures = 0
        self.replays = 0
        self.seen = 0
        """Replays that the host knows to be done."""

    def __call__(self, call: Callable[[], Any]) -> Any:
        if self.recorded is None:
            return call()
        self.recorded.append(call)
        return None

    def capture(self, work: Callable[[], Any]) -> "Replay":
        assert self.recorded is None, "a capture within a capture"
        self.recorded, self.captures = [], self.captures + 1
        try:
            work()
            return Replay(self, self.recorded)
        finally:
            self.recorded = None


class Replay:
    def __init__(self, recorder: Recorder, calls: Sequence[Callable[[], Any]]) -> None:
        self.recorder, self.calls = recorder, calls

    def launch(self) -> None:
        self.recorder.replays += 1
        for call in self.calls:
            call()


class Mark:
    """A place in the order of replays."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.at = recorder, recorder.replays

    def wait(self) -> None:
        self.recorder.seen = max(self.recorder.seen, self.at)


class CpuDevice:
    name = "cuda on a cpu"
    xp: ModuleType = np
    shared_bytes = 99 << 10
    """As the smallest of chips with bf16."""
    compiling = 0.0

    def __init__(self, launch: Callable[..., None] | None = None, multiprocessors: int = 3) -> None:
        self.recorder, self._launch, self.multiprocessors = Recorder(), launch, multiprocessors

    def launch(self, kernel: str, grid: Any, block: Any, shared_bytes: int, args: Sequence[Any]) -> None:
        assert self._launch is not None, "this device has no kernels of its own"
        self.recorder(partial(self._launch, kernel, grid, block, shared_bytes, list(args)))

    def load(self, kernels: set[str]) -> None:
        if self._launch is not None:
            self._launch.compile(kernels)  # type: ignore[attr-defined]

    def products(self, precision: str) -> "RecordedProducts":
        return RecordedProducts(self.recorder, precision)

    def capture(self, work: Callable[[], Any]) -> Replay:
        return self.recorder.capture(work)

    def mark(self) -> Mark:
        return Mark(self.recorder)

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        self.mark().wait()
        return np.array(array)


class RecordedProducts:
    _workspace = np.zeros(1, dtype=np.uint8)

    def __init__(self, recorder: Recorder, precision: str) -> None:
        self.recorder = recorder
        self.cublas = Cublas(library(), 1, self._workspace.ctypes.data, WORKSPACE_BYTES, precision)

    def matmul(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        self.recorder(partial(self.cublas.matmul, a, b, out))


def cuda_ops(precision: str = "float32", launch: Callable[..., None] | None = None) -> CudaOps:
    """The operations of a GPU on the CPU: by the kernels of `launch`, or by `ReferenceKernels`."""
    device = CpuDevice(launch)
    ops = CudaOps(device, precision)
    if launch is None:
        ops.kernels = ReferenceKernels(device.recorder, ops)  # type: ignore[assignment]
    return ops


class ReferenceKernels:
    """The methods of `CudaKernels` by those of `Ops`, in float64 within a call and rounded as the arrays are."""

    def __init__(self, recorder: Recorder, owner: CudaOps) -> None:
        self.recorder, self.owner, self.ops = recorder, owner, Ops(np, "float64")
        self.image_bytes = owner.kernels.image_bytes

    def __getattr__(self, name: str) -> Callable[..., Any]:
        own = globals().get(f"_{name}")

        def call(*arguments: Any, **named: Any) -> Any:
            if self.owner._noted is not None:
                return arguments[0] if arguments else None
            compute = partial(own, self.ops) if own else partial(_by_ops, getattr(self.ops, name))
            self.recorder(partial(compute, *arguments, **named))
            return arguments[0] if arguments else None

        return call


def _by_ops(method: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """The method on float64 copies, whose changes are then rounded into the arrays."""
    arrays = [x for x in (*arguments, *named.values()) if isinstance(x, np.ndarray)]
    with np.errstate(invalid="ignore"):  # what is only written may hold anything
        copies = {id(x): widened(x).astype(np.float64) for x in arrays}
    before = {key: copy.copy() for key, copy in copies.items()}

    def given(x: Any) -> Any:
        return copies[id(x)] if isinstance(x, np.ndarray) else x

    method(*map(given, arguments), **{name: given(value) for name, value in named.items()})
    for x in arrays:
        if not np.array_equal(copies[id(x)], before[id(x)], equal_nan=True):
            _store(x, copies[id(x)])


def _store(x: np.ndarray, values: np.ndarray) -> None:
    x[...] = bf16(values).reshape(x.shape) if x.dtype == np.uint16 else values


def _cast(ops: Ops, x: np.ndarray, out: np.ndarray) -> None:
    _store(out, widened(x))


def _copy_tokens(ops: Ops, source: np.ndarray, out: np.ndarray) -> None:
    _store(out, np.broadcast_to(widened(source), out.shape))


def _residual_layer_norm(ops: Ops, x: Any, branch: Any, *rest: Any, stream: np.ndarray, **named: Any) -> None:
    _by_ops(ops.residual_layer_norm, x, branch, *rest, stream=x if branch is None else stream, **named)


def _residual_layer_norm_backward(ops: Ops, *arguments: Any, dbranch: np.ndarray | None = None, **named: Any) -> None:
    _by_ops(ops.residual_layer_norm_backward, *arguments, **named)
    if dbranch is not None:
        _store(dbranch, arguments[1])


def _cross_entropy(
    ops: Ops, logits: np.ndarray, targets: np.ndarray, scale: float, *, totals: np.ndarray | None, **out: np.ndarray
) -> None:
    _by_ops(ops.cross_entropy, logits, targets, scale, **out)
    if totals is not None:
        totals[:, 0] += out["losses"].sum(axis=1)
        totals[:, 1] += (logits.argmax(axis=-1) == targets.argmax(axis=-1)).sum(axis=1)


def _adamw(
    ops: Ops,
    parameters: np.ndarray,
    gradient: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    rate: np.ndarray,
    decay: np.ndarray,
    decayed: int,
    step: np.ndarray,
    clip_norm: float | None,
    betas: tuple[float, float],
    epsilon: float,
    copy: np.ndarray | None,
    average: np.ndarray | None,
    average_decay: float,
) -> None:
    norm = np.sqrt(ops.sum_of_squares(gradient))
    scale = np.ones(len(norm)) if clip_norm is None else np.minimum(1.0, clip_norm / (norm + 1e-6))
    at = rate[:, int(step[0]) % rate.shape[1]].astype(np.float64)
    for part, part_decay in ((slice(0, decayed), decay), (slice(decayed, None), 0 * decay)):
        _by_ops(
            ops.adamw,
            *(x[:, part] for x in (parameters, gradient, first, second)),
            gradient_scale=scale,
            rate=at,
            decay=part_decay.astype(np.float64),
            betas=betas,
            epsilon=epsilon,
            step=int(step[0]) + 1,
        )
    step += 1
    if copy is not None:
        _store(copy, parameters)
    if average is not None:
        d = min(average_decay, (1 + int(step[0])) / (10 + int(step[0])))
        average[...] = d * average + (1 - d) * parameters


def _load_batch(ops: Ops, *arrays: np.ndarray, patches: np.ndarray, targets: np.ndarray, **named: Any) -> None:
    made = loaded(*arrays, patches.shape[1], targets.shape[-1], **named)
    for out, values in zip((patches, targets), made, strict=True):
        _store(out, values)


def _dropout(ops: Ops, x: np.ndarray, bias: np.ndarray | None, *, out: np.ndarray, **named: Any) -> None:
    _store(out, dropped(widened(x), bias, **named))
