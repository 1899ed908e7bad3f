"""Arrays: the operations a ViT needs, on NumPy or CuPy."""

import importlib.util

from vit.backend.ops import Array, Ops

BACKENDS = ("numpy", "cupy")

__all__ = ["BACKENDS", "Array", "Ops", "cupy_precisions", "cupy_problem", "get_ops"]


def get_ops(backend: str = "numpy", dtype: str = "float32", precision: str | None = None) -> Ops:
    """The operations of a backend: "numpy" in "float32" or "float64", "cupy" in "float32".

    `precision` is that of cupy's products: "float32", "tf32" or "bf16"; None takes bf16 where the chip has it.
    Raises ValueError for what a backend does not have and RuntimeError where CuPy or a GPU is missing.
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
    """Precisions of products that the current GPU has, the fastest first. Needs a GPU: see `cupy_problem`."""
    from vit.backend.cupy_ops import device_precisions

    return device_precisions()


def cupy_problem() -> str | None:
    """Why the cupy backend cannot be used here, in one line, or None where it can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'vitab[cuda12]' or 'vitab[cuda13]')"
    try:
        from vit.backend.cupy_ops import device_problem
    except ImportError as error:
        return f"CuPy cannot be imported ({' '.join(str(error).split())})"
    return device_problem()
