"""Arrays that behave as CuPy's towards the host: nothing makes NumPy's of them, or mixes the two, by itself."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class DeviceArray:
    """A NumPy array `held` where a host's code cannot see it."""

    def __init__(self, held: np.ndarray) -> None:
        self.held = held

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.held.ctypes.data)

    @property
    def ctypes(self) -> Any:
        raise AttributeError("CuPy's arrays have none")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **named: Any) -> Any:
        return on_device(getattr(ufunc, method))(*inputs, **named)

    def __array_function__(self, function: Any, types: Any, arguments: Any, named: Any) -> Any:
        return on_device(function)(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.held, name)
        return on_device(value) if callable(value) else wrapped(value)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name == "held", f"{name} of a device's array is set"
        super().__setattr__(name, value)

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: Any) -> Any:
        # CuPy gives arrays of no axis, not numbers
        return DeviceArray(np.asarray(self.held[unwrapped(index, host=True)]))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.held[unwrapped(index, host=True)] = unwrapped(value)


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: DeviceArray, *others: Any) -> Any:
        result = getattr(self.held, name)(*(unwrapped(other) for other in others))
        return self if result is self.held else wrapped(result)

    return apply


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul")
_OTHERS = ("neg", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne", "bool", "int", "float", "index")
for _name in (*_BINARY, *(f"r{name}" for name in _BINARY), *(f"i{name}" for name in _BINARY), *_OTHERS):
    setattr(DeviceArray, f"__{_name}__", _operator(f"__{_name}__"))


def unwrapped(value: Any, *, host: bool = False) -> Any:
    """What NumPy can use in place of a value. TypeError for an array of the host's, unless that is allowed."""
    if isinstance(value, DeviceArray):
        return value.held
    if isinstance(value, np.ndarray) and not host:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)):
        return type(value)(unwrapped(each, host=host) for each in value)
    return value


def wrapped(value: Any) -> Any:
    return DeviceArray(value) if isinstance(value, np.ndarray) else value


def on_device(function: Callable[..., Any], *, host: bool = False) -> Callable[..., Any]:
    """A function of NumPy's for arrays of the device; `host` says whether it takes the host's as well."""

    def call(*arguments: Any, **named: Any) -> Any:
        given = [unwrapped(argument, host=host) for argument in arguments]
        options = {name: unwrapped(value, host=host) for name, value in named.items()}
        result = function(*given, **options)
        if isinstance(result, np.generic):  # CuPy reduces to arrays of no axis
            return DeviceArray(np.asarray(result))
        return tuple(map(wrapped, result)) if isinstance(result, tuple) else wrapped(result)

    return call
