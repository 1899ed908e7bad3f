"""CPU backend: matrix products by BLAS through NumPy, all other operations by fused Numba kernels.

A kernel processes the arrays of one run, so methods loop over the run axis. Kernels release the GIL. While `program`
is set, operations are appended to the program instead of being computed.
"""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from vit.backend.ops import LAYER_NORM_EPSILON, Ops, operations
from vit.backend.program import KERNELS, CapturedProgram, Opcode

Array = np.ndarray[Any, Any]


def _view(x: Array, *shape: int) -> Array:
    """Return a view of `x` in another shape. Raise ValueError if it needs a copy, to which results would be lost."""
    try:
        return x.reshape(shape, copy=False)
    except ValueError:
        raise ValueError(f"an array must be contiguous, got the shape {x.shape} with strides {x.strides}") from None


def _of_run(table: Array, run: int, runs: int) -> Array:
    """Return the table of a run from (R or 1, ...)."""
    if len(table) not in (1, runs):
        raise ValueError(f"a table must have 1 or {runs} runs, got {len(table)}")
    return np.asarray(table[run if len(table) > 1 else 0])


class NumpyOps(Ops):
    """`Ops` on NumPy arrays with fused kernels for float32 and float64.

    While a program is captured, an operation without an instruction raises ValueError.
    """

    name = "numpy"

    def __init__(self, dtype: str = "float32") -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64' with the numpy backend, got {dtype!r}")
        super().__init__(np, dtype)
        self.program: CapturedProgram | None = None

    def _launch(
        self, opcode: Opcode, arrays: Sequence[Array], ints: Sequence[int] = (), floats: Sequence[float] = ()
    ) -> None:
        if self.program is None:
            KERNELS[opcode](*arrays, *ints, *floats)
        else:
            self.program.append(opcode, arrays, ints, floats)

    def matmul(
        self, a: Array, b: Array, *, trans_a: bool = False, trans_b: bool = False, out: Array | None = None
    ) -> Array:
        if self.program is None:
            return np.asarray(super().matmul(a, b, trans_a=trans_a, trans_b=trans_b, out=out))
        if out is None:
            raise ValueError("out must be an array while a program is captured, got None")
        a = a.swapaxes(-1, -2) if trans_a else a
        b = b.swapaxes(-1, -2) if trans_b else b
        self.program.append_matmul(a, b, out)
        return out

    def add_bias(self, x: Array, bias: Array) -> Array:
        for run, b in zip(x, bias, strict=True):
            self._launch(Opcode.ADD_BIAS, (_view(run, -1, b.size), b))
        return x

    def sum_tokens(self, dy: Array, out: Array) -> Array:
        for run, o in zip(dy, out, strict=True):
            self._launch(Opcode.SUM_TOKENS, (_view(run, -1, o.size), o))
        return out

    def add_table(self, x: Array, table: Array) -> None:
        for r, run in enumerate(x):
            self._launch(Opcode.ADD_BIAS, (_view(run, len(run), -1), _view(_of_run(table, r, len(x)), -1)))

    def sum_images(self, dy: Array, out: Array) -> None:
        for run, o in zip(dy, out, strict=True):
            self._launch(Opcode.SUM_TOKENS, (_view(run, len(run), -1), _view(o, -1)))

    def mean_tokens(self, x: Array, out: Array) -> None:
        for run, o in zip(x, out, strict=True):
            self._launch(Opcode.MEAN_TOKENS, (run, o))

    def mean_tokens_backward(self, dy: Array, out: Array) -> None:
        for o, d in zip(out, dy, strict=True):
            self._launch(Opcode.SPREAD_TOKENS, (o, d))

    def copy_tokens(self, source: Array, out: Array) -> None:
        if self.program is None:
            super().copy_tokens(source, out)
        else:
            for o, s in zip(out, np.broadcast_to(source, out.shape), strict=True):
                self.program.append_copy(s, o)

    def fill(self, out: Array, value: float) -> None:
        self._launch(Opcode.FILL, (_view(out, -1),), (), (value,))

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
            tokens = _view(stream[r], -1, width)
            arrays = (
                _view(x[r], -1, width),
                tokens if branch is None else _view(branch[r], -1, width),
                weight[r] if branch_bias is None else branch_bias[r],
                weight[r],
                bias[r],
                tokens,
                _view(out[r], -1, width),
                _view(mean[r], -1),
                _view(rstd[r], -1),
            )
            self._launch(Opcode.RESIDUAL_LAYER_NORM, arrays, (int(branch is not None),), (LAYER_NORM_EPSILON,))

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
            arrays = (
                _view(dout[r], -1, width),
                _view(dstream[r], -1, width),
                _view(stream[r], -1, width),
                weight[r],
                _view(mean[r], -1),
                _view(rstd[r], -1),
                dweight[r],
                dbias[r],
                dbranch_bias[r],
            )
            self._launch(Opcode.RESIDUAL_LAYER_NORM_BACKWARD, arrays)

    def bias_gelu(self, x: Array, bias: Array, *, out: Array, derivative: bool) -> None:
        opcode = Opcode.BIAS_GELU_DERIVATIVE if derivative else Opcode.BIAS_GELU
        for run, b, o in zip(x, bias, out, strict=True):
            self._launch(opcode, (_view(run, -1, b.size), b, _view(o, -1, b.size)))

    def bias_gelu_backward(self, dy: Array, derivative: Array, *, dbias: Array) -> Array:
        for run, d, db in zip(dy, derivative, dbias, strict=True):
            self._launch(Opcode.BIAS_GELU_BACKWARD, (_view(run, -1, db.size), _view(d, -1, db.size), db))
        return dy

    def qkv_bias(self, qkv: Array, bias: Array, scale: float) -> None:
        for run, b in zip(qkv, bias, strict=True):
            self._launch(Opcode.QKV_BIAS, (_view(run, -1, b.size), b), (), (scale,))

    def qkv_bias_backward(self, dqkv: Array, scale: float, *, dbias: Array) -> None:
        for run, db in zip(dqkv, dbias, strict=True):
            self._launch(Opcode.QKV_BIAS_BACKWARD, (_view(run, -1, db.size), db), (), (scale,))

    def qkv_bias_rotate(self, qkv: Array, bias: Array, scale: float, cos: Array, sin: Array, prefix: int) -> None:
        for r, (run, b) in enumerate(zip(qkv, bias, strict=True)):
            c, s = (_of_run(table, r, len(qkv)) for table in (cos, sin))
            arrays = (_view(run, *run.shape[:2], b.size), b, c, s)
            self._launch(Opcode.QKV_BIAS_ROTATE, arrays, (prefix, len(c), c.shape[2]), (scale,))

    def qkv_bias_rotate_backward(
        self, dqkv: Array, scale: float, cos: Array, sin: Array, prefix: int, *, dbias: Array
    ) -> None:
        for r, (run, db) in enumerate(zip(dqkv, dbias, strict=True)):
            c, s = (_of_run(table, r, len(dqkv)) for table in (cos, sin))
            arrays = (_view(run, *run.shape[:2], db.size), db, c, s)
            self._launch(Opcode.QKV_BIAS_ROTATE_BACKWARD, arrays, (prefix, len(c), c.shape[2]), (scale,))

    def rotation_gradient(self, qkv: Array, bias: Array | None, dqkv: Array, prefix: int, out: Array) -> None:
        if bias is not None:
            raise ValueError("bias must be None with the numpy backend: it is part of qkv")
        for run, drun, o in zip(qkv, dqkv, out, strict=True):
            flat = [_view(x, *x.shape[:2], x[0, 0].size) for x in (run, drun)]
            self._launch(Opcode.ROTATION_GRADIENT, (*flat, o), (prefix, len(o), o.shape[2]))

    def qkv_bias_turn(self, qkv: Array, bias: Array, scale: float, matrices: Array, prefix: int) -> None:
        for run, b, m in zip(qkv, bias, matrices, strict=True):
            arrays = (_view(run, *run.shape[:2], b.size), b, m)
            self._launch(Opcode.QKV_BIAS_TURN, arrays, (prefix, len(m), m.shape[2], m.shape[3]), (scale,))

    def qkv_bias_turn_backward(
        self, qkv: Array, dqkv: Array, scale: float, matrices: Array, prefix: int, *, dbias: Array, dmatrices: Array
    ) -> None:
        for run, drun, m, db, dm in zip(qkv, dqkv, matrices, dbias, dmatrices, strict=True):
            flat = [_view(x, *x.shape[:2], db.size) for x in (run, drun)]
            sizes = (prefix, len(m), m.shape[2], m.shape[3])
            self._launch(Opcode.QKV_BIAS_TURN_BACKWARD, (*flat, m, db, dm), sizes, (scale,))

    def add_to_queries(self, dqkv: Array, dqueries: Array) -> None:
        for run, d in zip(dqkv, dqueries, strict=True):
            width = d[0, 0].size
            self._launch(Opcode.ADD_TO_QUERIES, (_view(run, -1, 3 * width), _view(d, -1, width)))

    def add_relative_scores(self, scores: Array, products: Array, prefix: int) -> None:
        self._relative(Opcode.ADD_RELATIVE_SCORES, scores, products, prefix)

    def relative_scores_gradient(self, dscores: Array, prefix: int, out: Array) -> None:
        self._relative(Opcode.RELATIVE_SCORES_GRADIENT, dscores, out, prefix)

    def _relative(self, opcode: Opcode, scores: Array, products: Array, prefix: int) -> None:
        images, tokens, heads = products.shape[1:4]
        for run, p in zip(scores, products, strict=True):
            arrays = (_view(run, images, heads * tokens, tokens), _view(p, images, tokens, -1))
            self._launch(opcode, arrays, (prefix, math.isqrt(tokens - prefix), heads))

    def add_branch(self, stream: Array, branch: Array, bias: Array, out: Array) -> None:
        for s, x, b, o in zip(stream, branch, bias, out, strict=True):
            self._launch(Opcode.ADD_BRANCH, (*(_view(a, -1, b.size) for a in (s, x)), b, _view(o, -1, b.size)))

    def add_depthwise_conv(self, x: Array, weight: Array, bias: Array, prefix: int, out: Array) -> None:
        grid = math.isqrt(x.shape[2] - prefix)
        for run, w, b, o in zip(x, weight, bias, out, strict=True):
            self._launch(Opcode.ADD_DEPTHWISE_CONV, (run, _view(w, -1, 9), b, o), (prefix, grid))

    def add_depthwise_conv_backward(
        self, dy: Array, x: Array, weight: Array, prefix: int, *, out: Array, dweight: Array, dbias: Array
    ) -> None:
        grid = math.isqrt(x.shape[2] - prefix)
        for d, run, w, o, dw, db in zip(dy, x, weight, out, dweight, dbias, strict=True):
            arrays = (d, run, _view(w, -1, 9), o, _view(dw, -1, 9), db)
            self._launch(Opcode.ADD_DEPTHWISE_CONV_BACKWARD, arrays, (prefix, grid))

    def add_score_bias(self, scores: Array, bias: Array) -> None:
        for r, run in enumerate(scores):
            self._launch(Opcode.ADD_BIAS, (_view(run, len(run), -1), _view(_of_run(bias, r, len(scores)), -1)))

    def score_bias_gradient(self, dscores: Array, out: Array) -> None:
        for run, o in zip(dscores, out, strict=True):
            self._launch(Opcode.SUM_TOKENS, (_view(run, len(run), -1), _view(o, -1)))

    def softmax(self, x: Array) -> Array:
        self._launch(Opcode.SOFTMAX, (_view(x, -1, x.shape[-1]),))
        return x

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        self._launch(Opcode.SOFTMAX_BACKWARD, (_view(dy, -1, dy.shape[-1]), _view(y, -1, y.shape[-1])))
        return dy

    def cross_entropy(self, logits: Array, targets: Array, scale: float, *, losses: Array, dlogits: Array) -> None:
        classes = logits.shape[-1]
        flat = [_view(x, -1, classes) for x in (logits, targets, dlogits)]
        self._launch(Opcode.CROSS_ENTROPY, (*flat, _view(losses, -1)), (), (scale,))

    def add(self, x: Array, y: Array) -> None:
        for a, b in zip(np.atleast_2d(x), np.atleast_2d(y), strict=True):
            self._launch(Opcode.ADD, (_view(a, -1), _view(b, -1)))

    def sum_of_squares(self, x: Array) -> Array:
        return np.array([KERNELS[Opcode.SUM_OF_SQUARES](run) for run in x])

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
            floats = (
                float(gradient_scale[r]),
                1 - float(rate[r]) * float(decay[r]),
                float(rate[r]) / (1 - beta1**step),
                beta1,
                beta2,
                float(1 / np.sqrt(1 - beta2**step)),
                epsilon,
            )
            self._launch(Opcode.ADAMW, (parameters[r], gradient[r], first[r], second[r]), (), floats)


OUTSIDE_PROGRAMS = ("add", "sum_of_squares", "adamw")
"""Operations of the optimizer, which have a kernel but no instruction."""


def _outside_programs(name: str) -> Callable[..., Any]:
    """Return an operation that raises ValueError while a program is captured, which would lose it."""
    method = getattr(NumpyOps, name)

    @wraps(method)
    def checked(self: NumpyOps, *arguments: Any, **keywords: Any) -> Any:
        if self.program is not None:
            raise ValueError(f"{name} must not be called while a program is captured")
        return method(self, *arguments, **keywords)

    return checked


INSTRUCTIONS = frozenset({*operations()} & {*vars(NumpyOps)} - {*OUTSIDE_PROGRAMS})
"""Operations that a program can contain."""

for _name in {*operations()} - INSTRUCTIONS:
    setattr(NumpyOps, _name, _outside_programs(_name))
