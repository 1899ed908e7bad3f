"""Kernels on tokens: biases, sums, copies, layer normalisation, GELU. Methods and formulas are those of `Ops`.

Shapes: R runs, B images, N tokens, D width, F hidden width, C classes. "T" is the type of activations, float32 or
bf16; "S" that of the residual stream, T or float32. Parameters, their gradients and statistics are float32. Sums are
accumulated in float32 in an order that depends only on shapes, so results are reproducible bit for bit.
Activations are contiguous; parameters and gradients are (R, ...) views with any stride between runs.
"""

from math import prod
from typing import Any

import numpy as np

from vit.backend.cuda.launch import (
    BLOCK,
    Launcher,
    address,
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

WIDTHS = 1024
"""Largest width of layer normalisation, which keeps a row in registers."""


class TokenKernels(Launcher):
    """Kernels for all operations between the products except attention."""

    def patchify(self, images: Array, patch: int, out: Array) -> Array:
        """Cut normalised images (R, B, h, w, C) float32 into patches (R, B, N, C p p) in T."""
        runs, batch, height, width, channels = images.shape
        require_contiguous(images=images, out=out)
        require_type("float", images=images)
        require_shape((runs, batch, (height // patch) * (width // patch), channels * patch * patch), out=out)
        size = height * width * channels
        v = vector(size, out)
        args = (images, out, i32(height), i32(width), i32(channels), i32(patch))
        grid = (-(-size // (v * BLOCK)), batch, runs)
        self.launch(expression("patchify", type_name(out), v), grid, (BLOCK, 1, 1), 0, args)
        return out

    def add_bias(self, x: Array, bias: Array) -> Array:
        """Add bias (R, D) float32 to x (R, B, N, D) in T, in place."""
        runs, batch, tokens, width = x.shape
        require_shape((runs, width), bias=bias)
        self._add_rows(x, bias, batch * tokens, width, 1)
        return x

    def add_table(self, x: Array, table: Array) -> None:
        """Add table (R or 1, N, D) float32 to x (R, B, N, D) in T, in place."""
        _, batch, tokens, width = x.shape
        require_shape((len(table), tokens, width), table=table)
        self._add_rows(x, table, batch * tokens, width, tokens)

    def _add_rows(self, x: Array, table: Array, rows: int, columns: int, period: int) -> None:
        require_contiguous(x=x)
        require_contiguous_runs(table=table)
        require_type("float", table=table)
        v = vector(columns, x, table)
        kernel = expression("add_rows", type_name(x), v)
        args = (x, table, run_stride(table), u32(rows), i32(columns), u32(period))
        self.over_elements(kernel, rows * columns // v, len(x), args)

    def sum_tokens(self, dy: Array, out: Array) -> Array:
        """Sum dy (R, B, N, D) in T over images and tokens into out (R, D) float32."""
        self._sum_rows(dy, out, dy.shape[1] * dy.shape[2], dy.shape[3])
        return out

    def sum_images(self, dy: Array, out: Array) -> None:
        """Sum dy (R, B, N, D) in T over images into out (R, N, D) float32."""
        self._sum_rows(dy, out, dy.shape[1], dy.shape[2] * dy.shape[3])

    def _sum_rows(self, dy: Array, out: Array, rows: int, columns: int) -> None:
        require_contiguous(dy=dy)
        require_contiguous_runs(out=out)
        require_type("float", out=out)
        runs, v = len(dy), vector(columns, dy)
        parts = self.parts(rows, columns, runs)
        sums = self.scratch(runs * parts * columns)
        kernel = expression("sum_rows", type_name(dy), v)
        self.over_columns(kernel, v, parts, columns, runs, (dy, sums, i32(rows), i32(columns)))
        self.sum_parts(sums, parts, columns, out)

    def mean_tokens(self, x: Array, out: Array) -> None:
        """Compute the mean of x (R, B, N, D) in T over tokens into out (R, B, D) in T."""
        runs, batch, tokens, width = x.shape
        require_contiguous(x=x, out=out)
        require_shape((runs, batch, width), out=out)
        require_type(type_name(x), out=out)
        v = vector(width, x)
        kernel = expression("mean_tokens", type_name(x), v)
        self.over_columns(kernel, v, batch, width, runs, (x, out, i32(tokens), i32(width)))

    def mean_tokens_backward(self, dy: Array, out: Array) -> None:
        """Distribute dy (R, B, D) in T, divided by N, to all tokens of out (R, B, N, D) in T."""
        runs, batch, tokens, width = out.shape
        require_contiguous(dy=dy, out=out)
        require_shape((runs, batch, width), dy=dy)
        require_type(type_name(out), dy=dy)
        v, images = vector(width, dy, out), runs * batch
        kernel = expression("mean_tokens_backward", type_name(out), v)
        self.over_elements(kernel, images * tokens * width // v, 1, (dy, out, u32(images), u32(tokens), i32(width)))

    def copy_tokens(self, source: Array, out: Array) -> None:
        """Copy source (R, B or 1, n, D) to out (R, B, n, D), each float32 or bf16, with contiguous rows."""
        runs, batch, tokens, width = out.shape
        require_shape((runs, source.shape[1], tokens, width), source=source)
        if source.shape[1] not in (1, batch):
            raise ValueError(f"source must have 1 or {batch} images, got {source.shape[1]}")
        v, strides = 16 // min(source.dtype.itemsize, out.dtype.itemsize), []
        for array in (source, out):
            if width > 1 and array.strides[3] != array.dtype.itemsize:
                raise ValueError(f"copy_tokens: rows must be contiguous, got strides {array.strides}")
            if address(array) % 16 or width % v or any(stride % 16 for stride in array.strides[:3]):
                v = 1
            steps = (s if n > 1 else 0 for s, n in zip(array.strides[:3], array.shape[:3], strict=True))
            strides.append([np.int64(step // array.dtype.itemsize) for step in steps])
        kernel = expression("copy_tokens", type_name(source), type_name(out), v)
        args = (source, *strides[0], out, *strides[1], u32(batch), u32(tokens), i32(width))
        self.over_elements(kernel, batch * tokens * width // v, runs, args)

    def cast(self, x: Array, out: Array) -> None:
        """Copy a contiguous array to another of the same shape; each is float32 or bf16."""
        self._over_all(out, "cast", (x, out), (), type_name(x), type_name(out))

    def fill(self, out: Array, value: float) -> None:
        """Set all elements of a contiguous array, float32 or bf16, to `value`."""
        self._over_all(out, "fill", (out,), (f32(value),), type_name(out))

    def add(self, x: Array, y: Array) -> None:
        """Add y to x in place; both contiguous and of the same type."""
        require_type(type_name(x), y=y)
        self._over_all(x, "add", (x, y), (), type_name(x))

    def _over_all(
        self, out: Array, kernel: str, arrays: tuple[Array, ...], values: tuple[Any, ...], *types: str
    ) -> None:
        count = prod(out.shape)
        for array in arrays:
            require_shape(out.shape, **{kernel: array})
            require_contiguous(**{kernel: array})
        v = vector(count, *(array[None] for array in arrays))
        self.over_elements(expression(kernel, *types, v), count // v, 1, (*arrays, *values, np.int64(count)))

    def residual_layer_norm(
        self,
        x: Array,
        branch: Array | None,
        branch_bias: Array | None,
        weight: Array,
        bias: Array,
        *,
        stream: Array,
        out: Array,
        mean: Array,
        rstd: Array,
    ) -> None:
        """Compute stream = x + branch + branch_bias and out = LayerNorm(stream) in one pass.

        `x` and `stream` (R, B, N, D) in S (`stream` may be `x`; it is not written where `branch` is None), `branch`
        and `out` in T, `mean`, `rstd` (R, B, N) and parameters (R, D) float32. D up to 1024.
        """
        runs, batch, tokens, width = x.shape
        require_shape(x.shape, branch=branch, stream=stream, out=out)
        require_shape((runs, width), branch_bias=branch_bias, weight=weight, bias=bias)
        require_shape((runs, batch, tokens), mean=mean, rstd=rstd)
        require_type(type_name(x), stream=stream)
        require_type(type_name(out), branch=branch)
        require_type("float", branch_bias=branch_bias, weight=weight, bias=bias, mean=mean, rstd=rstd)
        require_contiguous(x=x, branch=branch, stream=stream, out=out, mean=mean, rstd=rstd)
        require_contiguous_runs(branch_bias=branch_bias, weight=weight, bias=bias)
        v = vector(width, x, branch, branch_bias, weight, bias, stream, out)
        lanes, packs = _row_shape(width, v)
        rows = batch * tokens
        parameters = [(optional(p), run_stride(p)) for p in (branch_bias, weight, bias)]
        args = (x, optional(branch), *parameters[0], *parameters[1], *parameters[2])
        kernel = expression("layer_norm", type_name(x), type_name(out), v, lanes, packs)
        grid = (-(-rows * lanes // BLOCK), runs, 1)
        self.launch(kernel, grid, (BLOCK, 1, 1), 0, (*args, stream, out, mean, rstd, i32(rows), i32(width)))

    def residual_layer_norm_backward(
        self,
        dout: Array,
        dstream: Array,
        stream: Array,
        weight: Array,
        mean: Array,
        rstd: Array,
        *,
        dweight: Array,
        dbias: Array,
        dbranch_bias: Array | None,
        dbranch: Array | None = None,
    ) -> None:
        """Add to `dstream` and compute the gradients of `weight`, `bias` and the bias of the branch in one pass.

        `dout` in T, `dstream` and `stream` in S. `dbranch` (in T), if given, is overwritten with the new `dstream`, as
        an operand of the products of the preceding branch.
        """
        runs, batch, tokens, width = dout.shape
        require_shape(dout.shape, dstream=dstream, stream=stream, dbranch=dbranch)
        require_shape((runs, width), weight=weight, dweight=dweight, dbias=dbias, dbranch_bias=dbranch_bias)
        require_shape((runs, batch, tokens), mean=mean, rstd=rstd)
        require_type(type_name(stream), dstream=dstream)
        require_type(type_name(dout), dbranch=dbranch)
        require_type("float", weight=weight, dweight=dweight, dbias=dbias, dbranch_bias=dbranch_bias)
        require_type("float", mean=mean, rstd=rstd)
        require_contiguous(dout=dout, dstream=dstream, stream=stream, mean=mean, rstd=rstd, dbranch=dbranch)
        require_contiguous_runs(weight=weight, dweight=dweight, dbias=dbias, dbranch_bias=dbranch_bias)
        v = vector(width, dout, dstream, stream, weight, dbranch)
        lanes, packs = _row_shape(width, v)
        rows = batch * tokens
        parts = max(1, min(-(-rows * lanes // BLOCK), -(-2 * self.multiprocessors // runs)))
        sums = self.scratch(runs * parts * 3 * width)
        kernel = expression("layer_norm_backward", type_name(stream), type_name(dout), v, lanes, packs)
        args = (dout, dstream, stream, weight, run_stride(weight), mean, rstd, optional(dbranch), sums)
        self.launch(kernel, (parts, runs, 1), (BLOCK, 1, 1), 0, (*args, i32(rows), i32(width)))
        self.sum_parts(sums, parts, width, dweight, dbias, dbranch_bias)

    def bias_gelu(self, x: Array, bias: Array, *, out: Array, derivative: bool) -> None:
        """Compute out = GELU(x + bias), exact, (R, B, N, F) in T, bias (R, F).

        With `derivative`, `x` is overwritten with GELU'(x + bias); without, `out` may be `x`.
        """
        runs, batch, tokens, width = x.shape
        require_shape(x.shape, out=out)
        require_shape((runs, width), bias=bias)
        require_type(type_name(x), out=out)
        require_type("float", bias=bias)
        require_contiguous(x=x, out=out)
        require_contiguous_runs(bias=bias)
        v, rows = vector(width, x, bias, out), batch * tokens
        kernel = expression("bias_gelu", type_name(x), v, derivative)
        args = (x, bias, run_stride(bias), out, u32(rows), i32(width))
        self.over_elements(kernel, rows * width // v, runs, args)

    def bias_gelu_backward(self, dy: Array, derivative: Array, *, dbias: Array) -> Array:
        """Compute dy *= derivative in T and its sum over tokens `dbias` (R, F) float32 in one pass."""
        runs, batch, tokens, width = dy.shape
        require_shape(dy.shape, derivative=derivative)
        require_shape((runs, width), dbias=dbias)
        require_type(type_name(dy), derivative=derivative)
        require_type("float", dbias=dbias)
        require_contiguous(dy=dy, derivative=derivative)
        require_contiguous_runs(dbias=dbias)
        v, rows = vector(width, dy, derivative), batch * tokens
        parts = self.parts(rows, width, runs)
        sums = self.scratch(runs * parts * width)
        kernel = expression("bias_gelu_backward", type_name(dy), v)
        self.over_columns(kernel, v, parts, width, runs, (dy, derivative, sums, i32(rows), i32(width)))
        self.sum_parts(sums, parts, width, dbias)
        return dy

    def dropout(
        self,
        x: Array,
        bias: Array | None,
        *,
        rate: float,
        path_rate: float,
        seeds: Array,
        step: Array,
        site: int,
        out: Array,
    ) -> None:
        """Compute `Ops.dropout` with Philox random numbers.

        x, out (R, B, N, D) in T (`out` may be `x`), bias (R, D) or None, seeds (R,) int64, step (1,) int32.
        """
        runs, batch, tokens, width = x.shape
        require_shape(x.shape, out=out)
        require_shape((runs, width), bias=bias)
        require_shape((runs,), seeds=seeds)
        require_type(type_name(x), out=out)
        require_contiguous(x=x, out=out, seeds=seeds, step=step)
        require_contiguous_runs(bias=bias)
        v = vector(width, x, bias, out)
        kernel = expression("dropout", type_name(x), v)
        draws = [(u32(round(p * 2**32)), f32(1 / (1 - p))) for p in (rate, path_rate)]
        args = (x, optional(bias), run_stride(bias), *draws[0], *draws[1], seeds, step, u32(site), out)
        sizes = (i32(batch), i32(tokens), i32(width))
        self.over_elements(kernel, batch * tokens * width // v, runs, (*args, *sizes))


def _row_shape(width: int, v: int) -> tuple[int, int]:
    """Return the threads per row and the packs per thread, for at most 24 elements per thread if possible, else 32."""
    if width > WIDTHS:
        raise ValueError(f"width must be at most {WIDTHS} with CUDA kernels, got {width}")
    lanes = next((lanes for lanes in (8, 16) if width <= 24 * lanes), 32)
    return lanes, -(-width // (lanes * v))
