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
            shape = np.broadcast_shapes(*map(np.shape, inputs))
            kind = np.dtype(bool) if ufunc.types[0].endswith("?") else self.dtype
            made = tuple(meta_array(shape, kind) for _ in range(ufunc.nout))
            return made[0] if ufunc.nout == 1 else made
        return getattr(ufunc, method)(*map(np.asarray, inputs), **kwargs)


_VIEWS = (np.shape, np.ndim, np.size, np.broadcast_to, np.swapaxes, np.transpose, np.moveaxis, np.reshape)
"""Functions that return views or properties."""


class UncapturableError(RuntimeError):
    """A computation that a captured pass would lose; the message names it."""


class GuardedArray(np.ndarray):
    """Array whose values must not be used: views are valid; a computation or a copy raises UncapturableError.

    Its memory is read-only, so that writing to it through a plain view raises ValueError.
    """

    _low = _high = 0

    def __array_finalize__(self, parent: Any) -> None:
        if not isinstance(parent, GuardedArray):
            return
        self._low, self._high = parent._low, parent._high
        start = self.__array_interface__["data"][0]
        if self.size and not self._low <= start < self._high:
            raise UncapturableError("a copy of an array")

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
        if function in _VIEWS:
            return super().__array_function__(function, *arguments)
        raise UncapturableError(f"an array expression (numpy.{function.__name__})")

    def _used(self, *arguments: Any, **keywords: Any) -> NoReturn:
        raise UncapturableError("the values of an array")

    fill = item = tolist = tobytes = dot = __float__ = __int__ = __bool__ = _used


def meta_array(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a `MetaArray` of the given shape that allocates only one element."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, [0] * len(shape)).view(MetaArray)


def guarded_array(shape: tuple[int, ...], dtype: Any) -> GuardedArray:
    """Return a `GuardedArray` of the given shape, in memory that is reserved but not used."""
    memory = np.empty(shape, dtype)
    memory.flags.writeable = False
    guarded = memory.view(GuardedArray)
    guarded._low = memory.__array_interface__["data"][0]
    guarded._high = guarded._low + max(memory.nbytes, 1)
    return guarded


class MetaOps(Ops):
    """`Ops` that compute nothing and allocate no memory."""

    def __init__(self, name: str, dtype: str = "float32") -> None:
        """`name` is the backend whose choices are made, such as fused attention."""
        super().__init__(np, dtype)
        self.name = name

    def empty(self, shape: tuple[int, ...]) -> Array:
        return meta_array(shape, self.dtype)

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
    """`MetaOps` that raise UncapturableError for what a captured pass of a backend would lose.

    That is an operation without a kernel, a computation with values of an array (see `GuardedArray`), and an operation
    on an array that neither the workspace nor `asarray` has made, which may hold such a computation.
    """

    def empty(self, shape: tuple[int, ...]) -> Array:
        return guarded_array(shape, self.dtype)

    def asarray(self, array: Array) -> Array:
        return guarded_array(np.shape(array), self.dtype)

    def __getattribute__(self, name: str) -> Any:
        if name not in _OPERATIONS:
            return super().__getattribute__(name)
        if name not in kernels_of(super().__getattribute__("name")):
            raise UncapturableError(f"ops.{name}, which has no kernel on the {self.name} backend")
        operation = super().__getattribute__(name)

        def checked(*arguments: Any, **keywords: Any) -> Any:
            for value in (*arguments, *keywords.values()):
                if isinstance(value, np.ndarray) and not isinstance(value, GuardedArray):
                    raise UncapturableError(f"an array that is computed or made outside ops, in ops.{name}")
            return operation(*arguments, **keywords)

        return checked


_OPERATIONS = frozenset(operations())


def kernels_of(backend: str) -> frozenset[str]:
    """Return the names of the operations that a backend can capture."""
    if backend == "numpy":
        from vit.backend.numpy_ops import INSTRUCTIONS

        return INSTRUCTIONS
    from vit.backend.cuda.ops import CudaOps

    return frozenset(_OPERATIONS & vars(CudaOps).keys())
