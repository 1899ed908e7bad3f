"""Array operations of a Vision Transformer, forward and backward, on NumPy or CuPy arrays.

`Ops` is the reference implementation: each method is the formula, written for `xp` (the numpy or cupy module). The
backends override methods with fused versions, which are tested against it.

Shapes: R runs, B images, N tokens, D width, H heads, K head width, F hidden width, C classes, P parameters. Arrays of
activations are C-contiguous (R, B, N, D) unless a docstring says "view". Parameters are (R, ...) views into (R, P).

Arrays that matrix products read are called operands. A backend may store them in a narrower type (bf16) than the
parameters. Here both types are the same.

Conventions: a method writes only to `out` and to the arguments that its docstring names as changed. Gradients are
overwritten, not accumulated, unless the docstring says "add".
"""

import inspect
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, TypeAlias

Array: TypeAlias = Any
"""A numpy.ndarray or a cupy.ndarray."""

LAYER_NORM_EPSILON = 1e-6


class Ops:
    """Operations on arrays of the module `xp` in one floating-point type."""

    name = "reference"

    def __init__(self, xp: ModuleType, dtype: str = "float32") -> None:
        self.xp = xp
        self.dtype = xp.dtype(dtype)

    # Arrays

    def asarray(self, array: Array) -> Array:
        """Return `array` on the device of the backend. Floating-point arrays are converted to `dtype`."""
        array = self.xp.asarray(array)
        return array.astype(self.dtype, copy=False) if array.dtype.kind == "f" else array

    def to_numpy(self, array: Array) -> Array:
        """Return a NumPy copy of `array`."""
        return self.xp.array(array)

    def empty(self, shape: tuple[int, ...]) -> Array:
        return self.xp.empty(shape, dtype=self.dtype)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return self.xp.zeros(shape, dtype=self.dtype)

    rounds_operands = False
    """Whether operands have a narrower type than `dtype`."""

    def empty_operand(self, shape: tuple[int, ...]) -> Array:
        """Return an uninitialised array in the type of operands."""
        return self.empty(shape)

    def round_operand(self, x: Array, out: Array) -> None:
        """Overwrite the operand `out` with `x`, of the same shape, rounded to the type of operands."""
        out[...] = x

    # Products

    def matmul(
        self, a: Array, b: Array, *, trans_a: bool = False, trans_b: bool = False, out: Array | None = None
    ) -> Array:
        """Return matrix products over the last two axes of `a` and `b`, each optionally transposed. Views are valid."""
        if trans_a:
            a = a.swapaxes(-1, -2)
        if trans_b:
            b = b.swapaxes(-1, -2)
        return self.xp.matmul(a, b, out=out)

    # Patches and tokens

    def patchify(self, images: Array, patch: int, out: Array) -> Array:
        """Cut images (R, B, h, w, channels) into flattened patches `out` (R, B, N, channels p p).

        Patches are in row-major order; within a patch, the order is (channel, row, column).
        """
        runs, batch, height, width, channels = images.shape
        rows, columns = height // patch, width // patch
        grid = images.reshape(runs, batch, rows, patch, columns, patch, channels)
        out.reshape(runs, batch, rows, columns, channels, patch, patch)[...] = grid.transpose(0, 1, 2, 4, 6, 3, 5)
        return out

    def add_bias(self, x: Array, bias: Array) -> Array:
        """Add `bias` (R, D) to every token of `x` (R, B, N, D), in place."""
        x += bias[:, None, None, :]
        return x

    def sum_tokens(self, dy: Array, out: Array) -> Array:
        """Sum `dy` (R, B, N, D) over images and tokens into `out` (R, D), the gradient of a bias."""
        return self.xp.sum(dy, axis=(1, 2), out=out)

    def add_table(self, x: Array, table: Array) -> None:
        """Add a table (R or 1, N, D) to the tokens of every image of `x` (R, B, N, D), in place."""
        x += table[:, None]

    def sum_images(self, dy: Array, out: Array) -> None:
        """Sum `dy` (R, B, N, D) over images into `out` (R, N, D), the gradient of a table."""
        self.xp.sum(dy, axis=1, out=out)

    def mean_tokens(self, x: Array, out: Array) -> None:
        """Compute the mean of `x` (R, B, N, D) over tokens into `out` (R, B, D)."""
        self.xp.mean(x, axis=2, out=out)

    def mean_tokens_backward(self, dy: Array, out: Array) -> None:
        """Distribute `dy` (R, B, D), divided by N, to all tokens of `out` (R, B, N, D)."""
        self.xp.multiply(dy[:, :, None], 1 / out.shape[2], out=out)

    def copy_tokens(self, source: Array, out: Array) -> None:
        """Copy tokens between views (R, B, n, D) whose rows are contiguous; `source` may be broadcast over images."""
        out[...] = source

    def fill(self, out: Array, value: float) -> None:
        """Set all elements of a contiguous array to `value`."""
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
        """Compute out = (x + bias) * keep, (R, B, N, D), with random numbers drawn on the device.

        `keep` is the product of two factors: 0 with probability `rate` per element, else 1 / (1 - rate); and 0 with
        probability `path_rate` per image, else 1 / (1 - path_rate). The random numbers depend only on `seeds` (R,), the
        counter `step` (1,) and `site`, which identifies the layer. So the same call on a gradient, without bias, is
        the backward pass. Only backends that draw on the device implement it.
        """
        raise NotImplementedError(f"the {self.name} backend does not draw dropout masks on the device")

    # Convolution of patch tokens (conditional positional encodings, Chu et al. 2021, arXiv 2102.10882)

    def add_branch(self, stream: Array, branch: Array, bias: Array, out: Array) -> None:
        """Compute out = stream + branch + bias, (R, B, N, D) with `bias` (R, D)."""
        self.xp.add(stream, branch, out=out)
        out += bias[:, None, None, :]

    def add_depthwise_conv(self, x: Array, weight: Array, bias: Array, prefix: int, out: Array) -> None:
        """Compute out = x + conv(x) + bias for the patches of `x` (R, B, N, D); out = x for the first `prefix` tokens.

        `weight` (R, D, 1, 3, 3) is one 3 x 3 kernel per channel; patches outside the grid count as zero. As
        `torch.nn.Conv2d(D, D, 3, padding=1, groups=D)`, a kernel is not flipped. `bias` is (R, D).
        """
        out[...] = x
        for shifted, kernel, target in self._neighbours(x, weight, out, prefix):
            target += shifted * kernel
        out[:, :, prefix:] += bias[:, None, None, :]

    def add_depthwise_conv_backward(
        self, dy: Array, x: Array, weight: Array, prefix: int, *, out: Array, dweight: Array, dbias: Array
    ) -> None:
        """Overwrite `out` with the gradient of `x`, given that of the result, and `dweight` and `dbias`."""
        out[...] = dy
        for dtarget, kernel, dshifted in self._neighbours(dy, weight[..., ::-1, ::-1], out, prefix):
            dshifted += dtarget * kernel
        taps = [
            (shifted * dtarget).sum(axis=(1, 2, 3)) for shifted, _, dtarget in self._neighbours(x, weight, dy, prefix)
        ]
        dweight.reshape(*dweight.shape[:2], 9)[...] = self.xp.stack(taps, axis=-1)
        self.xp.sum(dy[:, :, prefix:], axis=(1, 2), out=dbias)

    def _neighbours(self, x: Array, weight: Array, out: Array, prefix: int) -> Iterator[tuple[Array, Array, Array]]:
        """Yield for each tap of a 3 x 3 kernel: the inputs (R, B, h, w, D), the weights, and the outputs they reach."""
        grid = math.isqrt(x.shape[2] - prefix)
        square, target = (a[:, :, prefix:].reshape(*a.shape[:2], grid, grid, -1) for a in (x, out))
        for i, j in ((i, j) for i in range(3) for j in range(3)):
            rows, columns = (slice(max(0, t - 1), grid + min(0, t - 1)) for t in (i, j))
            to_rows, to_columns = (slice(max(0, 1 - t), grid + min(0, 1 - t)) for t in (i, j))
            yield (
                square[:, :, rows, columns],
                weight[:, None, None, None, :, 0, i, j],
                target[:, :, to_rows, to_columns],
            )

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
        """Add a residual branch to the stream and normalise the stream.

        stream = x + branch + branch_bias; without a branch, `stream` must be `x`. `stream` may be `x` in any case.
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
        """Add the gradient through the norm to `dstream`, which then is the gradient of both x and branch.

        With g = dout * weight and y = (stream - mean) rstd: dstream += rstd (g - mean(g) - y mean(g y)).
        Overwrites `dweight`, `dbias` and, if it is not None, `dbranch_bias` (R, D).
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
        """Compute `residual_layer_norm_backward` and overwrite the operand `rounded` with the new `dstream`."""
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
        """Compute out = GELU(x + bias). With `derivative`, overwrite `x` with GELU'(x + bias) for the backward pass.

        GELU'(u) = Phi(u) + u phi(u), phi the normal density. Without `derivative`, `out` may be `x`.
        """
        u = x + bias[:, None, None, :]
        cdf = 0.5 * (1 + self.erf(u * math.sqrt(0.5)))
        self.xp.multiply(u, cdf, out=out)
        if derivative:
            density = self.xp.exp(-0.5 * u * u) * (1 / math.sqrt(2 * math.pi))
            self.xp.add(cdf, u * density, out=x)

    def bias_gelu_backward(self, dy: Array, derivative: Array, *, dbias: Array) -> Array:
        """Overwrite `dy` with the gradient of x, dy * derivative, and `dbias` (R, F) with its sum over tokens."""
        dy *= derivative
        self.sum_tokens(dy, out=dbias)
        return dy

    # Attention (Vaswani et al. 2017, arXiv 1706.03762)

    def qkv_bias(self, qkv: Array, bias: Array, scale: float) -> None:
        """Add `bias` (R, 3 H K) to `qkv` (R, B, N, 3, H, K), then multiply the queries by `scale`, in place."""
        runs, *_, heads, head_width = qkv.shape
        qkv += bias.reshape(runs, 1, 1, 3, heads, head_width)
        qkv[:, :, :, 0] *= scale

    def qkv_bias_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        """Overwrite `dqkv` with the gradient of the input of `qkv_bias`, and `dbias` with its sum over tokens."""
        dqkv[:, :, :, 0] *= scale
        self.sum_tokens(dqkv.reshape(*dqkv.shape[:3], -1), out=dbias)

    def qkv_bias_rotate(self, qkv: Array, bias: Array, scale: float, cos: Array, sin: Array, prefix: int) -> None:
        """Apply `qkv_bias`, then rotate pairs of channels (2j, 2j+1) of queries and keys, in place.

        `cos`, `sin` (R or 1, H or 1, N, K/2) are the cosines and sines of the angles of each patch: (a, b) becomes
        (a cos - b sin, a sin + b cos). The first `prefix` tokens are not rotated.
        """
        self.qkv_bias(qkv, bias, scale)
        self._rotate(qkv[:, :, prefix:, :2], cos, sin)

    def qkv_bias_rotate_backward(
        self, dqkv: Array, scale: float, cos: Array, sin: Array, prefix: int, *, dbias: Array
    ) -> None:
        """Rotate by the opposite angles, then apply `qkv_bias_backward`."""
        self._rotate(dqkv[:, :, prefix:, :2], cos, -sin)
        self.qkv_bias_backward(dqkv, scale, dbias=dbias)

    def rotation_gradient(self, qkv: Array, bias: Array | None, dqkv: Array, prefix: int, out: Array) -> None:
        """Compute the gradient of the angles of `qkv_bias_rotate` into `out` (R, H, N, K/2).

        `qkv` and `dqkv` (R, B, N, 3, H, K) are the result of `qkv_bias_rotate` and its gradient. For a pair (a, b) and
        its gradient (da, db), the gradient of the angle is a db - b da, summed over images, queries and keys. Rotating
        and scaling both changes nothing, so the input without bias, its `bias` (R, 3 H K) and its gradient may be given
        instead.
        """
        runs, _, _, _, heads, head_width = qkv.shape
        if bias is not None:
            qkv = qkv + bias.reshape(runs, 1, 1, 3, heads, head_width)
        x, dx = qkv[:, :, prefix:, :2], dqkv[:, :, prefix:, :2]
        product = x[..., 0::2] * dx[..., 1::2] - x[..., 1::2] * dx[..., 0::2]
        out[...] = product.sum(axis=(1, 3)).swapaxes(1, 2)

    def qkv_bias_turn(self, qkv: Array, bias: Array, scale: float, matrices: Array, prefix: int) -> None:
        """Apply `qkv_bias`, then multiply groups of channels of queries and keys by a matrix each, in place.

        `matrices` (R, 1 or H, N, G, K/G, K/G) are orthogonal: group g of a patch, a column vector, becomes M x. The
        first `prefix` tokens are not changed.
        """
        self.qkv_bias(qkv, bias, scale)
        x = qkv[:, :, prefix:, :2]
        groups = x.reshape(*x.shape[:-1], *matrices.shape[3:5])
        turned = self.xp.einsum("rhngij,rbnphgj->rbnphgi", self._by_each_head(matrices, x.shape[4]), groups)
        x[...] = turned.reshape(x.shape)

    def qkv_bias_turn_backward(
        self, qkv: Array, dqkv: Array, scale: float, matrices: Array, prefix: int, *, dbias: Array, dmatrices: Array
    ) -> None:
        """Overwrite `dqkv` with the gradient of the input of `qkv_bias_turn`, and `dbias` with its sum over tokens.

        `qkv` is the result of `qkv_bias_turn`. Overwrites `dmatrices`, of the shape of `matrices`.
        """
        x, dx = qkv[:, :, prefix:, :2], dqkv[:, :, prefix:, :2]
        by_head = self._by_each_head(matrices, x.shape[4])
        shape = (*x.shape[:-1], *matrices.shape[3:5])
        before = self.xp.einsum("rhngij,rbnphgi->rbnphgj", by_head, x.reshape(shape))
        dafter = dx.reshape(shape)
        gradient = self.xp.einsum("rbnphgi,rbnphgj->rhngij", dafter, before)
        dmatrices[...] = gradient if matrices.shape[1] > 1 else gradient.sum(axis=1, keepdims=True)
        dx[...] = self.xp.einsum("rhngij,rbnphgi->rbnphgj", by_head, dafter).reshape(dx.shape)
        self.qkv_bias_backward(dqkv, scale, dbias=dbias)

    def _by_each_head(self, matrices: Array, heads: int) -> Array:
        return self.xp.broadcast_to(matrices, (len(matrices), heads, *matrices.shape[2:]))

    def add_to_queries(self, dqkv: Array, dqueries: Array) -> None:
        """Add `dqueries` (R, B, N, H, K) to the queries of `dqkv` (R, B, N, 3, H, K), in place."""
        dqkv[:, :, :, 0] += dqueries

    def _rotate(self, x: Array, cos: Array, sin: Array) -> None:
        cos, sin = (table.swapaxes(1, 2)[:, None, :, None] for table in (cos, sin))  # (R, B, N, 2, H, K/2)
        even, odd = x[..., 0::2], x[..., 1::2]
        rotated = even * cos - odd * sin
        odd[...] = even * sin + odd * cos
        even[...] = rotated

    def fuses_attention(self, tokens: int, head_width: int) -> bool:
        """Return whether to use fused `attention` for such heads, instead of separate products and softmax."""
        return False

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
        """Compute out = softmax(q k^T + score_bias) v for every head, with q, k, v from `qkv_bias_rotate`.

        `qkv` (R, B, N, 3, H, K), the projection without bias, is not changed. There is no rotation if `cos` is None,
        and no bias of the scores if `score_bias` (R or 1, H, N, N) is None. Overwrites `out` (R, B, N, H K) and
        `logsumexp` (R, B, H, N), the log-sum-exp of each row of scores (Dao et al. 2022, arXiv 2205.14135).
        """
        q, k, v = self._by_head(self._biased(qkv, bias, scale, cos, sin, prefix))
        scores = self.matmul(q, k, trans_b=True)
        if score_bias is not None:
            self.add_score_bias(scores, score_bias)
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
        score_bias: Array | None,
        out: Array,
        logsumexp: Array,
        *,
        dqkv: Array,
        dbias: Array,
        dscore_bias: Array | None,
    ) -> None:
        """Overwrite `dqkv` (R, B, N, 3, H, K), the gradient of the projection `qkv`, and `dbias` (R, 3 H K).

        Overwrites `dscore_bias` (R, H, N, N), too, if it is not None.
        """
        q, k, v = self._by_head(self._biased(qkv, bias, scale, cos, sin, prefix))
        dq, dk, dv = self._by_head(dqkv)
        heads = (*qkv.shape[:3], *qkv.shape[4:])
        dmixed, mixed = (x.reshape(heads).swapaxes(2, 3) for x in (dout, out))
        scores = self.matmul(q, k, trans_b=True)
        if score_bias is not None:
            self.add_score_bias(scores, score_bias)
        probabilities = self.xp.exp(scores - logsumexp[..., None])
        dscores = self.matmul(dmixed, v, trans_b=True) - (dmixed * mixed).sum(axis=-1, keepdims=True)
        dscores *= probabilities
        if dscore_bias is not None:
            self.score_bias_gradient(dscores, out=dscore_bias)
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
        """Return queries, keys and values as views (R, B, H, N, K)."""
        return tuple(qkv[:, :, :, i].swapaxes(2, 3) for i in range(3))

    def add_score_bias(self, scores: Array, bias: Array) -> None:
        """Add `bias` (R or 1, H, N, N) to the scores (R, B, H, N, N) of every image, in place."""
        scores += bias[:, None]

    def score_bias_gradient(self, dscores: Array, out: Array) -> None:
        """Sum `dscores` (R, B, H, N, N) over images into `out` (R, H, N, N)."""
        self.xp.sum(dscores, axis=1, out=out)

    def add_relative_scores(self, scores: Array, products: Array, prefix: int) -> None:
        """Add products of queries and displacement vectors to the scores (R, B, H, N, N) of patches, in place.

        `products` (R, B, N, H, 2 (2 g - 1)) on a g x g grid holds, for the query at column x and row y, the product for
        a key at column x' at index x' - x + g - 1, and that for a key at row y' at index (2 g - 1) + y' - y + g - 1.
        Both are added. Nothing is added for the first `prefix` tokens.
        """
        by_query = products[:, :, prefix:].swapaxes(2, 3)
        for index in self._displacements(scores.shape[-1] - prefix):
            index = self.xp.broadcast_to(index, (*by_query.shape[:3], *index.shape))
            scores[..., prefix:, prefix:] += self.xp.take_along_axis(by_query, index, axis=-1)

    def relative_scores_gradient(self, dscores: Array, prefix: int, out: Array) -> None:
        """Overwrite `out`, the gradient of the `products` of `add_relative_scores`; that of prefix tokens is 0."""
        out[...] = 0
        patches, width = dscores.shape[-1] - prefix, out.shape[-1]
        one_hot = sum(self.xp.eye(width, dtype=self.dtype)[index] for index in self._displacements(patches))
        product = self.xp.einsum("rbhqk,qkd->rbqhd", dscores[..., prefix:, prefix:], one_hot)
        out[:, :, prefix:] = product

    def _displacements(self, patches: int) -> tuple[Array, Array]:
        """Return the indices (N, N) of the column and of the row displacement of each key from each query."""
        grid = math.isqrt(patches)
        y, x = self.xp.divmod(self.xp.arange(patches), grid)
        return x - x[:, None] + grid - 1, y - y[:, None] + 3 * grid - 2

    def softmax(self, x: Array) -> Array:
        """Overwrite `x` with its softmax over the last axis."""
        x -= x.max(axis=-1, keepdims=True)
        self.xp.exp(x, out=x)
        x /= x.sum(axis=-1, keepdims=True)
        return x

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        """Overwrite `dy` with the gradient of x, y (dy - sum(dy y)), where y = softmax(x)."""
        dy -= (dy * y).sum(axis=-1, keepdims=True)
        dy *= y
        return dy

    # Loss

    def cross_entropy(self, logits: Array, targets: Array, scale: float, *, losses: Array, dlogits: Array) -> None:
        """Compute the cross-entropy of softmax(logits) with soft targets that sum to one, both (R, B, C).

        Overwrites `losses` (R, B), and `dlogits` with scale (softmax - targets), the gradient of `scale` times the sum
        of the losses.
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
        """Add `y` to `x`, of the same shape, in place."""
        x += y

    def sum_of_squares(self, x: Array) -> Array:
        """Return the sum of squares (R,) of `x` (R, P), accumulated in float64."""
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
        """Make a step of AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) on slices (R, p) of the flat arrays.

        g = gradient * gradient_scale; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
        parameters = parameters (1 - rate decay) - rate mhat / (sqrt(vhat) + epsilon), where mhat = m / (1 - b1^step),
        vhat = v / (1 - b2^step) and `step` is counted from 1. `gradient_scale`, `rate`, `decay` are (R,) in float64.
        Overwrites `parameters`, `first` (m) and `second` (v).
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


ARRAYS = frozenset({"asarray", "to_numpy", "empty", "zeros", "empty_operand", "fuses_attention"})
"""Methods of `Ops` that compute nothing."""


def operations() -> list[str]:
    """Return the names of the methods of `Ops` that compute."""
    return [
        name
        for name, method in vars(Ops).items()
        if inspect.isfunction(method) and not name.startswith("_") and name not in ARRAYS
    ]
