"""Reads the pickles of CIFAR's python archives without running anything that they ask for.

A pickle is a program. These files need only dictionaries, lists, strings, numbers and byte arrays, plus the
few names by which NumPy spells an array. Each of those names is answered with a stand-in that can do
nothing but note a shape and keep bytes; every other name is refused. NumPy itself is never reached from the
file.
"""

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ablations.errors import UsageError


def read_pickle(data: bytes, path: Path) -> dict[str, Any]:
    """Return the dictionary in a CIFAR batch or meta file, with str keys.

    Args:
        path: Named in errors only.

    Raises:
        UsageError: if the pickle contains anything but plain data, is damaged or truncated, or is not a dictionary.
    """
    try:
        content = _PlainData(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # damaged pickles fail in as many ways as there are opcodes
        reason = str(error) or type(error).__name__
        raise UsageError(f"{path}: not a readable CIFAR python file ({reason}); fetch it again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not a dictionary; fetch it again")
    return {_text(key): value for key, value in content.items()}


def byte_rows(value: object, path: Path, width: int) -> NDArray[np.uint8]:
    """Return an unpickled value as a uint8 array (n, width).

    Raises:
        UsageError: if the value is not an array of that width, or its size is wrong.
    """
    if not isinstance(value, _Array):
        raise UsageError(f"{path}: 'data' must be an array; fetch it again")
    shape, raw = value.shape, value.raw
    if value.code not in ("u1", "B") or len(shape) != 2 or shape[1] != width or len(raw) != shape[0] * width:
        raise UsageError(f"{path}: 'data' is {value.code} {shape} of {len(raw):,} bytes; valid: uint8 (n, {width})")
    flat: NDArray[np.uint8] = np.frombuffer(raw, dtype=np.uint8)
    return flat.reshape(shape[::-1]).T if value.fortran else flat.reshape(shape)


def integers(value: object, path: Path, key: str) -> NDArray[np.int64]:
    """Return an unpickled list of labels as an int64 array (n,).

    Raises:
        UsageError: if it is not a list of integers.
    """
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise UsageError(f"{path}: {key!r} must be a list of integers; fetch it again")
    return np.array(value, dtype=np.int64)


def texts(value: object, path: Path, key: str) -> tuple[str, ...]:
    """Return the strings in an unpickled list of names.

    Raises:
        UsageError: if it is not a list of strings.
    """
    if not isinstance(value, list) or not all(isinstance(item, str | bytes) for item in value):
        raise UsageError(f"{path}: {key!r} must be a list of names; fetch it again")
    return tuple(_text(item) for item in value)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Array:
    """Stands for a NumPy array: what `numpy.ndarray.__setstate__` would be given."""

    __slots__ = ("code", "fortran", "raw", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.code, self.fortran, self.raw = "", False, b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array of something other than numbers")
        self.shape, self.code = tuple(int(n) for n in shape), dtype.code
        self.fortran, self.raw = bool(fortran), raw


class _Dtype:
    """Stands for a NumPy data type: its code, such as ``u1``."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and flags: of no meaning for bytes."""


class _Name:
    """Stands for one importable name; can be called, and cannot be changed by the file."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        if self._name == "_reconstruct":
            return _Array()
        if self._name == "dtype":
            return _Dtype(_text(arguments[0]))
        if self._name == "encode" and arguments[1:] == ("latin1",):
            return str(arguments[0]).encode("latin1")
        if self._name == "_frombuffer":
            raw, dtype, shape, order = arguments
            array = _Array()
            array.__setstate__((1, shape, dtype, order == "F", bytes(raw)))
            return array
        raise pickle.UnpicklingError(f"a call of {self._name}")

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError(f"a change of {self._name}")


_NAMES = {
    (module, name): _Name(name)
    for name, modules in {
        "_reconstruct": ("numpy.core.multiarray", "numpy._core.multiarray"),
        "_frombuffer": ("numpy.core.numeric", "numpy._core.numeric"),
        "ndarray": ("numpy",),
        "dtype": ("numpy",),
        "encode": ("_codecs",),
    }.items()
    for module in modules
}


class _PlainData(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None
