"""CPU kernels of positional encodings, by the conventions of `vit.backend.cpu_kernels`.

Images are (B, T, width), with T = prefix + g g tokens.
"""

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


TAYLOR = 12
"""Order of the Taylor polynomial of exp; with a norm of at most 1/2, its error is below 1e-13."""


@_jit
def _multiply(a, b, out, add):
    size = len(a)
    for i in range(size):
        if not add:
            for j in range(size):
                out[i, j] = 0
        for k in range(size):
            x = a[i, k]
            for j in range(size):
                out[i, j] += x * b[k, j]


@_jit
def _halvings(x):
    """Return how often a matrix must be halved so that no row has a sum of absolute values above 1/2."""
    largest = 0.0
    for i in range(len(x)):
        total = 0.0
        for j in range(len(x)):
            total += abs(x[i, j])
        largest = max(largest, total)
    return max(0, int(np.ceil(np.log2(max(2 * largest, 1.0)))))


@_jit
def matrix_exponentials(x, out):
    """out = exp(x) for matrices (n, b, b): a Taylor polynomial of x / 2^s, squared s times, in float64."""
    count, size, _ = x.shape
    scaled = np.empty((size, size))
    power = np.empty((size, size))
    product = np.empty((size, size))
    for n in range(count):
        halvings = _halvings(x[n])
        factor = 0.5**halvings
        for i in range(size):
            for j in range(size):
                scaled[i, j] = x[n, i, j] * factor
                power[i, j] = 1.0 if i == j else 0.0
        for k in range(TAYLOR, 0, -1):  # Horner: 1 + scaled / k (1 + scaled / (k + 1) (...))
            _multiply(scaled, power, product, False)
            for i in range(size):
                for j in range(size):
                    power[i, j] = product[i, j] / k + (1.0 if i == j else 0.0)
        for _ in range(halvings):
            _multiply(power, power, product, False)
            power, product = product, power
        for i in range(size):
            for j in range(size):
                out[n, i, j] = power[i, j]


@_jit
def matrix_exponentials_backward(x, dout, dx):
    """dx = the gradient of x, the derivative of exp at x^T in the direction dout, by the same steps as exp itself."""
    count, size, _ = x.shape
    shape = (size, size)
    scaled, direction = np.empty(shape), np.empty(shape)
    power, dpower = np.empty(shape), np.empty(shape)
    product, dproduct = np.empty(shape), np.empty(shape)
    for n in range(count):
        halvings = _halvings(x[n].T)
        factor = 0.5**halvings
        for i in range(size):
            for j in range(size):
                scaled[i, j] = x[n, j, i] * factor
                direction[i, j] = dout[n, i, j] * factor
                power[i, j] = 1.0 if i == j else 0.0
                dpower[i, j] = 0.0
        for k in range(TAYLOR, 0, -1):
            _multiply(scaled, power, product, False)
            _multiply(direction, power, dproduct, False)
            _multiply(scaled, dpower, dproduct, True)
            for i in range(size):
                for j in range(size):
                    power[i, j] = product[i, j] / k + (1.0 if i == j else 0.0)
                    dpower[i, j] = dproduct[i, j] / k
        for _ in range(halvings):
            _multiply(power, power, product, False)
            _multiply(power, dpower, dproduct, False)
            _multiply(dpower, power, dproduct, True)
            power, product = product, power
            dpower, dproduct = dproduct, dpower
        for i in range(size):
            for j in range(size):
                dx[n, i, j] = dpower[i, j]
