"""The network of one thread, whose passes are captured once as programs and then replayed."""

from collections.abc import Callable

from vit.backend import Array
from vit.backend.numpy_ops import NumpyOps
from vit.backend.program import CapturedProgram
from vit.model import Network, ViT
from vit.workspace import Draws


class Lane:
    """A network for at most `capacity` images, with its own buffers and gradient vector.

    On the CPU, a pass is captured as a program, one per number of images, if the network is traceable. The first pass
    is also computed by a replay, so results do not depend on earlier calls.
    """

    def __init__(self, model: ViT, capacity: int) -> None:
        self.ops = NumpyOps(str(model.ops.dtype)) if model.ops.name == "numpy" else model.ops
        self.network: Network = model.network(capacity, ops=self.ops)
        self.tapes: dict[tuple[str, int, float], CapturedProgram] = {}
        self._results: dict[tuple[str, int, float], Array] = {}

    @property
    def gradient(self) -> Array:
        """Gradient of the last `train`, (R, P)."""
        return self.network.workspace.gradients.flat

    def train(self, images: Array, targets: Array, scale: float, draws: Draws) -> Array:
        """Return the losses (R, B) of images (R, B, h, w, channels); overwrite `gradient`.

        `gradient` is then the gradient of `scale` times the sum of the losses.
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
