"""Fused CPU kernels in Numba, which release the GIL.

Each function implements the `Ops` method of the same name on the arrays of a single run, with tokens (M, D) instead of
(R, B, N, D). Arguments are arrays, then integers, then floats, as in an instruction of a program. Compiled kernels are
cached on disk.
"""

import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from vit.backend.numba_cache import CACHED

# Without `ninf`, so that infinities are handled correctly. `nnan` allows maxima to be vectorised. The compiler does not
# guarantee then that NaNs propagate, so the tests check it.
_FAST = {"reassoc", "nsz", "arcp", "contract", "nnan"}
# Inlined, because a separately compiled copy may be rounded differently from the cached one.
_jit = numba.njit(nogil=True, cache=CACHED, fastmath=_FAST, error_model="numpy", forceinline=True)

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)


@intrinsic
def _float_from_bits(typing_context, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


def _exp(x):
    """Return exp(x) for x <= 0, in the type of x."""
    return np.exp(x)


@overload(_exp, jit_options={"fastmath": {"contract"}, "forceinline": True}, inline="never")
def _exp_typed(x):
    if x == types.float64:
        return lambda x: math.exp(x)

    def exp_float32(x):
        # exp(x) = 2^n exp(r), |r| <= ln(2)/2; the polynomial is Cephes' expf (2e-7 relative).
        x = max(x, np.float32(-87.0))
        n = np.floor(x * _LOG2_E + np.float32(0.5))
        r = x - n * _LN2_HIGH - n * _LN2_LOW
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        p = p * r * r + r + np.float32(1.0)
        return p * _float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))

    return exp_float32


def _normal_cdf_and_exp(u):
    """Return (Phi(u), exp(-u^2 / 2))."""
    return 0.5 * (1 + math.erf(u * _SQRT_HALF)), math.exp(-0.5 * u * u)


@overload(_normal_cdf_and_exp, jit_options={"fastmath": {"contract"}, "forceinline": True})
def _normal_cdf_and_exp_typed(u):
    if u == types.float64:
        return lambda u: (0.5 * (1 + math.erf(u * _SQRT_HALF)), math.exp(-0.5 * u * u))

    def float32(u):
        # erfc by Abramowitz and Stegun 7.1.26 (1.5e-7 absolute)
        e = _exp(np.float32(-0.5) * u * u)
        t = np.float32(1.0) / (np.float32(1.0) + np.float32(0.3275911 * _SQRT_HALF) * abs(u))
        p = np.float32(1.061405429)
        p = p * t + np.float32(-1.453152027)
        p = p * t + np.float32(1.421413741)
        p = p * t + np.float32(-0.284496736)
        p = p * t + np.float32(0.254829592)
        tail = np.float32(0.5) * p * t * e
        return (np.float32(1.0) - tail if u >= np.float32(0.0) else tail), e

    return float32


@_jit
def fill(x, value):
    x[:] = x.dtype.type(value)


@_jit
def add_bias(x, bias):
    tokens, width = x.shape
    for i in range(tokens):
        for j in range(width):
            x[i, j] += bias[j]


@_jit
def sum_tokens(dy, out):
    tokens, width = dy.shape
    out[:] = 0
    for i in range(tokens):
        for j in range(width):
            out[j] += dy[i, j]


@_jit
def mean_tokens(x, out):
    images, tokens, width = x.shape
    factor = x.dtype.type(1) / x.dtype.type(tokens)
    for b in range(images):
        for j in range(width):
            out[b, j] = 0
        for n in range(tokens):
            for j in range(width):
                out[b, j] += x[b, n, j]
        for j in range(width):
            out[b, j] *= factor


@_jit
def spread_tokens(dx, dy):
    images, tokens, width = dx.shape
    factor = dx.dtype.type(1) / dx.dtype.type(tokens)
    for b in range(images):
        for n in range(tokens):
            for j in range(width):
                dx[b, n, j] = dy[b, j] * factor


