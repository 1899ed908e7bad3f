"""Operations on arrays without memory, to find out what a pass needs before it runs.

`MetaOps` computes nothing: a pass over it allocates only what it names. `ProbeOps` also raises where a captured pass
would lose a computation: at every array expression, and at every operation for which a backend has no kernel.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from vit.backend.ops import Array, Ops, operations


class MetaArray(np.ndarray):
    """Array whose elements all share one memory location. Assignments and ufuncs compute nothing."""

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            return kwargs["out"][0]
        if method == "__call__" and ufunc.signature is None:  # element by element
            return meta_array(np.broadcast_shapes(*map(np.shape, inputs)), self.dtype)
        return getattr(ufunc, method)(*map(np.asarray, inputs), **kwargs)


class UncapturableError(RuntimeError):
    """A computation that a captured pass would lose; the message names it."""


class GuardedArray(np.ndarray):
    """Array without values: views are valid, and every computation raises UncapturableError."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if not isinstance(part, np.ndarray):
            raise UncapturableError("an element of an array")
        return part

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise UncapturableError("an assignment to an array")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> NoReturn:
        raise UncapturableError(f"an array expression (numpy.{ufunc.__name__})")

    def __array_function__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if function in (np.shape, np.ndim, np.size, np.broadcast_to, np.swapaxes, np.transpose, np.moveaxis):
            return super().__array_function__(function, *arguments)
        raise UncapturableError(f"an array expression (numpy.{function.__name__})")

    def fill(self, value: Any) -> NoReturn:
        raise UncapturableError("an assignment to an array")

    def copy(self, order: Any = "C") -> NoReturn:
        raise UncapturableError("a copy of an array")

    def astype(self, *arguments: Any, **keywords: Any) -> NoReturn:
        raise UncapturableError("a converted array")


def meta_array(shape: tuple[int, ...], dtype: Any, kind: type[np.ndarray] = MetaArray) -> Any:
    """Return an array of the given shape and kind that allocates only one element."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, [0] * len(shape)).view(kind)


class MetaOps(Ops):
    """`Ops` that compute nothing and allocate no memory."""

    kind: type[np.ndarray] = MetaArray

    def __init__(self, name: str, dtype: str = "float32") -> None:
        """`name` is the backend whose choices are made, such as fused attention."""
        super().__init__(np, dtype)
        self.name = name

    def empty(self, shape: tuple[int, ...]) -> Array:
        return meta_array(shape, self.dtype, self.kind)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return self.empty(shape)

    def empty_operand(self, shape: tuple[int, ...]) -> Array:
        return self.empty(shape)

    def asarray(self, array: Array) -> Array:
        return array

    def fuses_attention(self, tokens: int, head_width: int) -> bool:
        from vit.backend.cuda.attention import fits

        return self.name != "numpy" and fits(tokens, head_width)


def _nothing(self: Ops, x: Array = None, *rest: Any, out: Array = None, **more: Any) -> Array:
    return x if out is None else out


for _name in operations():
    setattr(MetaOps, _name, _nothing)


class ProbeOps(MetaOps):
    """`MetaOps` that raise UncapturableError for what a captured pass of a backend would lose."""

    kind = GuardedArray

    def asarray(self, array: Array) -> Array:
        return meta_array(np.shape(array), self.dtype, self.kind)

    def __getattribute__(self, name: str) -> Any:
        if name in _OPERATIONS and name not in kernels_of(super().__getattribute__("name")):
            raise UncapturableError(f"ops.{name}, which has no kernel on the {self.name} backend")
        return super().__getattribute__(name)


_OPERATIONS = frozenset(operations())


def kernels_of(backend: str) -> frozenset[str]:
    """Return the names of the operations that a backend can capture."""
    if backend == "numpy":
        from vit.backend.numpy_ops import INSTRUCTIONS

        return INSTRUCTIONS
    from vit.backend.cuda.ops import CudaOps

    return frozenset(_OPERATIONS & vars(CudaOps).keys())
