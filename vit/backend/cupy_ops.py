"""The GPU backend: `Ops` on CuPy arrays. The only module that imports cupy."""

from typing import Any

import cupy

from vit.backend.ops import Ops


class CupyOps(Ops):
    """`Ops` on the current CUDA device."""

    name = "cupy"

    def __init__(self, dtype: str = "float32") -> None:
        super().__init__(cupy, dtype)

    def to_numpy(self, array: Any) -> Any:
        return cupy.asnumpy(array)


def device_problem() -> str | None:
    """Why no CUDA device can be used, in one line, or None."""
    runtime = cupy.cuda.runtime
    try:
        if not runtime.driverGetVersion():
            return "there is no NVIDIA driver"
        return None if runtime.getDeviceCount() else "the NVIDIA driver finds no GPU"
    except runtime.CUDARuntimeError as error:
        return f"CUDA finds no usable GPU ({error})"
