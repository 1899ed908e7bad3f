"""The CPU backend: BLAS through NumPy, everything else in fused Numba kernels.

A kernel works on the arrays of one run, so each method loops over the run axis, which has length one in the engine.
All of it releases the GIL.
"""

from typing import Any

import numpy as np

from vit.backend import kernels_cpu as kernels
from vit.backend.ops import LAYER_NORM_EPSILON, Ops

Array = np.ndarray[Any, Any]


class NumpyOps(Ops):
    """`Ops` on NumPy arrays with fused kernels for float32 and float64."""

    name = "numpy"

    def __init__(self, dtype: str = "float32") -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: {dtype!r} given, the numpy backend has 'float32' and 'float64'")
        super().__init__(np, dtype)

    def add_bias(self, x: Array, bias: Array) -> Array:
        for run, b in zip(x, bias, strict=True):
            kernels.add_bias(run.reshape(-1, b.size), b)
        return x

    def sum_tokens(self, dy: Array, out: Array) -> Array:
        for run, o in zip(dy, out, strict=True):
            kernels.sum_tokens(run.reshape(-1, o.size), o)
        return out

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
        width = x.shape[-1]
        for r in range(len(x)):
            s = stream[r].reshape(-1, width)
            kernels.residual_layer_norm(
                x[r].reshape(-1, width),
                s if branch is None else branch[r].reshape(-1, width),
                weight[r] if branch_bias is None else branch_bias[r],
                weight[r],
                bias[r],
                s,
                out[r].reshape(-1, width),
                mean[r].reshape(-1),
                rstd[r].reshape(-1),
                branch is not None,
                LAYER_NORM_EPSILON,
            )

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
        width = dout.shape[-1]
        if dbranch_bias is None:
            dbranch_bias = np.empty_like(dbias)
        for r in range(len(dout)):
            kernels.residual_layer_norm_backward(
                dout[r].reshape(-1, width),
                dstream[r].reshape(-1, width),
                stream[r].reshape(-1, width),
                weight[r],
                mean[r].reshape(-1),
                rstd[r].reshape(-1),
                dweight[r],
                dbias[r],
                dbranch_bias[r],
            )

    def bias_gelu(self, x: Array, bias: Array, *, out: Array, derivative: bool) -> None:
        kernel = kernels.bias_gelu_derivative if derivative else kernels.bias_gelu
        for run, b, o in zip(x, bias, out, strict=True):
            kernel(run.reshape(-1, b.size), b, o.reshape(-1, b.size))

    def bias_gelu_backward(self, dy: Array, derivative: Array, *, dbias: Array) -> Array:
        for run, d, db in zip(dy, derivative, dbias, strict=True):
            kernels.bias_gelu_backward(run.reshape(-1, db.size), d.reshape(-1, db.size), db)
        return dy

    def qkv_bias(self, qkv: Array, bias: Array, scale: float) -> None:
        for run, b in zip(qkv, bias, strict=True):
            kernels.qkv_bias(run.reshape(-1, b.size), b, scale)

    def qkv_bias_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        for run, db in zip(dqkv, dbias, strict=True):
            kernels.qkv_bias_backward(run.reshape(-1, db.size), scale, db)

    def qkv_bias_rotate(self, qkv: Array, bias: Array, scale: float, cos: Array, sin: Array, prefix: int) -> None:
        for run, b in zip(qkv, bias, strict=True):
            kernels.qkv_bias_rotate(run.reshape(*run.shape[:2], b.size), b, scale, cos, sin, prefix)

    def qkv_bias_rotate_backward(
        self, dqkv: Array, scale: float, cos: Array, sin: Array, prefix: int, *, dbias: Array
    ) -> None:
        for run, db in zip(dqkv, dbias, strict=True):
            kernels.qkv_bias_rotate_backward(run.reshape(*run.shape[:2], db.size), scale, cos, sin, prefix, db)

    def softmax(self, x: Array) -> Array:
        kernels.softmax(x.reshape(-1, x.shape[-1]))
        return x

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        kernels.softmax_backward(dy.reshape(-1, dy.shape[-1]), y.reshape(-1, y.shape[-1]))
        return dy

    def cross_entropy(self, logits: Array, targets: Array, scale: float, *, dlogits: Array) -> Array:
        classes = logits.shape[-1]
        losses = np.empty(logits.shape[:-1], dtype=self.dtype)
        kernels.cross_entropy(
            logits.reshape(-1, classes),
            targets.reshape(-1, classes),
            scale,
            dlogits.reshape(-1, classes),
            losses.reshape(-1),
        )
        return losses

    def add(self, x: Array, y: Array) -> None:
        for a, b in zip(x, y, strict=True):
            kernels.add(a, b)

    def sum_of_squares(self, x: Array) -> Array:
        return np.array([kernels.sum_of_squares(run) for run in x])

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
        beta1, beta2 = betas
        for r in range(len(parameters)):
            kernels.adamw(
                parameters[r],
                gradient[r],
                first[r],
                second[r],
                float(gradient_scale[r]),
                1 - float(rate[r]) * float(decay[r]),
                float(rate[r]) / (1 - beta1**step),
                beta1,
                beta2,
                1 / np.sqrt(1 - beta2**step),
                epsilon,
            )
