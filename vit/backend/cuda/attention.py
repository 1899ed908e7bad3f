"""Attention kernels. H heads, K head width, T tokens (including a class token), N patches; others as in tokens.py.

`attention` and its backward are fused: they read the product of tokens and qkv weights, without bias, and compute
everything up to the next product (bias, scale, rotation, scores and their bias, softmax, weighted values). Scores are
not written to memory; the backward pass recomputes them with their log-sum-exp, and once more for the gradient of a
bias of the scores, which is summed over images. They support encodings that are fusible (see `BlockHook`). For others,
the steps are separate kernels: `qkv_bias`, a product, kernels that change the scores, `softmax`, a product; and
similarly backward.
"""

from math import prod
from typing import Any

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
    require_contiguous_tables,
    require_shape,
    require_type,
    run_stride,
    stride,
    type_name,
    vector,
)
from vit.backend.ops import Array

TOKENS = 256
"""Largest number of tokens that `attention` supports."""
HEAD_WIDTHS = tuple(range(16, 65, 8))
"""Head widths that `attention` supports."""
RESIDENT_BYTES = 64 << 10
"""Limit up to which backward keeps queries, keys, values and gradients of a head in shared memory together. Above it,
keys and values are loaded twice. GPUs with bf16 have at least 99 KiB per block."""
SOFTMAX_ITEMS = (1, 2, 4, 8, 16, 32)
"""Valid numbers of elements per thread in `softmax`."""


def fits(tokens: int, head_width: int) -> bool:
    """Return whether `attention` supports this number of tokens and head width."""
    return tokens <= TOKENS and head_width in HEAD_WIDTHS


