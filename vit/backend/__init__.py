"""Arrays: the operations a ViT needs, on NumPy or CuPy."""

import importlib.util

from vit.backend.ops import Array, Ops

BACKENDS = ("numpy", "cupy")

__all__ = ["BACKENDS", "Array", "Ops", "cupy_problem", "get_ops"]


def get_ops(backend: str = "numpy", dtype: str = "float32") -> Ops:
    """The operations of a backend, "numpy" or "cupy", in "float32" or "float64".

    Raises ValueError for an unknown backend and RuntimeError where CuPy or a GPU is missing.
    """
    if backend == "numpy":
        from vit.backend.numpy_ops import NumpyOps

        return NumpyOps(dtype)
    if backend == "cupy":
        if problem := cupy_problem():
            raise RuntimeError(f"backend: 'cupy' given, but {problem}")
        from vit.backend.cupy_ops import CupyOps

        return CupyOps(dtype)
    raise ValueError(f"backend: {backend!r} given, valid are {', '.join(BACKENDS)}")


def cupy_problem() -> str | None:
    """Why the cupy backend cannot be used here, in one line, or None where it can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'vitab[cuda12]' or 'vitab[cuda13]')"
    try:
        from vit.backend.cupy_ops import device_problem
    except ImportError as error:
        return f"CuPy cannot be imported ({' '.join(str(error).split())})"
    return device_problem()
