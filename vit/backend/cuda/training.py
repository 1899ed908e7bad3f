"""Kernels for batches, loss, clipping and AdamW. R runs, B images, C classes, P parameters.

Values that change between steps are in device memory, so that a captured graph can be replayed: the counter `step` (1,)
int32 of finished steps, the learning rates, and the order of the images in the epoch.
"""

import math

import numpy as np

from vit.backend.cuda.launch import (
    BLOCK,
    Launcher,
    aligned,
    expression,
    f32,
    i32,
    optional,
    require_contiguous,
    require_contiguous_runs,
    require_shape,
    require_type,
    run_stride,
    type_name,
    vector,
)
from vit.backend.ops import Array

IMAGE_BYTES = 92 << 10
"""Largest image for augmentation beyond crops and flips. It is kept in shared memory, and all GPUs of compute
capability 8.0 or higher have enough."""
TABLE_BYTES = 5136
"""Static shared memory of the augmentation kernel."""


class TrainingKernels(Launcher):
    """Kernels of a training step before and after the model: batch, loss and optimizer."""

    @property
    def image_bytes(self) -> int:
        """Bytes of the largest image for augmentation beyond crops and flips on this device."""
        return min(IMAGE_BYTES, self.shared_bytes - TABLE_BYTES)

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
        smoothing: Array,
        crop_padding: int,
        flip: bool,
        seeds: Array,
        patches: Array,
        targets: Array,
        trivial_augment: bool = False,
        erase: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        """Gather the images of a step, augment and normalise them, and cut them into patches.

        Image b of run r is images[order[r, (step mod steps_per_epoch) B + b]].
        Args:
            images: uint8 (n, h, w, c), all of the data set; labels (n,) int32.
            order: int32 (R, m), m >= steps_per_epoch B: image numbers in the order of this epoch.
            step: int32 (1,), finished steps.
            mean, std: float32 (R, c), in units of 0..1.
            smoothing: float32 (R,), of labels: targets are 1 - s at the label plus s / C everywhere.
            crop_padding: Largest random shift in pixels along each axis; gaps are black (0 before normalisation).
            flip: Whether to mirror images horizontally with probability 1/2.
            seeds: int64 (R,). Random numbers are Philox4x32-10 of (seed, step, b), equal for runs with equal seeds.
            patches: (R, B, N, c p p) in the type of activations, in the order of `Ops.patchify`; overwritten.
            targets: float32 (R, B, C), overwritten.
            trivial_augment, erase, mixup, cutmix: As the fields of a run, see ablations/data/augmentation.py. Images
                may have up to 4 channels and `image_bytes` bytes. A batch is mixed with itself, cyclically shifted by a
                random number of images.
        """
        count, height, width, channels = images.shape
        runs, batch, classes = targets.shape
        size = height * width * channels
        if str(images.dtype) != "uint8" or any(str(a.dtype) != "int32" for a in (labels, order, step)):
            raise TypeError(
                "images must have the type uint8, and labels, order and step int32, "
                f"got {images.dtype}, {labels.dtype}, {order.dtype} and {step.dtype}"
            )
        require_shape((runs, batch, (height // patch) * (width // patch), channels * patch * patch), patches=patches)
        require_shape((runs, channels), mean=mean, std=std)
        require_shape((count,), labels=labels)
        require_shape((runs,), seeds=seeds, smoothing=smoothing)
        if len(order) != runs or order.shape[1] < steps_per_epoch * batch:
            raise ValueError(
                f"order must have the shape ({runs}, {steps_per_epoch * batch} or more), got {order.shape}"
            )
        require_type("float", mean=mean, std=std, smoothing=smoothing, targets=targets)
        require_contiguous(images=images, labels=labels, step=step, mean=mean, std=std)
        require_contiguous(patches=patches, targets=targets, seeds=seeds, smoothing=smoothing)
        require_contiguous_runs(order=order)
        v = vector(size, patches)
        selected = (order, run_stride(order), step, i32(steps_per_epoch))
        kind, grid = type_name(patches), (-(-size // (v * BLOCK)), batch, runs)
        lengths = (i32(height), i32(width), i32(channels))
        made = (patches, targets, *lengths, i32(patch), i32(classes), smoothing)
        moves = (i32(crop_padding), i32(flip))
        if not (trivial_augment or erase or mixup or cutmix):
            plain = (images, labels, *selected, mean, std, seeds, *made, *moves)
            self.launch(expression("load_batch", kind, v), grid, (BLOCK, 1, 1), 0, plain)
            return
        if channels > 4 or size > self.image_bytes:
            raise ValueError(
                f"images must have at most 4 channels and {self.image_bytes} bytes, got {height} x {width} x {channels}"
            )
        changed = self.scratch(runs * batch * size)
        args = (images, *selected, mean, std, seeds, changed, *lengths, *moves, i32(trivial_augment), f32(erase))
        self.launch("augment", (batch, runs, 1), (BLOCK, 1, 1), size, args)
        mixed = (changed, labels, *selected, seeds, *made, f32(mixup), f32(cutmix))
        self.launch(expression("mix_patchify", kind, v), grid, (BLOCK, 1, 1), 0, mixed)

    def cross_entropy(
        self, logits: Array, targets: Array, scale: float, *, losses: Array, dlogits: Array, totals: Array | None = None
    ) -> None:
        """Compute the losses (R, B) float32 and `dlogits`, the gradient of `scale` times their sum.

        `targets` are soft targets (R, B, C) float32; `logits` and `dlogits` (R, B, C) are float32 or of the type of
        activations. Adds the sum of the losses and the number of correct predictions (largest logit at the largest
        target) to `totals` (R, 2) float32, if given.
        """
        runs, batch, classes = logits.shape
        require_shape(logits.shape, targets=targets, dlogits=dlogits)
        require_shape((runs, batch), losses=losses)
        require_shape((runs, 2), totals=totals)
        require_type("float", targets=targets, losses=losses, totals=totals)
        require_contiguous(logits=logits, targets=targets, losses=losses, dlogits=dlogits, totals=totals)
        rows = runs * batch
        hits = self.scratch(rows)
        args = (logits, targets, f32(scale), losses, dlogits, hits, np.int64(rows), i32(classes))
        kernel = expression("cross_entropy", type_name(logits), type_name(dlogits))
        self.launch(kernel, (-(-rows // (BLOCK // 32)), 1, 1), (BLOCK, 1, 1), 0, args)
        if totals is not None:
            self.launch("add_totals", (runs, 1, 1), (BLOCK, 1, 1), 0, (losses, hits, totals, i32(batch)))

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
        """Clip the gradient of each run to `clip_norm`, make an AdamW step, and increment `step`.

        Arrays are float32 (R, P) with P a multiple of 64. Launches two kernels: sums of squares, and the update.
        Args:
            rate: float32 (R, s): learning rates; that of this step is rate[r, step mod s].
            decay: float32 (R,): weight decay of the elements before `decayed` (a multiple of 64).
            step: int32 (1,), finished steps.
            copy: bf16 (R, P), overwritten with the new parameters.
            average: float32 (R, P), becomes d average + (1 - d) parameters with
                d = min(average_decay, (1 + t) / (10 + t)), t = step + 1.
        """
        runs, size = parameters.shape
        require_shape(parameters.shape, gradient=gradient, first=first, second=second, copy=copy, average=average)
        require_shape((runs,), decay=decay)
        require_type("float", parameters=parameters, gradient=gradient, first=first, second=second)
        require_type("float", rate=rate, decay=decay, average=average)
        require_type("bf16", copy=copy)
        arrays = (parameters, gradient, first, second, copy, average)
        require_contiguous_runs(parameters=parameters, gradient=gradient, first=first, second=second)
        require_contiguous_runs(copy=copy, average=average)
        require_contiguous(rate=rate, decay=decay, step=step)
        if str(step.dtype) != "int32" or len(rate) != runs:
            raise ValueError(
                f"adamw: step must be int32 and rates of shape ({runs}, s), got {step.dtype} and {rate.shape}"
            )
        if size % 4 or decayed % 4 or not all(array is None or aligned(array) for array in arrays):
            raise ValueError("arrays of adamw must have rows of a multiple of 64 elements, aligned to 16 bytes")
        strides = {int(run_stride(array)) for array in (parameters, copy, average) if array is not None}
        if len(strides) > 1 or run_stride(first) != run_stride(second):
            raise ValueError("copy and average must have the strides of parameters, and second those of first")
        parts, sums = self._sum_of_squares(gradient, step)
        args = (parameters, gradient, first, second, optional(copy), optional(average))
        runs_apart = (run_stride(parameters), run_stride(gradient), run_stride(first))
        state = (rate, i32(rate.shape[1]), decay, step, sums, i32(parts), i32(decayed), i32(size))
        moments = [f32(x) for beta in betas for x in (beta, 1 - beta, math.log(beta))]
        settings = (f32(epsilon), f32(clip_norm or 0.0), f32(1 - average_decay))
        grid = (max(1, min(-(-size // (4 * BLOCK)), -(-8 * self.multiprocessors // runs))), runs, 1)
        self.launch("adamw", grid, (BLOCK, 1, 1), 0, (*args, *runs_apart, *state, *moments, *settings))

    def gradient_norm(self, gradient: Array, out: Array) -> None:
        """Compute the gradient norm of each run: float32 (R, P) to (R,)."""
        require_shape((len(gradient),), out=out)
        require_type("float", gradient=gradient, out=out)
        require_contiguous_runs(gradient=gradient)
        require_contiguous(out=out)
        if gradient.shape[1] % 4 or not aligned(gradient):
            raise ValueError("gradient must have rows of a multiple of 64 elements, aligned to 16 bytes")
        parts, sums = self._sum_of_squares(gradient, None)
        self.launch("norm_of_parts", (len(gradient), 1, 1), (BLOCK, 1, 1), 0, (sums, i32(parts), out))

    def _sum_of_squares(self, x: Array, step: Array | None) -> tuple[int, Array]:
        """Return the number of parts, and their sums in float64 scratch memory; increment `step`, if given."""
        runs, size = x.shape
        parts = max(1, min(-(-size // (16 * BLOCK)), BLOCK, -(-4 * self.multiprocessors // runs)))
        sums = self.scratch(2 * runs * parts)[: 2 * runs * parts].view("float64")
        args = (x, run_stride(x), sums, i32(size), optional(step))
        self.launch("sum_of_squares", (parts, runs, 1), (BLOCK, 1, 1), 0, args)
        return parts, sums