class AttentionKernels(Launcher):
    """Fused attention, and its steps as separate kernels."""

    def attention(
        self,
        qkv: Array,
        bias: Array,
        scale: float,
        cos: Array | None,
        sin: Array | None,
        prefix: int,
        score_bias: Array | None,
        *,
        out: Array,
        logsumexp: Array,
    ) -> None:
        """Compute softmax(scale rot(q) rot(k)^T + score_bias) v for every head, with q, k, v = qkv + bias.

        `qkv` (R, B, T, 3, H, K) and `out` (R, B, T, H K) in the type of activations, `bias` (R, 3 H K) float32,
        `cos`, `sin` (R or 1, H or 1, N, K/2) float32 as in `Ops.qkv_bias_rotate`, with any stride between runs and
        heads, or None for no rotation; the first `prefix` tokens are not rotated. `score_bias` (R or 1, H, T, T) is
        float32, with any stride between runs, or None. Overwrites `out` and `logsumexp` (R, B, H, T) float32. Raises
        ValueError unless `fits`. bf16 products use tensor cores, with float32 sums and softmax.
        """
        forward = (qkv, bias, scale, cos, sin, prefix, score_bias)
        inputs = self._check_attention(forward, out, logsumexp)
        launch = _Shape(qkv, aligned(out))
        kernel, shared = launch.kernel("attention", biased=score_bias is not None), launch.shared(backward=False)
        self.launch(kernel, launch.grid, launch.block, shared, (*inputs, out, logsumexp, *launch.sizes))

    def attention_backward(
        self,
        dout: Array,
        qkv: Array,
        bias: Array,
        scale: float,
        cos: Array | None,
        sin: Array | None,
        prefix: int,
        score_bias: Array | None,
        out: Array,
        logsumexp: Array,
        *,
        dqkv: Array,
        dbias: Array,
        dscore_bias: Array | None,
    ) -> None:
        """Overwrite `dqkv` with the gradient of `qkv`, `dbias` (R, 3 H K) and, if given, `dscore_bias` (R, H, T, T).

        `dout` is (R, B, T, H K), `dbias` and `dscore_bias` are float32; the other arguments are those of `attention`,
        with its results.
        """
        forward = (qkv, bias, scale, cos, sin, prefix, score_bias)
        inputs = self._check_attention(forward, out, logsumexp)
        require_shape(out.shape, dout=dout)
        require_shape(qkv.shape, dqkv=dqkv)
        require_shape(bias.shape, dbias=dbias)
        require_type(type_name(qkv), dout=dout, dqkv=dqkv)
        require_type("float", dbias=dbias)
        require_contiguous(dout=dout, dqkv=dqkv)
        require_contiguous_runs(dbias=dbias)
        launch = _Shape(qkv, aligned(dout) and aligned(dqkv) and aligned(out))
        runs, columns = bias.shape
        count = qkv.shape[1] * launch.tiles
        sums = self.scratch(runs * count * columns)
        args = (dout, *inputs, out, logsumexp, dqkv, sums)
        residence = (i32(launch.resident),) if launch.tensor_cores else ()
        kernel = launch.kernel("attention", "_backward", biased=score_bias is not None)
        shared = launch.shared(backward=True)
        self.launch(kernel, launch.grid, launch.block, shared, (*args, *residence, *launch.sizes))
        self.sum_parts(sums, count, columns, dbias)
        if dscore_bias is not None:
            if score_bias is None:
                raise ValueError("score_bias must be given with dscore_bias")
            self._score_bias_gradient(launch, dout, inputs, out, logsumexp, dscore_bias)

    def _score_bias_gradient(
        self, launch: "_Shape", dout: Array, inputs: tuple[Any, ...], out: Array, logsumexp: Array, dscore_bias: Array
    ) -> None:
        """Overwrite `dscore_bias` (R, H, T, T): the blocks add the gradients of the scores of a part of the images."""
        runs, batch, heads, tokens = logsumexp.shape
        require_shape((runs, heads, tokens, tokens), dscore_bias=dscore_bias)
        require_type("float", dscore_bias=dscore_bias)
        require_contiguous_runs(dscore_bias=dscore_bias)
        tiles, columns = launch.tiles * -(-tokens // launch.keys), heads * tokens * tokens
        parts = max(1, min(batch, -(-2 * self.multiprocessors // (heads * tiles * runs))))
        sums = self.scratch(runs * parts * columns)
        args = (dout, *inputs, out, logsumexp, sums, i32(batch), *launch.sizes)
        grid, shared = (parts * heads, tiles, runs), launch.shared_for_score_bias
        self.launch(launch.kernel("score_bias_gradient"), grid, launch.block, shared, args)
        self.sum_parts(sums, parts, columns, dscore_bias)

    def _check_attention(self, forward: tuple[Any, ...], out: Array, logsumexp: Array) -> tuple[Any, ...]:
        """Check the arguments of both passes, and return those that all kernels of attention read.

        `forward` are the first seven of `attention`.
        """
        qkv, bias, scale, cos, sin, prefix, score_bias = forward
        runs, batch, tokens, _, heads, head_width = qkv.shape
        if not fits(tokens, head_width):
            raise ValueError(
                f"attention must have at most {TOKENS} tokens and a head width of {', '.join(map(str, HEAD_WIDTHS))}, "
                f"got {tokens} and {head_width}"
            )
        require_shape((runs, 3 * heads * head_width), bias=bias)
        require_shape((runs, batch, tokens, heads * head_width), out=out)
        require_shape((runs, batch, heads, tokens), logsumexp=logsumexp)
        require_type(type_name(qkv), out=out)
        require_type("float", bias=bias, logsumexp=logsumexp)
        require_contiguous(qkv=qkv, out=out, logsumexp=logsumexp)
        require_contiguous_runs(bias=bias)
        if not (aligned(qkv) and aligned(bias)):
            raise ValueError("attention: arrays must start at multiples of 16 bytes")
        if score_bias is not None:
            shared_by_runs = len(score_bias) == 1
            require_shape((1 if shared_by_runs else runs, heads, tokens, tokens), score_bias=score_bias)
            require_type("float", score_bias=score_bias)
            require_contiguous_runs(score_bias=score_bias)
        given = (optional(score_bias), run_stride(score_bias))
        return qkv, bias, run_stride(bias), *_turn(qkv, cos, sin, prefix), f32(scale), *given

    def qkv_bias(self, qkv: Array, bias: Array, scale: float) -> None:
        """Add bias (R, 3 H K) float32 to qkv (R, B, T, 3, H, K), then multiply queries by `scale`, in place."""
        self._bias_rotate(qkv, bias, scale, None, None, 0)

    def qkv_bias_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        """Multiply the gradients of queries by `scale`, in place; overwrite `dbias` (R, 3 H K) with the token sum."""
        self._bias_rotate_backward(dqkv, scale, None, None, 0, dbias)

    def qkv_bias_rotate(self, qkv: Array, bias: Array, scale: float, cos: Array, sin: Array, prefix: int) -> None:
        """Apply `qkv_bias`, then rotate pairs (2j, 2j+1) of queries and keys by the angles of `cos` and `sin`.

        `cos`, `sin` are (R or 1, H or 1, N, K/2) float32, with any stride between runs and heads.
        """
        self._bias_rotate(qkv, bias, scale, cos, sin, prefix)

    def _bias_rotate(
        self,
        qkv: Array,
        bias: Array,
        scale: float,
        cos: Array | None,
        sin: Array | None,
        prefix: int,
        turned: int | None = None,
    ) -> None:
        """Add the bias, scale and rotate, except queries and keys of tokens from `turned` on."""
        runs, batch, tokens, _, heads, head_width = qkv.shape
        columns, rows = 3 * heads * head_width, batch * tokens
        require_shape((runs, columns), bias=bias)
        require_contiguous_runs(bias=bias)
        turn, v = _turn(qkv, cos, sin, prefix), self._pairs(qkv, cos, bias)
        first_turned = i32(tokens if turned is None else turned)
        args = (qkv, bias, run_stride(bias), f32(scale), *turn, first_turned)
        sizes = (i32(rows), i32(tokens), i32(heads * head_width), i32(head_width))
        kernel = expression("qkv_bias", type_name(qkv), v)
        self.over_columns(kernel, v, self.parts(rows, columns, runs), columns, runs, (*args, *sizes))

    def qkv_bias_rotate_backward(
        self, dqkv: Array, scale: float, cos: Array, sin: Array, prefix: int, *, dbias: Array
    ) -> None:
        """Rotate by the opposite angles, then apply `qkv_bias_backward`."""
        self._bias_rotate_backward(dqkv, scale, cos, sin, prefix, dbias)

    def _bias_rotate_backward(
        self,
        dqkv: Array,
        scale: float,
        cos: Array | None,
        sin: Array | None,
        prefix: int,
        dbias: Array,
        turned: int | None = None,
    ) -> None:
        """Rotate back, scale the queries of tokens before `turned`, and sum over tokens into `dbias`."""
        runs, batch, tokens, _, heads, head_width = dqkv.shape
        columns, rows = 3 * heads * head_width, batch * tokens
        require_shape((runs, columns), dbias=dbias)
        require_contiguous_runs(dbias=dbias)
        turn, v = _turn(dqkv, cos, sin, prefix), self._pairs(dqkv, cos, None)
        parts = self.parts(rows, columns, runs)
        sums = self.scratch(runs * parts * columns)
        args = (dqkv, f32(scale), *turn, i32(tokens if turned is None else turned), sums)
        sizes = (i32(rows), i32(tokens), i32(heads * head_width), i32(head_width))
        kernel = expression("qkv_bias_backward", type_name(dqkv), v)
        self.over_columns(kernel, v, parts, columns, runs, (*args, *sizes))
        self.sum_parts(sums, parts, columns, dbias)

    def _pairs(self, qkv: Array, cos: Array | None, bias: Array | None) -> int:
        """Return the elements per vector load, at least 2 with a rotation, which changes pairs."""
        heads, head_width = qkv.shape[4:]
        require_type("float", bias=bias)
        require_contiguous(qkv=qkv)
        v = vector(3 * heads * head_width, qkv, bias)
        return 2 if v == 1 and cos is not None else v

    def softmax(self, x: Array) -> Array:
        """Overwrite `x`, float32 or bf16, with its softmax over the last axis (up to 1024 elements)."""
        self._over_rows("softmax", x)
        return x

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        """Overwrite `dy` with y (dy - sum(dy y))."""
        require_shape(dy.shape, y=y)
        require_type(type_name(dy), y=y)
        self._over_rows("softmax_backward", dy, y)
        return dy

    def _over_rows(self, kernel: str, *arrays: Array) -> None:
        width, rows = arrays[0].shape[-1], prod(arrays[0].shape[:-1])
        for array in arrays:
            require_contiguous(**{kernel: array})
        if width > 32 * SOFTMAX_ITEMS[-1]:
            raise ValueError(f"{kernel}: rows must have at most {32 * SOFTMAX_ITEMS[-1]} elements, got {width}")
        items = next(items for items in SOFTMAX_ITEMS if width <= 32 * items)
        grid = (-(-rows // (BLOCK // 32)), 1, 1)
        name = expression(kernel, type_name(arrays[0]), items)
        self.launch(name, grid, (BLOCK, 1, 1), 0, (*arrays, np.int64(rows), i32(width)))


def _turn(qkv: Array, cos: Array | None, sin: Array | None, prefix: int) -> tuple[Any, ...]:
    """Check the tables of a rotation, and return the members of `Rotation` in heads.cuh."""
    if cos is not None and sin is not None:
        runs, _, tokens, _, heads, head_width = qkv.shape
        if len(cos) not in (1, runs) or cos.shape[1] not in (1, heads):
            raise ValueError(f"cos must be of 1 or {runs} runs and 1 or {heads} heads, got {tuple(cos.shape)}")
        require_shape((*cos.shape[:2], tokens - prefix, head_width // 2), cos=cos, sin=sin)
        require_type("float", cos=cos, sin=sin)
        require_contiguous_tables(cos=cos, sin=sin)
        if any(stride(cos, axis) != stride(sin, axis) for axis in (0, 1)):
            raise ValueError(f"cos and sin must have the same strides, got {cos.strides} and {sin.strides}")
    return optional(cos), optional(sin), stride(cos, 0), stride(cos, 1), i32(prefix)


class _Shape:
    """Division of fused attention into blocks; see attention_float.cu and attention_tensor.cu."""

    def __init__(self, qkv: Array, others_aligned: bool) -> None:
        runs, batch, tokens, _, heads, head_width = qkv.shape
        if not others_aligned:
            raise ValueError("attention: arrays must start at multiples of 16 bytes")
        self.tensor_cores = type_name(qkv) == "bf16"
        self.width, self.padded = -(-head_width // 16) * 16, -(-tokens // 16) * 16
        most = 128 if self.tensor_cores else 64
        self.tiles = -(-tokens // most)
        warps = -(-self.padded // (16 * self.tiles)) if self.tensor_cores else 8
        self.block = (32 * warps, 1, 1)
        self.grid = (batch * heads, self.tiles, runs)
        self.sizes = (i32(tokens), i32(heads), i32(head_width))
        self.resident = 4 * self.padded * 2 * (self.width + 8) <= RESIDENT_BYTES

    def kernel(self, name: str, suffix: str = "", *, biased: bool | None = None) -> str:
        given = () if biased is None else (biased,)
        if self.tensor_cores:
            return expression(f"{name}_tensor{suffix}", self.width, *given)
        return expression(f"{name}_float{suffix}", self.width // 16, *given)

    def shared(self, *, backward: bool) -> int:
        """Return the bytes of dynamic shared memory."""
        if not self.tensor_cores:
            return 2 * 64 * self.width * 4
        row = 2 * (self.width + 8)
        if backward:
            return (4 if self.resident else 2) * self.padded * row + 2 * self.padded * 4
        return (2 * self.padded + self.block[0] // 2) * row

    @property
    def keys(self) -> int:
        """Keys per block of the gradient of a bias of scores."""
        return 128 if self.tensor_cores else 32

    @property
    def shared_for_score_bias(self) -> int:
        """Bytes of dynamic shared memory of the gradient of a bias of scores."""
        if not self.tensor_cores:
            return 2 * self.keys * self.width * 4
        threads = self.block[0]
        return (threads + 2 * min(self.keys, self.padded)) * 2 * (self.width + 8) + threads * 4
