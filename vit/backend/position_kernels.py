"""CPU kernels of positional encodings, by the conventions of `vit.backend.cpu_kernels`.

Images are (B, T, width), with T = prefix + g g tokens.
"""

import math

import numpy as np

from vit.backend.cpu_kernels import _jit


@_jit
def rotation_gradient(qkv, dqkv, out, prefix, heads, half):
    images, tokens, _ = qkv.shape
    third = heads * 2 * half
    out[:] = 0
    for b in range(images):
        for n in range(prefix, tokens):
            x = qkv[b, n]
            dx = dqkv[b, n]
            for start in range(0, 2 * third, 2 * half):
                to = out[(start % third) // (2 * half), n - prefix]
                for j in range(half):
                    i = start + 2 * j
                    to[j] += x[i] * dx[i + 1] - x[i + 1] * dx[i]


@_jit
def qkv_bias_turn(qkv, bias, matrices, prefix, tables, groups, size, scale):
    images, tokens, width = qkv.shape
    third = width // 3
    head_width = groups * size
    one = qkv.dtype.type(1)
    group = np.empty(size, qkv.dtype)
    for n in range(tokens):
        for b in range(images):
            row = qkv[b, n]
            for start in range(0, 2 * third, size):
                factor = qkv.dtype.type(scale) if start < third else one
                x = row[start : start + size]
                shift = bias[start : start + size]
                if n < prefix:
                    for j in range(size):
                        x[j] = (x[j] + shift[j]) * factor
                else:
                    head = (start % third) // head_width if tables > 1 else 0
                    matrix = matrices[head, n - prefix, start % head_width // size]
                    for j in range(size):
                        group[j] = (x[j] + shift[j]) * factor
                    for i in range(size):
                        total = qkv.dtype.type(0)
                        for j in range(size):
                            total += matrix[i, j] * group[j]
                        x[i] = total
            for j in range(2 * third, width):
                row[j] += bias[j]


@_jit
def qkv_bias_turn_backward(qkv, dqkv, matrices, dbias, dmatrices, prefix, tables, groups, size, scale):
    images, tokens, width = qkv.shape
    third = width // 3
    head_width = groups * size
    s = qkv.dtype.type(scale)
    before = np.empty(size, qkv.dtype)
    dbefore = np.empty(size, qkv.dtype)
    dbias[:] = 0
    dmatrices[:] = 0
    for n in range(tokens):
        for b in range(images):
            row = qkv[b, n]
            drow = dqkv[b, n]
            if n >= prefix:
                for start in range(0, 2 * third, size):
                    head = (start % third) // head_width if tables > 1 else 0
                    matrix = matrices[head, n - prefix, start % head_width // size]
                    dmatrix = dmatrices[head, n - prefix, start % head_width // size]
                    before[:] = 0
                    dbefore[:] = 0
                    for i in range(size):
                        x = row[start + i]
                        dx = drow[start + i]
                        for j in range(size):
                            before[j] += matrix[i, j] * x  # the inverse of an orthogonal matrix is its transpose
                            dbefore[j] += matrix[i, j] * dx
                    for i in range(size):
                        dx = drow[start + i]
                        for j in range(size):
                            dmatrix[i, j] += dx * before[j]
                    for j in range(size):
                        drow[start + j] = dbefore[j]
            for j in range(third):
                drow[j] *= s
            for j in range(width):
                dbias[j] += drow[j]


@_jit
def add_to_queries(dqkv, dqueries):
    tokens, width = dqueries.shape
    for i in range(tokens):
        for j in range(width):
            dqkv[i, j] += dqueries[i, j]


@_jit
def add_relative_scores(scores, products, prefix, grid, heads):
    images, tokens, _ = products.shape
    span = 2 * grid - 1
    for b in range(images):
        for h in range(heads):
            for q in range(prefix, tokens):
                y, x = (q - prefix) // grid, (q - prefix) % grid
                product = products[b, q, h * 2 * span : (h + 1) * 2 * span]
                by_column = product[grid - 1 - x : 2 * grid - 1 - x]
                row = scores[b, h * tokens + q]
                for r in range(grid):
                    by_row = product[span + r - y + grid - 1]
                    part = row[prefix + r * grid : prefix + (r + 1) * grid]
                    for c in range(grid):
                        part[c] += by_column[c] + by_row


@_jit
def relative_scores_gradient(dscores, out, prefix, grid, heads):
    images, tokens, _ = out.shape
    span = 2 * grid - 1
    out[:] = 0
    for b in range(images):
        for h in range(heads):
            for q in range(prefix, tokens):
                y, x = (q - prefix) // grid, (q - prefix) % grid
                product = out[b, q, h * 2 * span : (h + 1) * 2 * span]
                by_column = product[grid - 1 - x : 2 * grid - 1 - x]
                row = dscores[b, h * tokens + q]
                for r in range(grid):
                    total = out.dtype.type(0)
                    part = row[prefix + r * grid : prefix + (r + 1) * grid]
                    for c in range(grid):
                        by_column[c] += part[c]
                        total += part[c]
                    product[span + r - y + grid - 1] = total


@_jit
def add_branch(stream, branch, bias, out):
    tokens, width = stream.shape
    for i in range(tokens):
        for j in range(width):
            out[i, j] = stream[i, j] + branch[i, j] + bias[j]


@_jit
def add_depthwise_conv(x, weight, bias, out, prefix, grid):
    images, _, width = x.shape
    taps = np.empty((9, width), x.dtype)
    for t in range(9):
        for j in range(width):
            taps[t, j] = weight[j, t]
    for b in range(images):
        for n in range(prefix):
            out[b, n] = x[b, n]
        for r in range(grid):
            for c in range(grid):
                n = prefix + r * grid + c
                own = x[b, n]
                to = out[b, n]
                for j in range(width):
                    to[j] = own[j] + bias[j]
                for i in range(max(0, r - 1), min(grid, r + 2)):
                    for k in range(max(0, c - 1), min(grid, c + 2)):
                        tap = taps[(i - r + 1) * 3 + k - c + 1]
                        near = x[b, prefix + i * grid + k]
                        for j in range(width):
                            to[j] += near[j] * tap[j]


@_jit
def add_depthwise_conv_backward(dy, x, weight, out, dweight, dbias, prefix, grid):
    images, _, width = dy.shape
    taps = np.empty((9, width), x.dtype)
    dtaps = np.zeros((9, width), x.dtype)
    for t in range(9):
        for j in range(width):
            taps[t, j] = weight[j, t]
    dbias[:] = 0
    for b in range(images):
        for n in range(prefix):
            out[b, n] = dy[b, n]
        for r in range(grid):
            for c in range(grid):
                n = prefix + r * grid + c
                own = x[b, n]
                down = dy[b, n]
                to = out[b, n]
                for j in range(width):
                    to[j] = down[j]
                    dbias[j] += down[j]
                for i in range(max(0, r - 1), min(grid, r + 2)):
                    for k in range(max(0, c - 1), min(grid, c + 2)):
                        t = (r - i + 1) * 3 + c - k + 1  # the tap by which this patch reaches the patch (i, k)
                        tap = taps[t]
                        dtap = dtaps[t]
                        dnear = dy[b, prefix + i * grid + k]
                        for j in range(width):
                            to[j] += dnear[j] * tap[j]
                            dtap[j] += dnear[j] * own[j]
    for t in range(9):
        for j in range(width):
            dweight[j, t] = dtaps[t, j]


LANES = 32
"""Matrices whose exponentials are computed together."""
EVEN = np.array([1 / math.factorial(2 * m) for m in range(9)])
ODD = np.array([1 / math.factorial(2 * m + 1) for m in range(8)])
"""exp(x) = sum EVEN_m x^(2 m) + x sum ODD_m x^(2 m), with an error below 1e-14 if the norm of x is at most 1."""


@_jit
def _multiply(a, b, out, add):
    """out (+)= a b for `LANES` matrices (1, b, b, LANES), or (2, b, b, LANES) with derivatives in the second part."""
    parts, size, _, lanes = out.shape
    for part in range(parts):
        for i in range(size):
            for j in range(size):
                to = out[part, i, j]
                if not add:
                    to[:] = 0
                for m in range(size):
                    left = a[part, i, m]
                    right = b[0, m, j]
                    for n in range(lanes):
                        to[n] += left[n] * right[n]
                    if part == 1:
                        left = a[0, i, m]
                        right = b[1, m, j]
                        for n in range(lanes):
                            to[n] += left[n] * right[n]


@_jit
def _add_polynomial(powers, coefficients, out):
    """out += the sum of coefficients[m] powers[m], for m = 0 with the identity."""
    parts, size, _, lanes = out.shape
    for i in range(size):
        for n in range(lanes):
            out[0, i, i, n] += out.dtype.type(coefficients[0])
    for m in range(1, len(coefficients)):
        coefficient = out.dtype.type(coefficients[m])
        for part in range(parts):
            for i in range(size):
                for j in range(size):
                    power = powers[m - 1, part, i, j]
                    to = out[part, i, j]
                    for n in range(lanes):
                        to[n] += coefficient * power[n]


@_jit
def _exponentials(x, halvings, powers, even, odd, spare):
    """Compute exp(2^halvings x), with its derivative if there are two parts; return the array that contains it.

    Polynomials of degree 16 by their even and odd halves in y = x^2, split after y^3 (Paterson and Stockmeyer 1973),
    then squared `halvings` times.
    """
    _multiply(x, x, powers[0], False)
    _multiply(powers[0], powers[0], powers[1], False)
    _multiply(powers[0], powers[1], powers[2], False)
    _multiply(powers[1], powers[1], powers[3], False)
    spare[:] = 0
    _add_polynomial(powers, EVEN[4:], spare)
    _multiply(powers[3], spare, even, False)
    _add_polynomial(powers, EVEN[:4], even)
    spare[:] = 0
    _add_polynomial(powers, ODD[4:], spare)
    _multiply(powers[3], spare, odd, False)
    _add_polynomial(powers, ODD[:4], odd)
    _multiply(x, odd, even, True)
    for _ in range(halvings):
        _multiply(even, even, odd, False)
        even, odd = odd, even
    return even


@_jit
def _halvings(matrices):
    """Return how often matrices must be halved so that no row has a sum of absolute values above 1."""
    largest = 1.0
    for matrix in matrices:
        for row in matrix:
            total = 0.0
            for value in row:
                total += abs(value)
            largest = max(largest, total)
    return int(np.ceil(np.log2(largest)))


@_jit
def _to_lanes(matrices, factor, lanes):
    """lanes = factor times up to `LANES` matrices (n, b, b), as (b, b, LANES)."""
    count, size, _ = matrices.shape
    for n in range(count):
        for i in range(size):
            for j in range(size):
                lanes[i, j, n] = matrices[n, i, j] * factor


@_jit
def _from_lanes(lanes, matrices):
    count, size, _ = matrices.shape
    for n in range(count):
        for i in range(size):
            for j in range(size):
                matrices[n, i, j] = lanes[i, j, n]


@_jit
def matrix_exponentials(x, out):
    """out = exp(x) for skew-symmetric matrices (n, b, b)."""
    count, size, _ = x.shape
    shape = (1, size, size, LANES)
    scaled, powers = np.zeros(shape, x.dtype), np.empty((4, *shape), x.dtype)
    even, odd, spare = np.empty(shape, x.dtype), np.empty(shape, x.dtype), np.empty(shape, x.dtype)
    for first in range(0, count, LANES):
        part = x[first : first + LANES]
        halvings = _halvings(part)
        _to_lanes(part, x.dtype.type(0.5) ** halvings, scaled[0])
        _from_lanes(_exponentials(scaled, halvings, powers, even, odd, spare)[0], out[first : first + LANES])


@_jit
def matrix_exponentials_backward(x, dout, dx):
    """dx = the gradient of x: the derivative of exp at x^T = -x in the direction dout."""
    count, size, _ = x.shape
    shape = (2, size, size, LANES)
    scaled, powers = np.zeros(shape, x.dtype), np.empty((4, *shape), x.dtype)
    even, odd, spare = np.empty(shape, x.dtype), np.empty(shape, x.dtype), np.empty(shape, x.dtype)
    for first in range(0, count, LANES):
        part = x[first : first + LANES]
        halvings = _halvings(part)
        factor = x.dtype.type(0.5) ** halvings
        _to_lanes(part, -factor, scaled[0])
        _to_lanes(dout[first : first + LANES], factor, scaled[1])
        _from_lanes(_exponentials(scaled, halvings, powers, even, odd, spare)[1], dx[first : first + LANES])
