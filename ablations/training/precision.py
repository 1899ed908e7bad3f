"""The precision of matrix products: a field of each run, chosen by the backend unless it is set."""

from collections.abc import Iterable
from dataclasses import replace

from ablations.config import PRECISIONS, Grid, RunConfig, position_as_given, position_label, vit_config
from ablations.errors import UsageError


def precisions(backend: str) -> tuple[str, ...]:
    """Return the precisions of a backend on this machine, its default first."""
    if backend == "numpy":
        return ("float32",)
    from vit.backend import cupy_precisions

    return cupy_precisions()


def obstacle(config: RunConfig, precision: str) -> str | None:
    """Return what the encoding of a run needs that a precision does not have, or None."""
    from vit import ConfigError
    from vit.model import capture_problem

    if precision != "bf16":
        return None
    try:
        return capture_problem(vit_config(config, image_size=4 * config.patch, channels=1, classes=2), "cupy")
    except ConfigError:  # reported with the real size of the images
        return None
    except Exception:
        if position_as_given(config.position) == config.position:
            raise
        return None  # of an encoding in a file or a package: reported by the plan


def fastest(backend: str, configs: Iterable[RunConfig]) -> str:
    """Return the default precision of a backend for these runs: one for all, as they are compared."""
    wanted = [*configs]
    return next(name for name in precisions(backend) if not any(obstacle(config, name) for config in wanted))


def choose(grid: Grid, given: str | None, backend: str | None) -> Grid:
    """Return the grid with the `given` precision, else with its own, else with the default of the backend.

    A grid whose axes include the precision keeps them. Raises UsageError for a precision that the backend does not
    support. A backend of None belongs to other machines: no default is chosen, and those machines check the precision.
    """
    if given is not None and given not in PRECISIONS:
        raise UsageError(f"--precision must be {', '.join(PRECISIONS)}, got {given!r}")
    if given is not None and "precision" in grid.axes:
        raise UsageError(f"--precision cannot be combined with the grid {grid.name!r}, which compares precisions")
    configs = [replace(grid.base, position=position) for position in grid.axes.get("position", (grid.base.position,))]
    if backend and given is None and "precision" not in grid.axes and grid.base.precision == "float32":
        given = fastest(backend, configs)
    chosen = grid if given is None else replace(grid, base=replace(grid.base, precision=given))
    if backend:
        for precision in chosen.axes.get("precision", (chosen.base.precision,)):
            check(precision, backend, configs)
    return chosen


def check(precision: str, backend: str, configs: Iterable[RunConfig]) -> None:
    """UsageError for a precision that the backend does not have, or in which an encoding cannot compute."""
    valid = precisions(backend)
    if precision not in valid:
        why = "backend numpy" if backend == "numpy" else "this GPU, whose compute capability is below 8.0"
        raise UsageError(f"precision must be {', '.join(valid)} with {why}, got {precision!r}")
    for config in configs:
        if problem := obstacle(config, precision):
            own = [name for name in valid if not obstacle(config, name)]
            raise UsageError(
                f"precision must be {', '.join(own)} with position {position_label(config.position)}, which needs "
                f"{problem}, got {precision!r}"
            )


def check_runs(configs: Iterable[RunConfig], backend: str) -> None:
    """`check` for runs that are planned already."""
    first = {(config.precision, config.position): config for config in configs}
    for (precision, _), config in first.items():
        check(precision, backend, [config])