@_jit
def residual_layer_norm(x, branch, branch_bias, weight, bias, stream, out, mean, rstd, has_branch, epsilon):
    tokens, width = x.shape
    zero = x.dtype.type(0)
    one = x.dtype.type(1)
    inverse_width = one / x.dtype.type(width)
    for i in range(tokens):
        total = zero
        if has_branch:
            for j in range(width):
                s = x[i, j] + branch[i, j] + branch_bias[j]
                stream[i, j] = s
                total += s
        else:
            for j in range(width):
                total += stream[i, j]
        m = total * inverse_width
        squares = zero
        for j in range(width):
            centred = stream[i, j] - m
            squares += centred * centred
        r = one / np.sqrt(squares * inverse_width + x.dtype.type(epsilon))
        mean[i] = m
        rstd[i] = r
        for j in range(width):
            out[i, j] = (stream[i, j] - m) * r * weight[j] + bias[j]


@_jit
def residual_layer_norm_backward(dout, dstream, stream, weight, mean, rstd, dweight, dbias, dbranch_bias):
    tokens, width = dout.shape
    zero = dout.dtype.type(0)
    inverse_width = dout.dtype.type(1) / dout.dtype.type(width)
    dweight[:] = 0
    dbias[:] = 0
    dbranch_bias[:] = 0
    for i in range(tokens):
        m = mean[i]
        r = rstd[i]
        total = zero
        projection = zero
        for j in range(width):
            normal = (stream[i, j] - m) * r
            d = dout[i, j]
            g = d * weight[j]
            total += g
            projection += g * normal
            dweight[j] += d * normal
            dbias[j] += d
        total *= inverse_width
        projection *= inverse_width
        for j in range(width):
            normal = (stream[i, j] - m) * r
            s = dstream[i, j] + r * (dout[i, j] * weight[j] - total - normal * projection)
            dstream[i, j] = s
            dbranch_bias[j] += s


@_jit
def bias_gelu(x, bias, out):
    tokens, width = x.shape
    for i in range(tokens):
        for j in range(width):
            u = x[i, j] + bias[j]
            cdf, _ = _normal_cdf_and_exp(u)
            out[i, j] = u * cdf


@_jit
def bias_gelu_derivative(x, bias, out):
    tokens, width = x.shape
    factor = x.dtype.type(_INV_SQRT_2PI)
    for i in range(tokens):
        for j in range(width):
            u = x[i, j] + bias[j]
            cdf, e = _normal_cdf_and_exp(u)
            out[i, j] = u * cdf
            x[i, j] = cdf + u * e * factor


@_jit
def bias_gelu_backward(dy, derivative, dbias):
    tokens, width = dy.shape
    dbias[:] = 0
    for i in range(tokens):
        for j in range(width):
            d = dy[i, j] * derivative[i, j]
            dy[i, j] = d
            dbias[j] += d


@_jit
def qkv_bias(qkv, bias, scale):
    tokens, width = qkv.shape
    third = width // 3
    s = qkv.dtype.type(scale)
    for i in range(tokens):
        for j in range(third):
            qkv[i, j] = (qkv[i, j] + bias[j]) * s
        for j in range(third, width):
            qkv[i, j] += bias[j]


@_jit
def qkv_bias_backward(dqkv, dbias, scale):
    tokens, width = dqkv.shape
    third = width // 3
    s = dqkv.dtype.type(scale)
    dbias[:] = 0
    for i in range(tokens):
        for j in range(third):
            d = dqkv[i, j] * s
            dqkv[i, j] = d
            dbias[j] += d
        for j in range(third, width):
            dbias[j] += dqkv[i, j]


