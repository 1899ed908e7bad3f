"""Array operations of a ViT on NumPy or CuPy."""

import importlib.util

from vit.backend.ops import Array, Ops

BACKENDS = ("numpy", "cupy")

__all__ = ["BACKENDS", "Array", "Ops", "cupy_precisions", "cupy_problem", "get_ops"]


def get_ops(backend: str = "numpy", dtype: str = "float32", precision: str | None = None) -> Ops:
    """Return the operations of a backend.

    Parameters
    ----------
    backend : {"numpy", "cupy"}
        Array library: NumPy on the CPU, or CuPy on the current CUDA device.
    dtype : {"float32", "float64"}
        Type of the parameters; "float64" only with the numpy backend.
    precision : {"float32", "tf32", "bf16"}, optional
        Precision of matrix products with the cupy backend. By default bf16 if the GPU supports it, else float32.

    Raises
    ------
    ValueError
        If the backend does not exist or does not support the type or precision.
    RuntimeError
        If CuPy or a usable GPU is missing.
    """
    if backend == "numpy":
        if precision not in (None, "float32"):
            raise ValueError(f"precision must be 'float32' with the numpy backend, got {precision!r}")
        from vit.backend.numpy_ops import NumpyOps

        return NumpyOps(dtype)
    if backend == "cupy":
        if problem := cupy_problem():
            raise RuntimeError(f"the cupy backend cannot be used: {problem}")
        from vit.backend.cupy_ops import CupyOps

        return CupyOps(dtype, precision)
    raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def cupy_precisions() -> tuple[str, ...]:
    """Return the precisions of products that the current GPU supports, fastest first. See `cupy_problem`."""
    from vit.backend.cupy_ops import device_precisions

    return device_precisions()


def cupy_problem() -> str | None:
    """Return why the cupy backend cannot be used, in one line, or None if it can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'vitab[cuda12]' or 'vitab[cuda13]')"
    try:
        from vit.backend.cupy_ops import device_problem
    except ImportError as error:
        return f"CuPy cannot be imported ({' '.join(str(error).split())})"
    return device_problem()
