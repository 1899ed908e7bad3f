"""The precision of matrix products: a field of each run, chosen by the backend unless it is set."""

from collections.abc import Iterable
from dataclasses import replace

from ablations.config import PRECISIONS, Grid, RunConfig
from ablations.errors import UsageError


def precisions(backend: str) -> tuple[str, ...]:
    """Return the precisions of a backend on this machine, its default first."""
    if backend == "numpy":
        return ("float32",)
    from vit.backend import cupy_precisions

    return cupy_precisions()


def computes(position: str, precision: str) -> bool:
    """Return whether an encoding supports a precision: one that uses array expressions does not support bf16."""
    from vit.positions import POSITIONS

    return precision != "bf16" or POSITIONS[position].traceable


def fastest(backend: str, positions: Iterable[str]) -> str:
    """Return the default precision of a backend for these encodings: one for all, as they are compared."""
    wanted = [*positions]
    return next(name for name in precisions(backend) if all(computes(position, name) for position in wanted))


def choose(grid: Grid, given: str | None, backend: str | None) -> Grid:
    """Return the grid with the `given` precision, else with its own, else with the default of the backend.

    A grid whose axes include the precision keeps them. Raises UsageError for a precision that the backend does not
    support. A backend of None belongs to other machines: no default is chosen, and those machines check the precision.
    """
    if given is not None and given not in PRECISIONS:
        raise UsageError(f"--precision must be {', '.join(PRECISIONS)}, got {given!r}")
    if given is not None and "precision" in grid.axes:
        raise UsageError(f"--precision cannot be combined with the grid {grid.name!r}, which compares precisions")
    positions = grid.axes.get("position", (grid.base.position,))
    if backend and given is None and "precision" not in grid.axes and grid.base.precision == "float32":
        given = fastest(backend, positions)
    chosen = grid if given is None else replace(grid, base=replace(grid.base, precision=given))
    if backend:
        for precision in chosen.axes.get("precision", (chosen.base.precision,)):
            check(precision, backend, positions)
    return chosen


def check(precision: str, backend: str, positions: Iterable[str]) -> None:
    """UsageError for a precision that the backend does not have, or in which an encoding cannot compute."""
    valid = precisions(backend)
    if precision not in valid:
        why = "backend numpy" if backend == "numpy" else "this GPU, whose compute capability is below 8.0"
        raise UsageError(f"precision must be {', '.join(valid)} with {why}, got {precision!r}")
    for position in positions:
        if not computes(position, precision):
            own = [name for name in valid if computes(position, name)]
            raise UsageError(
                f"precision must be {', '.join(own)} with position {position}, which is computed with array "
                f"expressions instead of CUDA kernels, got {precision!r}"
            )


def check_runs(configs: Iterable[RunConfig], backend: str) -> None:
    """`check` for runs that are planned already."""
    for precision, position in dict.fromkeys((config.precision, config.position) for config in configs):
        check(precision, backend, [position])