@_jit
def qkv_bias_rotate(qkv, bias, cos, sin, prefix, tables, half, scale):
    images, tokens, width = qkv.shape
    third = width // 3
    next_table = 1 if tables > 1 else 0  # cos and sin are (tables, N, K/2) with one table per head, or one for all
    one = qkv.dtype.type(1)
    head = np.empty(2 * half, qkv.dtype)  # one head of one token: keeps loads and stores apart, so that they vectorise
    for b in range(images):
        for n in range(tokens):
            row = qkv[b, n]
            for start in range(0, 2 * third, 2 * half):
                table = (start % third) // (2 * half) * next_table
                pairs = row[start : start + 2 * half]
                shift = bias[start : start + 2 * half]
                factor = qkv.dtype.type(scale) if start < third else one
                if n < prefix:
                    for j in range(2 * half):
                        pairs[j] = (pairs[j] + shift[j]) * factor
                else:
                    c = cos[table, n - prefix]
                    t = sin[table, n - prefix]
                    for j in range(2 * half):
                        head[j] = (pairs[j] + shift[j]) * factor
                    for j in range(half):
                        pairs[2 * j] = head[2 * j] * c[j] - head[2 * j + 1] * t[j]
                        pairs[2 * j + 1] = head[2 * j] * t[j] + head[2 * j + 1] * c[j]
            for j in range(2 * third, width):
                row[j] += bias[j]


@_jit
def qkv_bias_rotate_backward(dqkv, dbias, cos, sin, prefix, tables, half, scale):
    images, tokens, width = dqkv.shape
    third = width // 3
    next_table = 1 if tables > 1 else 0
    s = dqkv.dtype.type(scale)
    dbias[:] = 0
    for b in range(images):
        for n in range(tokens):
            row = dqkv[b, n]
            if n >= prefix:
                for start in range(0, 2 * third, 2 * half):
                    table = (start % third) // (2 * half) * next_table
                    c = cos[table, n - prefix]
                    t = sin[table, n - prefix]
                    for j in range(half):
                        x = row[start + 2 * j]
                        y = row[start + 2 * j + 1]
                        row[start + 2 * j] = x * c[j] + y * t[j]
                        row[start + 2 * j + 1] = y * c[j] - x * t[j]
            for j in range(third):
                row[j] *= s
            for j in range(width):
                dbias[j] += row[j]


@_jit
def softmax(x):
    rows, columns = x.shape
    for i in range(rows):
        top = x[i, 0]
        for j in range(columns):
            top = max(top, x[i, j])
        total = x.dtype.type(0)
        for j in range(columns):
            e = _exp(x[i, j] - top)
            x[i, j] = e
            total += e
        inverse = x.dtype.type(1) / total
        for j in range(columns):
            x[i, j] *= inverse


@_jit
def softmax_backward(dy, y):
    rows, columns = y.shape
    for i in range(rows):
        total = y.dtype.type(0)
        for j in range(columns):
            total += dy[i, j] * y[i, j]
        for j in range(columns):
            dy[i, j] = (dy[i, j] - total) * y[i, j]


@_jit
def cross_entropy(logits, targets, dlogits, losses, scale):
    images, classes = logits.shape
    s = logits.dtype.type(scale)
    for i in range(images):
        top = logits[i, 0]
        for c in range(classes):
            top = max(top, logits[i, c])
        total = logits.dtype.type(0)
        expected = logits.dtype.type(0)
        for c in range(classes):
            shifted = logits[i, c] - top
            e = _exp(shifted)
            dlogits[i, c] = e
            total += e
            expected += targets[i, c] * shifted
        inverse = logits.dtype.type(1) / total
        for c in range(classes):
            dlogits[i, c] = (dlogits[i, c] * inverse - targets[i, c]) * s
        losses[i] = np.log(total) - expected


@_jit
def add(x, y):
    for i in range(x.size):
        x[i] += y[i]


@_jit
def sum_of_squares(x):
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@_jit
def adamw(parameters, gradient, first, second, scale, shrink, rate, beta1, beta2, correction, epsilon):
    t = parameters.dtype.type
    s, k, a, c, e = t(scale), t(shrink), t(rate), t(correction), t(epsilon)
    b1, b2, rest1, rest2 = t(beta1), t(beta2), t(1 - beta1), t(1 - beta2)
    for i in range(parameters.size):
        g = gradient[i] * s
        m = b1 * first[i] + rest1 * g
        v = b2 * second[i] + rest2 * g * g
        first[i] = m
        second[i] = v
        parameters[i] = parameters[i] * k - a * m / (np.sqrt(v) * c + e)
