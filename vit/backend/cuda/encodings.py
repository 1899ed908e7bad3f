"""Kernels of positional encodings, with the methods and formulas of `Ops`.

Shapes: R runs, B images, T tokens (including a class token), N patches, H heads, K head width, D width. Activations are
contiguous, float32 or bf16. Parameters, tables and their gradients are float32, (R, ...) views with any stride between
runs. Sums over images have a fixed order.
"""

from math import isqrt, prod
from typing import Any

import numpy as np

from vit.backend.cuda.attention import AttentionKernels
from vit.backend.cuda.launch import (
    BLOCK,
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
    u32,
    vector,
)
from vit.backend.ops import Array

SMALL_GROUP = 8
"""Most channels per group for which `qkv_bias_turn` holds a matrix in registers."""
LARGE_GROUP = 128
"""Most channels per group; the matrix is in shared memory."""
VECTORS = 8
"""Queries and keys that a block turns at a time, as in turn.cu."""


class EncodingKernels(AttentionKernels):
    """Kernels of attention, and those that encodings need beside them."""

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

    def add_relative_scores(self, scores: Array, products: Array, prefix: int) -> None:
        """Compute `Ops.add_relative_scores`; `scores` (R, B, H, T, T), `products` (R, B, T, H, 2 (2 g - 1)) alike."""
        self._relative("add_relative_scores", scores, products, prefix)

    def relative_scores_gradient(self, dscores: Array, prefix: int, out: Array) -> None:
        """Compute `Ops.relative_scores_gradient`, with arrays as in `add_relative_scores`."""
        self._relative("relative_scores_gradient", dscores, out, prefix)

    def _relative(self, kernel: str, scores: Array, products: Array, prefix: int) -> None:
        runs, batch, heads, tokens, _ = scores.shape
        grid, rows = isqrt(tokens - prefix), runs * batch * heads * tokens
        if grid * grid != tokens - prefix:
            raise ValueError(f"{kernel}: patches must form a square, got {tokens - prefix}")
        require_shape((runs, batch, heads, tokens, tokens), scores=scores)
        require_shape((runs, batch, tokens, heads, 2 * (2 * grid - 1)), products=products)
        require_type(type_name(scores), products=products)
        require_contiguous(scores=scores, products=products)
        args = (scores, products, i32(prefix), np.int64(rows), i32(tokens), i32(grid), i32(heads))
        blocks = -(-rows // (BLOCK // 32))
        self.launch(expression(kernel, type_name(scores)), (blocks, 1, 1), (BLOCK, 1, 1), 0, args)

    def add_to_queries(self, dqkv: Array, dqueries: Array) -> None:
        """Add `dqueries` (R, B, T, H, K) to the queries of `dqkv` (R, B, T, 3, H, K) of the same type, in place."""
        runs, batch, tokens, _, heads, head_width = dqkv.shape
        rows, width = batch * tokens, heads * head_width
        require_shape((runs, batch, tokens, heads, head_width), dqueries=dqueries)
        require_type(type_name(dqkv), dqueries=dqueries)
        require_contiguous(dqkv=dqkv, dqueries=dqueries)
        v = vector(width, dqkv, dqueries)
        kernel = expression("add_to_queries", type_name(dqkv), v)
        self.over_elements(kernel, rows * width // v, runs, (dqkv, dqueries, u32(rows), i32(width)))

    def add_branch(self, stream: Array, branch: Array, bias: Array, out: Array) -> None:
        """Compute out = stream + branch + bias, (R, B, T, D); float32, except `branch`; `bias` (R, D)."""
        runs, batch, tokens, width = stream.shape
        rows = batch * tokens
        require_shape(stream.shape, branch=branch, out=out)
        require_shape((runs, width), bias=bias)
        require_type("float", stream=stream, bias=bias, out=out)
        require_contiguous(stream=stream, branch=branch, out=out)
        require_contiguous_runs(bias=bias)
        v = vector(width, stream, branch, bias, out)
        args = (stream, branch, bias, run_stride(bias), out, u32(rows), i32(width))
        self.over_elements(expression("add_branch", type_name(branch), v), rows * width // v, runs, args)

    def add_depthwise_conv(self, x: Array, weight: Array, bias: Array, prefix: int, out: Array) -> None:
        """Compute `Ops.add_depthwise_conv`; x, out (R, B, T, D), weight (R, D, 1, 3, 3), bias (R, D) float32."""
        parts, tiles, sizes = self._lines(x, weight, bias, prefix, out)
        args = (x, weight, run_stride(weight), bias, run_stride(bias), out, *sizes)
        self.launch("add_depthwise_conv", (parts, tiles, len(x)), (BLOCK, 1, 1), 0, args)

    def add_depthwise_conv_backward(
        self, dy: Array, x: Array, weight: Array, prefix: int, *, out: Array, dweight: Array, dbias: Array
    ) -> None:
        """Compute `Ops.add_depthwise_conv_backward`, all in float32."""
        parts, tiles, sizes = self._lines(x, weight, dbias, prefix, out)
        require_shape(x.shape, dy=dy)
        require_shape(weight.shape, dweight=dweight)
        require_type("float", dy=dy, dweight=dweight)
        require_contiguous(dy=dy)
        require_contiguous_runs(dweight=dweight)
        runs, width, taps = len(x), x.shape[3], 9
        sums = self.scratch(runs * parts * width * (taps + 1))
        of_weights, of_biases = sums[: runs * parts * width * taps], sums[runs * parts * width * taps :]
        args = (dy, x, weight, run_stride(weight), out, of_weights, of_biases, *sizes)
        self.launch("add_depthwise_conv_backward", (parts, tiles, runs), (BLOCK, 1, 1), 0, args)
        self.sum_parts(of_weights, parts, width * taps, dweight)
        self.sum_parts(of_biases, parts, width, dbias)

    def _lines(self, x: Array, weight: Array, bias: Array, prefix: int, out: Array) -> tuple[int, int, tuple[Any, ...]]:
        """Check arguments of a convolution; return the parts of the rows of patches, tiles of channels, and sizes."""
        runs, batch, tokens, width = x.shape
        grid = isqrt(tokens - prefix)
        if grid * grid != tokens - prefix:
            raise ValueError(f"add_depthwise_conv: patches must form a square, got {tokens - prefix}")
        require_shape(x.shape, out=out)
        require_shape((runs, width, 1, 3, 3), weight=weight)
        require_shape((runs, width), bias=bias)
        require_type("float", x=x, weight=weight, bias=bias, out=out)
        require_contiguous(x=x, out=out)
        require_contiguous_runs(weight=weight, bias=bias)
        tiles, groups = -(-width // 32), BLOCK // 32
        lines = batch * (grid + (prefix > 0))
        parts = max(1, min(-(-lines // (2 * groups)), -(-8 * self.multiprocessors // (tiles * runs))))
        return parts, tiles, (i32(prefix), i32(batch), i32(tokens), i32(grid), i32(width))

    def qkv_bias_turn(self, qkv: Array, bias: Array, scale: float, matrices: Array, prefix: int) -> None:
        """Compute `Ops.qkv_bias_turn`: `bias` (R, 3 H K), `matrices` (R, 1 or H, N, G, K/G, K/G) float32."""
        plan = _Turn(qkv, matrices, prefix, self.multiprocessors)
        self._bias_rotate(qkv, bias, scale, None, None, 0, turned=prefix)
        args = (qkv, bias, run_stride(bias), f32(scale), *plan.matrices, *plan.sizes)
        self.launch(plan.kernel(""), plan.grid, (BLOCK, 1, 1), plan.shared(1), args)

    def qkv_bias_turn_backward(
        self, qkv: Array, dqkv: Array, scale: float, matrices: Array, prefix: int, *, dbias: Array, dmatrices: Array
    ) -> None:
        """Compute `Ops.qkv_bias_turn_backward`; `dbias` (R, 3 H K) and `dmatrices` are float32."""
        require_shape(qkv.shape, dqkv=dqkv)
        require_type(type_name(qkv), dqkv=dqkv)
        require_contiguous(dqkv=dqkv)
        require_shape(matrices.shape, dmatrices=dmatrices)
        require_type("float", dmatrices=dmatrices)
        require_contiguous_runs(dmatrices=dmatrices)
        plan = _Turn(qkv, matrices, prefix, self.multiprocessors, dqkv)
        (_, parts, runs), heads, columns = plan.grid, qkv.shape[4], prod(matrices.shape[2:])
        sums = self.scratch(runs * parts * heads * columns)
        args = (qkv, dqkv, f32(scale), *plan.matrices, sums, *plan.sizes)
        self.launch(plan.kernel("_backward"), plan.grid, (BLOCK, 1, 1), plan.shared(3), args)
        shared_by_heads = heads // matrices.shape[1]
        self.sum_parts(sums, parts * shared_by_heads, columns * matrices.shape[1], dmatrices)
        self._bias_rotate_backward(dqkv, scale, None, None, 0, dbias, turned=prefix)

    def _image_parts(self, images: int, blocks: int) -> int:
        return image_parts(images, blocks, self.multiprocessors)


def image_parts(images: int, blocks: int, multiprocessors: int) -> int:
    """Return the number of parts of the images, chosen to give about four blocks per multiprocessor."""
    return max(1, min(-(-images // 4), -(-4 * multiprocessors // blocks)))


class _Turn:
    """Arguments of the kernels of turn.cu, and the division of their work."""

    def __init__(
        self, qkv: Array, matrices: Array, prefix: int, multiprocessors: int, dqkv: Array | None = None
    ) -> None:
        runs, batch, tokens, _, heads, head_width = qkv.shape
        of_heads, groups, size = matrices.shape[1], matrices.shape[3], matrices.shape[4]
        if of_heads not in (1, heads) or groups * size != head_width or size > LARGE_GROUP:
            raise ValueError(
                f"matrices must be of 1 or {heads} heads and {head_width} channels in groups of up to {LARGE_GROUP}, "
                f"got {tuple(matrices.shape)}"
            )
        require_shape((runs, of_heads, tokens - prefix, groups, size, size), matrices=matrices)
        require_type("float", matrices=matrices)
        require_contiguous(qkv=qkv)
        require_contiguous_runs(matrices=matrices)
        self.kind, self.size = type_name(qkv), size
        self.small = size <= SMALL_GROUP and all(aligned(x) for x in (qkv, dqkv, matrices) if x is not None)
        count = (tokens - prefix) * heads * groups
        blocks = -(-count // BLOCK) if self.small else count
        self.grid = (blocks, image_parts(batch, blocks * runs, multiprocessors), runs)
        head_stride = 0 if of_heads == 1 else prod(matrices.shape[2:])
        self.matrices = (matrices, run_stride(matrices), i32(head_stride))
        sizes = (prefix, batch, tokens, heads, groups) if self.small else (prefix, batch, tokens, heads, groups, size)
        self.sizes = tuple(i32(value) for value in sizes)

    def kernel(self, suffix: str) -> str:
        if self.small:
            return expression(f"turn{suffix}", self.kind, self.size)
        return expression(f"turn_large{suffix}", self.kind)

    def shared(self, arrays: int) -> int:
        """Return the bytes of dynamic shared memory with that many arrays of vectors."""
        return 0 if self.small else (self.size * (self.size + 1) + arrays * VECTORS * self.size) * 4
