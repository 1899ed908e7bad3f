"""Exponentials of skew-symmetric matrices, which are rotations, and their gradient."""

from types import ModuleType

import numpy as np

from vit.backend import Array


def exponential(xp: ModuleType, skew: Array, out: Array) -> None:
    """Compute out = exp(skew) for matrices (R, ..., b, b). `out` must be contiguous within each run.

    On NumPy arrays by a kernel (scaling and squaring; Higham 2005, SIAM J. Matrix Anal. Appl. 26), otherwise from
    eigenvectors: with skew = i U diag(phases) U^H, the exponential is U diag(exp(i phases)) U^H.
    """
    if xp is np:
        from vit.backend.position_kernels import matrix_exponentials

        for x, o in zip(skew, out, strict=True):
            matrix_exponentials(_matrices(x), o.reshape(-1, *o.shape[-2:], copy=False))
        return
    phases, vectors = xp.linalg.eigh(-1j * skew)
    turned = vectors * xp.exp(1j * phases)[..., None, :]
    out[...] = xp.matmul(turned, vectors.conj().swapaxes(-1, -2)).real


def exponential_gradient(xp: ModuleType, skew: Array, dout: Array) -> Array:
    """Return the gradient of the argument of `exponential`, all elements taken as independent."""
    if xp is np:
        from vit.backend.position_kernels import matrix_exponentials_backward

        dskew = np.empty(skew.shape, skew.dtype)
        for x, dy, dx in zip(skew, dout, dskew, strict=True):
            matrix_exponentials_backward(_matrices(x), _matrices(dy), _matrices(dx))
        return dskew
    phases, vectors = xp.linalg.eigh(-1j * skew)
    adjoint = vectors.conj().swapaxes(-1, -2)
    # Derivative of the exponential of a normal matrix (Daleckii and Krein): in the basis of the vectors, an element is
    # multiplied by the divided difference of exp, exp(i (a + b) / 2) sinc((a - b) / 2), of its two phases.
    a, b = phases[..., :, None], phases[..., None, :]
    divided = xp.exp(-0.5j * (a + b)) * xp.sinc((a - b) / (2 * np.pi))
    inner = xp.matmul(xp.matmul(adjoint, dout), vectors) * divided
    return xp.matmul(xp.matmul(vectors, inner), adjoint).real


def _matrices(x: Array) -> Array:
    return np.ascontiguousarray(x).reshape(-1, *x.shape[-2:])
