"""What precision matrix products have: a field of each run, chosen by the backend where nobody says."""

from collections.abc import Iterable
from dataclasses import replace

from ablations.config import PRECISIONS, Grid, RunConfig
from ablations.errors import UsageError


def precisions(backend: str) -> tuple[str, ...]:
    """Those that a backend has here, the one it takes by itself first."""
    if backend == "numpy":
        return ("float32",)
    from vit.backend import cupy_precisions

    return cupy_precisions()


def choose(grid: Grid, given: str | None, backend: str | None) -> Grid:
    """The grid with the precision that is `given`, else the grid's own, else that which the backend takes by itself.

    A grid whose axes include the precision keeps them. Raises UsageError for one that the backend does not have. Where
    the backend is None, other machines have it: nothing is taken by itself, and each of them checks what it is given.
    """
    if given is not None and given not in PRECISIONS:
        raise UsageError(f"--precision must be {', '.join(PRECISIONS)}, got {given!r}")
    if given is not None and "precision" in grid.axes:
        raise UsageError(f"--precision given, but the grid {grid.name!r} compares precisions; valid: leave it out")
    if backend and given is None and "precision" not in grid.axes and grid.base.precision == "float32":
        given = precisions(backend)[0]
    chosen = grid if given is None else replace(grid, base=replace(grid.base, precision=given))
    if backend:
        check(chosen.axes.get("precision", (chosen.base.precision,)), backend)
    return chosen


def check(given: Iterable[str], backend: str) -> None:
    """UsageError for a precision that the backend does not have."""
    valid = precisions(backend)
    for precision in given:
        if precision not in valid:
            why = "backend numpy" if backend == "numpy" else "this GPU, whose compute capability is below 8.0"
            raise UsageError(f"precision must be {', '.join(valid)} with {why}, got {precision!r}")


def check_runs(configs: Iterable[RunConfig], backend: str) -> None:
    """`check` for runs that are planned already."""
    check(dict.fromkeys(config.precision for config in configs), backend)
