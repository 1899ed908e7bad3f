"""The network of one thread, whose passes are captured once as programs and then replayed."""

import threading
from collections.abc import Callable

import numpy as np

from vit.backend import Array
from vit.backend.numpy_ops import NumpyOps
from vit.backend.program import CapturedProgram
from vit.model import Network, ViT, capture_problem
from vit.workspace import Draws

TOLERANCE = {"float32": 1e-2, "float64": 1e-8}
"""Largest difference of a result or a parameter's gradient between a replay and a direct pass, relative to its largest
value; a hundredth of it relative to the largest value of all gradients, as some gradients are only rounding."""

_comparing = threading.Lock()
"""Held during the first pass of a kind, so that only one lane at a time keeps a copy of its gradient."""


class Lane:
    """A network for at most `capacity` images, with its own buffers and gradient vector.

    On the CPU, a pass is captured as a program, one per number of images, unless it draws random numbers or
    `capture_problem` finds a reason. The first pass is also computed by a replay, so results do not depend on earlier
    calls. It is compared with a direct pass.
    """

    def __init__(self, model: ViT, capacity: int) -> None:
        self.ops = NumpyOps(str(model.ops.dtype)) if model.ops.name == "numpy" else model.ops
        self.network: Network = model.network(capacity, ops=self.ops)
        random = model.config.dropout or model.config.drop_path
        self.captures = isinstance(self.ops, NumpyOps) and not random and not capture_problem(model.config, "numpy")
        self.tapes: dict[tuple[str, int, float], CapturedProgram] = {}
        self._results: dict[tuple[str, int, float], Array] = {}

    @property
    def gradient(self) -> Array:
        """Gradient of the last `train`, (R, P)."""
        return self.network.workspace.gradients.flat

    @property
    def table_gradient(self) -> Array:
        """Gradient of the tables of the encoding in the last `train`, flat (R, size)."""
        return self.network.workspace.dtables.flat

    def train(self, images: Array, targets: Array, scale: float, draws: Draws) -> Array:
        """Return the losses (R, B) of images (R, B, h, w, channels); overwrite `gradient` and `table_gradient`.

        They are then the gradients of `scale` times the sum of the losses.
        """
        self.network.load(images, targets)
        return self._run(("train", images.shape[1], scale), lambda: self.network.train(scale, draws))

    def logits(self, images: Array) -> Array:
        """Return the logits (R, B, C), valid until the next call."""
        self.network.load(images)
        return self._run(("logits", images.shape[1], 0.0), self.network.logits)

    def products(self, batch: int, scale: float) -> CapturedProgram | None:
        """Return the matrix products of `train` on `batch` images, or None if it has not been captured."""
        program = self.tapes.get(("train", batch, scale))
        return program and program.products()

    def _run(self, key: tuple[str, int, float], compute: Callable[[], Array]) -> Array:
        if not self.captures:
            return compute()
        if key in self.tapes:
            self.tapes[key].replay()
            return self._results[key]
        with _comparing:
            direct = [array.copy() for array in self._outputs(key, compute())]
            assert isinstance(self.ops, NumpyOps)
            self.ops.program = program = CapturedProgram(self.ops.dtype)
            try:
                self._results[key] = result = compute()
            finally:
                self.ops.program = None
            program.replay()
            self._compare(self._outputs(key, result), direct)
        self.tapes[key] = program
        return result

    def _outputs(self, key: tuple[str, int, float], result: Array) -> list[Array]:
        """Return all results of a pass, each led by the run axis."""
        return [result] if key[0] == "logits" else [result, self.gradient, self.table_gradient]

    def _compare(self, replayed: list[Array], direct: list[Array]) -> None:
        """Raise RuntimeError if a replay differs from the direct pass. Runs that are not finite are not compared."""
        workspace = self.network.workspace
        kinds = [None, workspace.gradients, workspace.dtables][: len(direct)]
        for actual, expected, views in zip(replayed, direct, kinds, strict=True):
            for run in range(len(expected)):
                if not expected.size or not np.isfinite(expected[run]).all():
                    continue
                floor = np.abs(expected[run]).max() / 100
                parts = [slice(None)] if views is None else views.slices
                if any(self._differ(actual[run][part], expected[run][part], floor) for part in parts):
                    raise RuntimeError(
                        f"position {self.network.config.position!r} computes something that a captured program does "
                        "not repeat; `vitab positions check` shows where"
                    )

    def _differ(self, actual: Array, expected: Array, floor: float) -> bool:
        tolerance = TOLERANCE[str(self.ops.dtype)] * max(np.abs(expected).max(), floor)
        return not np.abs(actual - expected).max() <= tolerance
