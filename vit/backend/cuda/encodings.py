"""Kernels of positional encodings, with the methods and formulas of `Ops`.

Shapes: R runs, B images, T tokens (including a class token), N patches, H heads, K head width, D width. Activations are
contiguous, float32 or bf16. Parameters, tables and their gradients are float32, (R, ...) views with any stride between
runs. Sums over images have a fixed order.
"""

from math import prod

from vit.backend.cuda.launch import (
    BLOCK,
    Launcher,
    expression,
    i32,
    optional,
    require_contiguous,
    require_contiguous_runs,
    require_shape,
    require_type,
    run_stride,
    type_name,
    u32,
    vector,
)
from vit.backend.ops import Array


class EncodingKernels(Launcher):
    """Kernels that encodings need beside those of attention."""

    def add_score_bias(self, scores: Array, bias: Array) -> None:
        """Add `bias` (R or 1, H, T, T) float32 to the scores (R, B, H, T, T) of every image, in place."""
        runs, batch, *square = scores.shape
        columns = prod(square)
        require_shape((len(bias) if len(bias) == 1 else runs, *square), bias=bias)
        require_type("float", bias=bias)
        require_contiguous(scores=scores)
        require_contiguous_runs(bias=bias)
        v = vector(columns, scores, bias)
        args = (scores, bias, run_stride(bias), u32(batch), i32(columns), u32(1))
        self.over_elements(expression("add_rows", type_name(scores), v), batch * columns // v, runs, args)

    def score_bias_gradient(self, dscores: Array, out: Array) -> None:
        """Sum `dscores` (R, B, H, T, T) over images into `out` (R, H, T, T) float32."""
        runs, batch, *square = dscores.shape
        columns = prod(square)
        require_shape((runs, *square), out=out)
        require_type("float", out=out)
        require_contiguous(dscores=dscores)
        require_contiguous_runs(out=out)
        v = vector(columns, dscores)
        blocks = -(-columns // (v * BLOCK))
        parts = self._image_parts(batch, blocks * runs)
        sums = self.scratch(runs * parts * columns)
        kernel = expression("score_bias_gradient", type_name(dscores), v)
        self.launch(kernel, (blocks, parts, runs), (BLOCK, 1, 1), 0, (dscores, sums, i32(batch), i32(columns)))
        self.sum_parts(sums, parts, columns, out)

    def rotation_gradient(self, qkv: Array, bias: Array | None, dqkv: Array, prefix: int, out: Array) -> None:
        """Compute the gradient of the angles of a rotation into `out` (R, H, N, K/2) float32.

        `qkv` and `dqkv` (R, B, T, 3, H, K) are the rotated projection and its gradient, or, with its `bias` (R, 3 H K)
        float32, the projection itself and its gradient.
        """
        runs, batch, tokens, _, heads, head_width = qkv.shape
        patches = tokens - prefix
        columns = heads * patches * head_width // 2
        require_shape(qkv.shape, dqkv=dqkv)
        require_shape((runs, 3 * heads * head_width), bias=bias)
        require_shape((runs, heads, patches, head_width // 2), out=out)
        require_type(type_name(qkv), dqkv=dqkv)
        require_type("float", bias=bias, out=out)
        require_contiguous(qkv=qkv, dqkv=dqkv)
        require_contiguous_runs(bias=bias, out=out)
        v = max(2, vector(head_width, qkv, dqkv, bias))
        blocks = -(-2 * columns // (v * BLOCK))
        parts = self._image_parts(batch, blocks * runs)
        sums = self.scratch(runs * parts * columns)
        args = (qkv, optional(bias), run_stride(bias), dqkv, sums, i32(prefix), i32(batch), i32(tokens), i32(heads))
        kernel = expression("rotation_gradient", type_name(qkv), v)
        self.launch(kernel, (blocks, parts, runs), (BLOCK, 1, 1), 0, (*args, i32(head_width)))
        self.sum_parts(sums, parts, columns, out)

    def _image_parts(self, images: int, blocks: int) -> int:
        """Return the number of parts of the images, chosen to give about four blocks per multiprocessor."""
        return max(1, min(-(-images // 4), -(-4 * self.multiprocessors // blocks)))
