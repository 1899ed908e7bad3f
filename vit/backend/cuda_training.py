"""Kernels around the model: batches, loss, clipping and AdamW. R runs, B images, C classes, P parameters.

What changes from step to step lies in device memory, so that a captured graph can be replayed: the counter `step`
(1,) int32 of finished steps, learning rates, the order of the epoch's images.
"""

from vit.backend.cuda_launch import Launcher
from vit.backend.ops import Array


class TrainingKernels(Launcher):
    """One step's beginning and end."""

    def load_batch(
        self,
        images: Array,
        labels: Array,
        order: Array,
        step: Array,
        *,
        steps_per_epoch: int,
        patch: int,
        mean: Array,
        std: Array,
        smoothing: float,
        crop_padding: int,
        flip: bool,
        seeds: Array,
        patches: Array,
        targets: Array,
    ) -> None:
        """Gathers the images of a step, crops and flips them at random, normalises them and cuts them into patches.

        Image b of run r is images[order[r, (step mod steps_per_epoch) B + b]].
        Args:
            images: uint8 (n, h, w, c), all of the data set; labels (n,) int32.
            order: int32 (R, m), m >= steps_per_epoch B: image numbers in the order of this epoch.
            step: int32 (1,), finished steps.
            mean, std: float32 (R, c), in units of 0..1.
            smoothing: Of labels: targets are 1 - s at the label plus s / C everywhere.
            crop_padding: Images move by up to so many pixels along each axis, gaps black (before normalisation).
            flip: Mirror with probability one half.
            seeds: int64 (R,). Draws are Philox4x32-10's of (seed, step, b): the same for runs of one seed.
            patches: (R, B, N, c p p) in the type of activations, overwritten; as `Ops.patchify` orders them.
            targets: float32 (R, B, C), overwritten.
        """
        raise NotImplementedError

    def cross_entropy(
        self, logits: Array, targets: Array, scale: float, *, losses: Array, dlogits: Array, totals: Array | None = None
    ) -> None:
        """Losses (R, B) float32 of soft targets (R, B, C) float32, and the gradient of `scale` times their sum.

        `logits` and `dlogits` (R, B, C) in the type of activations or float32, each. To `totals` float32 (R, 2),
        where given, adds the sum of the losses, and how many logits have their largest where the targets have.
        """
        raise NotImplementedError

    def adamw(
        self,
        parameters: Array,
        gradient: Array,
        first: Array,
        second: Array,
        *,
        rate: Array,
        decay: Array,
        decayed: int,
        step: Array,
        clip_norm: float | None,
        betas: tuple[float, float],
        epsilon: float,
        copy: Array | None = None,
        average: Array | None = None,
        average_decay: float = 0.0,
    ) -> None:
        """Clips each run's gradient to `clip_norm` and makes step number step + 1 of AdamW; then step += 1.

        All float32 (R, P) with P a multiple of 64. Two launches: sums of squares, and everything else.
        Args:
            rate: float32 (R, s): the learning rates of s steps to come, or of all with s = 1; that of this step is
                rate[r, step mod s].
            decay: float32 (R,), on the elements before `decayed` (a multiple of 64).
            step: int32 (1,), finished steps.
            copy: bf16 (R, P), overwritten with the new parameters.
            average: float32 (R, P), becomes d average + (1 - d) parameters with
                d = min(average_decay, (1 + t) / (10 + t)), t = step + 1.
        """
        raise NotImplementedError

    def gradient_norm(self, gradient: Array, out: Array) -> None:
        """The norm of each run's gradient: float32 (R, P) to (R,)."""
        raise NotImplementedError
