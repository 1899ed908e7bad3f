"""Attention's kernels. H heads, K head width, T tokens (a class token included), N patches; otherwise as cuda_tokens.

`attention` and its backward read the bare product of tokens and qkv weights and do all between it and the next
product: bias, scale, rotation, scores, softmax, mixing. Scores never leave the chip, and backward recomputes them from
their log-sum-exp. They serve positions that are the identity on scores and rotate by tables or not at all. For any
other position the steps are kernels of their own: `qkv_bias` (or the position's own hook), a product, the
position's `add_to_scores`, `softmax`, a product; and backward likewise.
"""

from vit.backend.cuda_launch import Launcher
from vit.backend.ops import Array

TOKENS = 256
"""`attention` serves up to so many."""
HEAD_WIDTHS = tuple(range(16, 65, 8))
"""Head widths that `attention` serves."""


def fits(tokens: int, head_width: int) -> bool:
    """Whether `attention` serves such a model."""
    return tokens <= TOKENS and head_width in HEAD_WIDTHS


class AttentionKernels(Launcher):
    """Fused attention, and its steps one by one."""

    def attention(
        self,
        qkv: Array,
        bias: Array,
        scale: float,
        cos: Array | None,
        sin: Array | None,
        prefix: int,
        *,
        out: Array,
        logsumexp: Array,
    ) -> None:
        """softmax(scale rot(q) rot(k)^T) v for every head, from q, k, v = qkv + bias.

        `qkv` (R, B, T, 3, H, K) and `out` (R, B, T, H K) in the type of activations, `bias` (R, 3 H K) float32,
        `cos`, `sin` (N, K/2) float32 as in `Ops.qkv_bias_rotate`, or None for no rotation; the first `prefix` tokens
        do not turn. Overwrites `out` and `logsumexp` (R, B, H, T) float32. Raises ValueError where not `fits`.
        float32 computes with FMA; bf16 multiplies on tensor cores, with float32 sums and softmax.
        """
        raise NotImplementedError

    def attention_backward(
        self,
        dout: Array,
        qkv: Array,
        bias: Array,
        scale: float,
        cos: Array | None,
        sin: Array | None,
        prefix: int,
        out: Array,
        logsumexp: Array,
        *,
        dqkv: Array,
        dbias: Array,
    ) -> None:
        """Overwrites `dqkv` (as `qkv`) with the gradient of the bare product, and `dbias` (R, 3 H K) float32.

        `dout` (R, B, T, H K); the others as `attention` had and left them.
        """
        raise NotImplementedError

    def qkv_bias(self, qkv: Array, bias: Array, scale: float) -> None:
        """In place on qkv (R, B, T, 3, H, K): adds bias (R, 3 H K) float32, then multiplies queries by `scale`."""
        raise NotImplementedError

    def qkv_bias_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        """In place: multiplies the queries' gradients by `scale`; `dbias` (R, 3 H K) is the sum over tokens."""
        raise NotImplementedError

    def qkv_bias_rotate(self, qkv: Array, bias: Array, scale: float, cos: Array, sin: Array, prefix: int) -> None:
        """`qkv_bias`, then pairs (2j, 2j+1) of queries and keys of patch n turn by the angle of cos, sin (N, K/2)."""
        raise NotImplementedError

    def qkv_bias_rotate_backward(
        self, dqkv: Array, scale: float, cos: Array, sin: Array, prefix: int, *, dbias: Array
    ) -> None:
        """Turns back, then `qkv_bias_backward`."""
        raise NotImplementedError

    def softmax(self, x: Array) -> Array:
        """Over the last axis (up to 1024), in place, float32 or bf16."""
        raise NotImplementedError

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        """Overwrites `dy` with y (dy - sum(dy y))."""
        raise NotImplementedError
