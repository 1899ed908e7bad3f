"""Every array operation of a Vision Transformer, forward and backward, on NumPy or CuPy arrays.

`Ops` is the readable reference: each method is the formula, written once against `xp` (the numpy or cupy module). The
backends override what is worth fusing and are tested against it.

Shapes: R runs, B images, N tokens, D width, H heads, K head width, F hidden width, C classes, P parameters. Arrays of
activations are C-contiguous (R, B, N, D) unless a docstring says "view". Parameters are (R, ...) views into (R, P).

A backend may keep what matrix products read in a narrower type (bf16) than everything else: such arrays are "operands"
in a docstring. Here both types are the same.

Rules: an argument named `out`, or named in the docstring's "Overwrites", is written; nothing else is. Gradients are
overwritten, not accumulated, unless the docstring says "adds".
"""

import math
from types import ModuleType
from typing import Any, TypeAlias

Array: TypeAlias = Any
"""A numpy.ndarray or a cupy.ndarray."""

LAYER_NORM_EPSILON = 1e-6


class Ops:
    """The operations on one array module `xp` in one floating-point type."""

    name = "reference"

    def __init__(self, xp: ModuleType, dtype: str = "float32") -> None:
        self.xp = xp
        self.dtype = xp.dtype(dtype)

    # Arrays

    def asarray(self, array: Array) -> Array:
        """`array` on this backend's device: floating point in this backend's type, anything else as it is."""
        array = self.xp.asarray(array)
        return array.astype(self.dtype, copy=False) if array.dtype.kind == "f" else array

    def to_numpy(self, array: Array) -> Array:
        """A NumPy copy of `array`."""
        return self.xp.array(array)

    def empty(self, shape: tuple[int, ...]) -> Array:
        return self.xp.empty(shape, dtype=self.dtype)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return self.xp.zeros(shape, dtype=self.dtype)

    rounds_operands = False
    """Whether operands have a narrower type than `dtype`."""

    def empty_operand(self, shape: tuple[int, ...]) -> Array:
        """An array of the type that products read."""
        return self.empty(shape)

    def round_operand(self, x: Array, out: Array) -> None:
        """Overwrites the operand `out` with `x`, of the same shape, rounded to its type."""
        out[...] = x

    # Products

    def matmul(
        self, a: Array, b: Array, *, trans_a: bool = False, trans_b: bool = False, out: Array | None = None
    ) -> Array:
        """Matrix products over the last two axes of `a` and `b`, views allowed, either one transposed."""
        if trans_a:
            a = a.swapaxes(-1, -2)
        if trans_b:
            b = b.swapaxes(-1, -2)
        return self.xp.matmul(a, b, out=out)

    # Patches and tokens

    def patchify(self, images: Array, patch: int, out: Array) -> Array:
        """Images (R, B, h, w, C) to flattened patches (R, B, N, C p p), row by row; channels slowest within one."""
        runs, batch, height, width, channels = images.shape
        rows, columns = height // patch, width // patch
        grid = images.reshape(runs, batch, rows, patch, columns, patch, channels)
        out.reshape(runs, batch, rows, columns, channels, patch, patch)[...] = grid.transpose(0, 1, 2, 4, 6, 3, 5)
        return out

    def add_bias(self, x: Array, bias: Array) -> Array:
        """Adds (R, D) `bias` to every token. Overwrites `x` (R, B, N, D)."""
        x += bias[:, None, None, :]
        return x

    def sum_tokens(self, dy: Array, out: Array) -> Array:
        """Gradient of a bias: (R, B, N, D) summed over images and tokens to (R, D)."""
        return self.xp.sum(dy, axis=(1, 2), out=out)

    def add_table(self, x: Array, table: Array) -> None:
        """Adds a table (R or 1, N, D) to the tokens of every image. Overwrites `x` (R, B, N, D)."""
        x += table[:, None]

    def sum_images(self, dy: Array, out: Array) -> None:
        """Gradient of a table: (R, B, N, D) summed over images to (R, N, D)."""
        self.xp.sum(dy, axis=1, out=out)

    def mean_tokens(self, x: Array, out: Array) -> None:
        """Mean over tokens: (R, B, N, D) to (R, B, D)."""
        self.xp.mean(x, axis=2, out=out)

    def mean_tokens_backward(self, dy: Array, out: Array) -> None:
        """(R, B, D) to (R, B, N, D): each token gets its share."""
        self.xp.multiply(dy[:, :, None], 1 / out.shape[2], out=out)

    def copy_tokens(self, source: Array, out: Array) -> None:
        """Copies tokens between views (R, B, n, D) of whole images' rows; `source` may be broadcast over images."""
        out[...] = source

    def fill(self, out: Array, value: float) -> None:
        """Sets every element of a contiguous array."""
        out[...] = value

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
        """out = (x + bias) keep, (R, B, N, D): keep of an element is 0 with probability `rate`, else 1 / (1 - rate),
        times the same of a whole image with `path_rate`.

        Drawn on the device from seeds (R,), the counter step (1,) and `site`, a number of the place in the model; the
        same address gives the same draws, so a call on the gradient, without bias, is the backward pass. Only where
        a graph of the device calls for it: elsewhere the host draws.
        """
        raise NotImplementedError(f"dropout: the {self.name} backend draws on the host")

    # Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over a residual stream

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
        """The stream after a residual branch, and its layer normalisation.

        stream = x + branch + branch_bias (stream = x, not copied, where `branch` is None; `stream` may be `x`);
        out = (stream - mean) * rstd * weight + bias, with rstd = (variance + 1e-6)^-1/2.
        Overwrites `stream`, `out` (R, B, N, D), `mean`, `rstd` (R, B, N).
        """
        if branch is not None:
            self.xp.add(x, branch, out=stream)
            stream += branch_bias[:, None, None, :]  # type: ignore[index]
        mean[...] = stream.mean(axis=-1)
        rstd[...] = 1 / self.xp.sqrt(stream.var(axis=-1) + LAYER_NORM_EPSILON)
        self.xp.subtract(stream, mean[..., None], out=out)
        out *= rstd[..., None]
        out *= weight[:, None, None, :]
        out += bias[:, None, None, :]

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
    ) -> None:
        """Adds to `dstream` what reaches the stream through the norm; it is then the gradient of x and of branch.

        With g = dout * weight and y = (stream - mean) rstd: dstream += rstd (g - mean(g) - y mean(g y)).
        Overwrites `dweight`, `dbias` and, where there was a branch, `dbranch_bias` (R, D).
        """
        normal = (stream - mean[..., None]) * rstd[..., None]
        dnormal = dout * weight[:, None, None, :]
        self.xp.sum(dout * normal, axis=(1, 2), out=dweight)
        self.xp.sum(dout, axis=(1, 2), out=dbias)
        projection = (dnormal * normal).mean(axis=-1, keepdims=True)
        dstream += rstd[..., None] * (dnormal - dnormal.mean(axis=-1, keepdims=True) - normal * projection)
        if dbranch_bias is not None:
            self.xp.sum(dstream, axis=(1, 2), out=dbranch_bias)

    def residual_layer_norm_backward_rounded(
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
        rounded: Array,
    ) -> None:
        """`residual_layer_norm_backward`, and overwrites the operand `rounded` with the new `dstream`."""
        self.residual_layer_norm_backward(
            dout, dstream, stream, weight, mean, rstd, dweight=dweight, dbias=dbias, dbranch_bias=dbranch_bias
        )
        self.round_operand(dstream, rounded)

    # GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415), exact: x Phi(x), Phi the normal distribution function

    def erf(self, x: Array) -> Array:
        if self.xp.__name__ == "cupy":
            from cupyx.scipy.special import erf
        else:
            from scipy.special import erf
        return erf(x)

    def bias_gelu(self, x: Array, bias: Array, *, out: Array, derivative: bool) -> None:
        """out = GELU(x + bias). With `derivative`, overwrites `x` with GELU'(x + bias), which is all backward needs.

        GELU'(u) = Phi(u) + u phi(u), phi the normal density. `out` may be `x` without `derivative`.
        """
        u = x + bias[:, None, None, :]
        cdf = 0.5 * (1 + self.erf(u * math.sqrt(0.5)))
        self.xp.multiply(u, cdf, out=out)
        if derivative:
            density = self.xp.exp(-0.5 * u * u) * (1 / math.sqrt(2 * math.pi))
            self.xp.add(cdf, u * density, out=x)

    def bias_gelu_backward(self, dy: Array, derivative: Array, *, dbias: Array) -> Array:
        """Overwrites `dy` with the gradient of x, dy * derivative, and `dbias` (R, F) with its sum over tokens."""
        dy *= derivative
        self.sum_tokens(dy, out=dbias)
        return dy

    # Attention (Vaswani et al. 2017, arXiv 1706.03762)

    def qkv_bias(self, qkv: Array, bias: Array, scale: float) -> None:
        """Adds `bias` (R, 3 H K) to `qkv` (R, B, N, 3, H, K) in place, then multiplies the queries by `scale`."""
        runs, *_, heads, head_width = qkv.shape
        qkv += bias.reshape(runs, 1, 1, 3, heads, head_width)
        qkv[:, :, :, 0] *= scale

    def qkv_bias_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        """Overwrites `dqkv` with the gradient before `qkv_bias`, and `dbias` with its sum over tokens."""
        dqkv[:, :, :, 0] *= scale
        self.sum_tokens(dqkv.reshape(*dqkv.shape[:3], -1), out=dbias)

    def qkv_bias_rotate(self, qkv: Array, bias: Array, scale: float, cos: Array, sin: Array, prefix: int) -> None:
        """`qkv_bias`, then every pair of channels (2j, 2j+1) of the queries and keys of patch n turns by an angle.

        `cos`, `sin` (N, K/2) are those of the angles; (a, b) becomes (a cos - b sin, a sin + b cos). The first
        `prefix` tokens do not turn. In place.
        """
        self.qkv_bias(qkv, bias, scale)
        self._rotate(qkv[:, :, prefix:, :2], cos, sin)

    def qkv_bias_rotate_backward(
        self, dqkv: Array, scale: float, cos: Array, sin: Array, prefix: int, *, dbias: Array
    ) -> None:
        """Turns back by the same angles, then `qkv_bias_backward`."""
        self._rotate(dqkv[:, :, prefix:, :2], cos, -sin)
        self.qkv_bias_backward(dqkv, scale, dbias=dbias)

    def _rotate(self, x: Array, cos: Array, sin: Array) -> None:
        cos, sin = cos[:, None, None, :], sin[:, None, None, :]
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = even * cos - odd * sin
        odd[...] = even * sin + odd * cos
        even[...] = turned

    def fuses_attention(self, tokens: int, head_width: int) -> bool:
        """Whether the layers call `attention` for such heads, rather than products and a softmax."""
        return False

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
        """`qkv_bias_rotate` (no rotation where `cos` is None) and out = softmax(q k^T) v for every head.

        `qkv` (R, B, N, 3, H, K) is the bare product and stays so. Overwrites `out` (R, B, N, H K) and `logsumexp`
        (R, B, H, N), that of each row of scores (Dao et al. 2022, arXiv 2205.14135).
        """
        q, k, v = self._by_head(self._biased(qkv, bias, scale, cos, sin, prefix))
        scores = self.matmul(q, k, trans_b=True)
        top = scores.max(axis=-1)
        logsumexp[...] = top + self.xp.log(self.xp.exp(scores - top[..., None]).sum(axis=-1))
        mixed = self.matmul(self.xp.exp(scores - logsumexp[..., None]), v)
        out.reshape(*qkv.shape[:3], *qkv.shape[4:]).swapaxes(2, 3)[...] = mixed

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
        """Overwrites `dqkv` (R, B, N, 3, H, K), the gradient of the bare product, and `dbias` (R, 3 H K)."""
        q, k, v = self._by_head(self._biased(qkv, bias, scale, cos, sin, prefix))
        dq, dk, dv = self._by_head(dqkv)
        heads = (*qkv.shape[:3], *qkv.shape[4:])
        dmixed, mixed = (x.reshape(heads).swapaxes(2, 3) for x in (dout, out))
        probabilities = self.xp.exp(self.matmul(q, k, trans_b=True) - logsumexp[..., None])
        dscores = self.matmul(dmixed, v, trans_b=True) - (dmixed * mixed).sum(axis=-1, keepdims=True)
        dscores *= probabilities
        dq[...] = self.matmul(dscores, k)
        dk[...] = self.matmul(dscores, q, trans_a=True)
        dv[...] = self.matmul(probabilities, dmixed, trans_a=True)
        if cos is None:
            self.qkv_bias_backward(dqkv, scale, dbias=dbias)
        else:
            self.qkv_bias_rotate_backward(dqkv, scale, cos, sin, prefix, dbias=dbias)

    def _biased(
        self, qkv: Array, bias: Array, scale: float, cos: Array | None, sin: Array | None, prefix: int
    ) -> Array:
        qkv = qkv.copy()
        if cos is None:
            self.qkv_bias(qkv, bias, scale)
        else:
            self.qkv_bias_rotate(qkv, bias, scale, cos, sin, prefix)
        return qkv

    def _by_head(self, qkv: Array) -> tuple[Array, ...]:
        """Queries, keys and values as views (R, B, H, N, K)."""
        return tuple(qkv[:, :, :, i].swapaxes(2, 3) for i in range(3))

    def softmax(self, x: Array) -> Array:
        """Softmax over the last axis. Overwrites `x`."""
        x -= x.max(axis=-1, keepdims=True)
        self.xp.exp(x, out=x)
        x /= x.sum(axis=-1, keepdims=True)
        return x

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        """Overwrites `dy` with y (dy - sum(dy y)), the gradient through y = softmax(x)."""
        dy -= (dy * y).sum(axis=-1, keepdims=True)
        dy *= y
        return dy

    # Loss

    def cross_entropy(self, logits: Array, targets: Array, scale: float, *, losses: Array, dlogits: Array) -> None:
        """Cross-entropy of softmax(logits) with soft targets that sum to one, (R, B, C).

        Overwrites `losses` (R, B), and `dlogits` with the gradient of `scale` times their sum,
        scale (softmax - targets).
        """
        shifted = logits - logits.max(axis=-1, keepdims=True)
        exponentials = self.xp.exp(shifted)
        total = exponentials.sum(axis=-1, keepdims=True)
        self.xp.divide(exponentials, total, out=dlogits)
        dlogits -= targets
        dlogits *= scale
        losses[...] = self.xp.log(total[..., 0]) - (targets * shifted).sum(axis=-1)

    # Optimisation

    def add(self, x: Array, y: Array) -> None:
        """x += y, any shape."""
        x += y

    def sum_of_squares(self, x: Array) -> Array:
        """(R, P) to (R,), accumulated in float64."""
        return self.xp.sum(self.xp.square(x, dtype="float64"), axis=1)

    def adamw(
        self,
        parameters: Array,
        gradient: Array,
        first: Array,
        second: Array,
        *,
        gradient_scale: Array,
        rate: Array,
        decay: Array,
        betas: tuple[float, float],
        epsilon: float,
        step: int,
    ) -> None:
        """One step of AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) on slices (R, p) of the flat arrays.

        g = gradient * gradient_scale; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
        parameters = parameters (1 - rate decay) - rate mhat / (sqrt(vhat) + epsilon), hats corrected for `step`
        (1 for the first). `gradient_scale`, `rate`, `decay` are (R,) in float64. Overwrites all but `gradient`.
        """
        beta1, beta2 = betas
        g = gradient * gradient_scale[:, None].astype(self.dtype)
        first *= beta1
        first += (1 - beta1) * g
        second *= beta2
        second += (1 - beta2) * g * g
        denominator = self.xp.sqrt(second) * (1 / math.sqrt(1 - beta2**step)) + epsilon
        parameters *= (1 - rate * decay)[:, None].astype(self.dtype)
        parameters -= (rate / (1 - beta1**step))[:, None].astype(self.dtype) * first / denominator
