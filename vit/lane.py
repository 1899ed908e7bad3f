"""A lane of images: one network, and its passes captured once and replayed."""

from collections.abc import Callable

from vit.backend import Array
from vit.backend.numpy_ops import NumpyOps
from vit.backend.program import CapturedProgram
from vit.model import Network, ViT
from vit.workspace import Draws


class Lane:
    """Trains and evaluates at most `capacity` images at a time, with its own buffers and gradient vector.

    On the CPU, a pass is captured as a program if the network allows it, one for each number of images. Its first use
    is then a replay like any other, so results do not depend on what ran before.
    """

    def __init__(self, model: ViT, capacity: int) -> None:
        self.ops = NumpyOps(str(model.ops.dtype)) if model.ops.name == "numpy" else model.ops
        self.network: Network = model.network(capacity, ops=self.ops)
        self.tapes: dict[tuple[str, int, float], CapturedProgram] = {}
        self._results: dict[tuple[str, int, float], Array] = {}

    @property
    def gradient(self) -> Array:
        """(R, P), of the last `train`."""
        return self.network.workspace.gradients.flat

    def train(self, images: Array, targets: Array, scale: float, draws: Draws) -> Array:
        """Losses (R, B) of images (R, B, h, w, channels); `gradient` is then that of `scale` times their sum."""
        self.network.load(images, targets)
        return self._run(("train", images.shape[1], scale), lambda: self.network.train(scale, draws))

    def logits(self, images: Array) -> Array:
        """Logits (R, B, C), good until the next call."""
        self.network.load(images)
        return self._run(("logits", images.shape[1], 0.0), self.network.logits)

    def products(self, batch: int, scale: float) -> CapturedProgram | None:
        """The matrix products of `train` on so many images, once it has been captured."""
        program = self.tapes.get(("train", batch, scale))
        return program and program.products()

    def _run(self, key: tuple[str, int, float], compute: Callable[[], Array]) -> Array:
        if not (isinstance(self.ops, NumpyOps) and self.network.traceable):
            return compute()
        if key not in self.tapes:
            self.ops.program = program = CapturedProgram(self.ops.dtype)
            try:
                self._results[key] = compute()
            finally:
                self.ops.program = None
            self.tapes[key] = program
        self.tapes[key].replay()
        return self._results[key]
