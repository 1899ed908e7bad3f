"""Kernels on tokens: biases, sums, copies, layer normalisation, GELU. Methods are those of `Ops`, which has the formulas.

Shapes: R runs, B images, N tokens, D width, F hidden width, C classes. "T" is the type of activations, float32 or
bf16; "S" that of the residual stream, T or float32. Parameters, their gradients and statistics are float32. Sums are
accumulated in float32 and in an order that depends on shapes only: the same bits again.
Activations are contiguous; parameters and gradients are (R, ...) views of any stride between runs.
"""

from vit.backend.cuda_launch import Launcher
from vit.backend.ops import Array


class TokenKernels(Launcher):
    """Everything between the products but attention."""

    def patchify(self, images: Array, patch: int, out: Array) -> Array:
        """Images (R, B, h, w, C) float32, already normalised, to patches (R, B, N, C p p) in T."""
        raise NotImplementedError

    def add_bias(self, x: Array, bias: Array) -> Array:
        """x (R, B, N, D) in T += bias (R, D) float32."""
        raise NotImplementedError

    def add_table(self, x: Array, table: Array) -> None:
        """x (R, B, N, D) in T += table (R or 1, N, D) float32."""
        raise NotImplementedError

    def sum_tokens(self, dy: Array, out: Array) -> Array:
        """dy (R, B, N, D) in T to out (R, D) float32."""
        raise NotImplementedError

    def sum_images(self, dy: Array, out: Array) -> None:
        """dy (R, B, N, D) in T to out (R, N, D) float32."""
        raise NotImplementedError

    def mean_tokens(self, x: Array, out: Array) -> None:
        """x (R, B, N, D) in T to out (R, B, D) in T."""
        raise NotImplementedError

    def mean_tokens_backward(self, dy: Array, out: Array) -> None:
        """dy (R, B, D) in T to out (R, B, N, D) in T."""
        raise NotImplementedError

    def copy_tokens(self, source: Array, out: Array) -> None:
        """source (R, B or 1, n, D) to out (R, B, n, D), each float32 or bf16, of any strides but the last axis'."""
        raise NotImplementedError

    def cast(self, x: Array, out: Array) -> None:
        """A contiguous array in float32 or bf16 to another of the same size in the other type, or in the same."""
        raise NotImplementedError

    def fill(self, out: Array, value: float) -> None:
        """Every element of a contiguous array, float32 or bf16."""
        raise NotImplementedError

    def add(self, x: Array, y: Array) -> None:
        """x += y, contiguous, of one type."""
        raise NotImplementedError

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
        """One pass: stream = x + branch + branch_bias; out = LayerNorm(stream).

        `x` and `stream` (R, B, N, D) in S (`stream` may be `x`; it is not written where `branch` is None), `branch`
        and `out` in T, `mean`, `rstd` (R, B, N) and parameters (R, D) float32. D up to 1024.
        """
        raise NotImplementedError

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
        """One pass: adds to `dstream`, and sums the gradients of `weight`, `bias` and of the bias of the branch.

        `dout` in T, `dstream` and `stream` in S. Where S is float32 and T bf16, `dbranch` (in T) gets a copy of the
        final `dstream`, for the products of the branch before.
        """
        raise NotImplementedError

    def bias_gelu(self, x: Array, bias: Array, *, out: Array, derivative: bool) -> None:
        """out = GELU(x + bias), exact; with `derivative`, x becomes GELU'(x + bias). (R, B, N, F) in T, bias (R, F).

        `out` may be `x` without `derivative`.
        """
        raise NotImplementedError

    def bias_gelu_backward(self, dy: Array, derivative: Array, *, dbias: Array) -> Array:
        """dy *= derivative in T, and its sum over tokens in `dbias` (R, F) float32, in one pass."""
        raise NotImplementedError

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
        """out = (x + bias) * keep, keep of an element 0 with probability `rate`, else 1 / (1 - rate), times the same
        of a whole image with `path_rate`. x, out (R, B, N, D) in T (`out` may be `x`), bias (R, D) or None.

        Draws are Philox's, addressed by seeds (R,) int64, the counter step (1,) int32 and `site`, a number of the
        place in the model: the same call on a gradient, without bias, is the backward pass.
        """
        raise NotImplementedError
