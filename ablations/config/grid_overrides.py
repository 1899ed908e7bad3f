"""Changes to a grid from the command line and from Python."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ablations.config.grid import Grid, fit_warmup, with_baseline
from ablations.config.labels import level_text
from ablations.config.positions import split_positions
from ablations.config.run_config import coerce, parse
from ablations.config.tuning import (
    EXAMPLE,
    Space,
    TuningDesign,
    parse_space,
    smallest,
    with_default_trials,
    with_option,
)
from ablations.errors import UsageError

TUNING_OPTIONS = {
    "trials": "--trials",
    "seeds": "--tune-seeds",
    "epochs": "--tune-epochs",
    "sampler": "--tune-sampler",
    "per": "--tune-per",
    "prune": "--prune",
}
"""Options of the command line by the field of a TuningDesign."""


def override(
    grid: Grid,
    *,
    axes: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    seeds: int | None = None,
) -> Grid:
    """Return the grid with other axes, other fixed fields, and seeds 0 to seeds - 1.

    A setting of a field that is an axis replaces the axis. Epochs that do not exceed the warm-up shorten it
    to a tenth of them, unless it is set too.
    """
    settings = dict(settings or {})
    if "seed" in settings:
        raise UsageError("seed cannot be set: --seeds N runs the seeds 0 to N - 1")
    if seeds is not None and not (isinstance(seeds, int) and seeds >= 1):
        raise UsageError(f"seeds must be an integer of at least 1, got {seeds!r}")
    fit_warmup(settings, grid.axes, grid.base.warmup_epochs)
    merged = {**grid.axes, **{field: tuple(dict.fromkeys(values)) for field, values in (axes or {}).items()}}
    merged = {field: values for field, values in merged.items() if field not in settings}
    base = replace(grid.base, **settings)
    changed = replace(grid, base=base, axes=merged, seeds=grid.seeds if seeds is None else tuple(range(seeds)))
    return changed if grid.baseline in map(level_text, changed.levels) else with_baseline(changed)


def parse_axes(texts: Mapping[str, str | None]) -> dict[str, tuple[Any, ...]]:
    """Parse axes from comma-separated lists of the command line. Lists that are None are omitted."""
    return {
        field: tuple(parse(field, part) for part in split_positions(text))
        for field, text in texts.items()
        if text is not None
    }


def parse_settings(texts: Mapping[str, str | None], pairs: Sequence[str]) -> dict[str, Any]:
    """Fixed fields from the command line: options by field, and FIELD=VALUE pairs, which win."""
    settings = {field: parse(field, text) for field, text in texts.items() if text is not None}
    for pair in pairs:
        field, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set must be FIELD=VALUE, such as width=96, got {pair!r}")
        settings[field.strip()] = parse(field.strip(), text)
    return settings


def parse_spaces(texts: Sequence[str]) -> dict[str, Space]:
    """Parse the spaces of `--tune`, by field. Raises UsageError as `parse_space`, and for a field that comes twice."""
    spaces: dict[str, Space] = {}
    for field, space in map(parse_space, texts):
        if field in spaces:
            raise UsageError(f"--tune must be given once for {field}, got it twice")
        spaces[field] = space
    return spaces


def with_tuning(
    grid: Grid,
    spaces: Mapping[str, Space],
    options: Mapping[str, Any],
    fixed: Container[str] = (),
) -> Grid:
    """Return the grid with more tuned fields, and other options of its tuning; those that are None are not changed.

    Raises UsageError for options of a grid that is not tuned, a tuned field that is `fixed` too, or an impossible
    search.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if grid.tuning is None and not spaces:
        if given:
            raise UsageError(f"{TUNING_OPTIONS[next(iter(given))]} requires --tune, such as {EXAMPLE}")
        return grid
    if grid.tuning is None:
        design = with_default_trials(TuningDesign(dict(spaces)))
    else:
        design = replace(grid.tuning, space={**grid.tuning.space, **spaces})
    for name, value in given.items():
        design = with_option(design, name, value, TUNING_OPTIONS[name])
    for field in design.space:
        if field in fixed:
            raise UsageError(f"{field} must be set or tuned, not both")
    changed = replace(grid, tuning=design)
    design.check(changed.base, changed.axes, changed.seeds)
    return changed


def without_tuning(grid: Grid, spaces: Sequence[str], options: Mapping[str, Any]) -> Grid:
    """Return the grid at the values of its `base`. Raises UsageError if spaces or options of a search are given too."""
    given = ["--tune"] * bool(spaces) + [TUNING_OPTIONS[name] for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"--no-tune cannot be combined with {given[0]}")
    return replace(grid, tuning=None)


def coerce_changes(changes: Mapping[str, Any]) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """Return the axes and the fixed fields among changes from Python: a list is an axis, any other value is fixed.

    A list of names is one value of `classes`. Raises UsageError as `coerce`, and for a list without a value.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    settings: dict[str, Any] = {}
    for field, value in changes.items():
        if isinstance(value, list) and not value:
            raise UsageError(f"{field} must be a value, or a list of at least one, got []")
        if isinstance(value, list) and not (field == "classes" and all(isinstance(name, str) for name in value)):
            axes[field] = tuple(coerce(field, level) for level in value)
        else:
            settings[field] = coerce(field, value)
    if "seed" in changes:
        raise UsageError("seed cannot be set: seeds=N runs the seeds 0 to N - 1")
    return axes, settings


def shrink(grid: Grid) -> Grid:
    """Return a grid that trains in seconds: one seed, two epochs in every arm, few images, the smallest depth."""
    axes = {field: values for field, values in grid.axes.items() if field not in _SHRUNK}
    if "depth" in grid.axes:
        axes["depth"] = (min(grid.axes["depth"]),)
    few = min(20, grid.base.per_class or 20)
    base = replace(grid.base, epochs=2, warmup_epochs=0.2, per_class=few, data_fraction=1.0)
    tuning = None if grid.tuning is None else smallest(grid.tuning)
    return replace(
        grid, name=f"{grid.name}-smoke", base=base, axes=axes, seeds=grid.seeds[:1], match=None, tuning=tuning
    )


_SHRUNK = ("epochs", "warmup_epochs", "per_class", "data_fraction")
