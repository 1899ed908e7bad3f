"""The named grids, each with the question it answers; a user's own from TOML; command line changes."""

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablations.config import Grid, RunConfig, coerce, parse, unknown_name
from ablations.errors import UsageError

POSITIONS = ("none", "learned", "sinusoidal", "rope")

GRIDS: dict[str, Grid] = {
    grid.name: grid
    for grid in (
        Grid(
            name="rope",
            question="Which positional encoding earns its keep, and does it depend on depth and patch size?",
            base=RunConfig(),
            axes={"position": POSITIONS, "depth": (2, 4), "patch": (2, 4)},
            seeds=(0, 1, 2),
        ),
        Grid(
            name="depth",
            question="How many blocks does a small Vision Transformer need?",
            base=RunConfig(position="rope"),
            axes={"depth": (1, 2, 4, 8)},
            seeds=(0, 1, 2),
            baseline="1",
        ),
        Grid(
            name="patch",
            question="How small should the patches be?",
            base=RunConfig(position="rope"),
            axes={"patch": (1, 2, 4)},
            seeds=(0, 1, 2),
            baseline="4",
        ),
        Grid(
            name="data-fraction",
            question="How much is a positional encoding worth when there is less to learn from?",
            base=RunConfig(),
            axes={"position": POSITIONS, "data_fraction": (0.1, 0.25, 0.5, 1.0)},
            seeds=(0, 1, 2),
        ),
        Grid(
            name="smoke",
            question="Does everything work from data to report?",
            base=RunConfig(depth=1, patch=4, width=16, epochs=2, warmup_epochs=0.2, per_class=20),
            axes={"position": ("none", "rope")},
            seeds=(0, 1),
        ),
    )
}

TOML_FIELDS = ("name", "question", "baseline", "seeds", "base", "axes")


def find(name: str) -> Grid:
    """The built-in grid of this name, or the grid in this TOML file."""
    if name in GRIDS:
        return GRIDS[name]
    if name.endswith(".toml") or "/" in name or Path(name).is_file():
        return load(Path(name))
    error = unknown_name("grid", name, GRIDS)
    raise UsageError(f"{error}, or a file such as mine.toml")


def load(path: Path) -> Grid:
    """A grid from a TOML file with the fields of Grid.

    ::

        name = "width"                                  # default: the name of the file
        question = "Do wider models need positions?"
        baseline = "none"                               # the level of position (or the first axis) to compare with
        seeds = 3                                       # or [0, 1, 2]

        [base]                                          # any field of RunConfig
        epochs = 20

        [axes]                                          # any field but seed, with a list of values
        position = ["none", "rope"]
        width = [32, 64]

    Raises UsageError with the file, and the field or line, for anything that cannot be read or is not valid.
    """
    try:
        table = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UsageError(f"cannot read the grid file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a TOML file: it is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    try:
        return from_mapping(table, default_name=path.stem)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def from_mapping(table: Mapping[str, Any], *, default_name: str) -> Grid:
    """A grid from the mapping that `load` describes; UsageError names the field."""
    for key in table:
        if key not in TOML_FIELDS:
            raise unknown_name("field", key, TOML_FIELDS)
    base = _table(table, "base")
    axes = _table(table, "axes")
    if not axes:
        raise UsageError("axes must have at least one field with a list of values, such as depth = [1, 2]")
    if "seed" in base or "seed" in axes:
        raise UsageError("seed is neither in base nor an axis: give seeds = 3, or seeds = [0, 1, 2]")
    for field in axes:
        if field in base:
            raise UsageError(f"{field} is both in base and in axes; valid: one of them")
    with _inside("base"):
        base = {field: coerce(field, value) for field, value in base.items()}
    _fit_warmup(base, axes, RunConfig().warmup_epochs)
    config = RunConfig(**base)
    values = {field: _axis(field, given) for field, given in axes.items()}
    grid = Grid(
        name=check_name("name", table.get("name", default_name)),
        question=_text("question", table.get("question", f"What do {', '.join(values)} change?")),
        base=config,
        axes=values,
        seeds=_seeds(table.get("seeds", 3)),
    )
    grid = _with_baseline(grid, table.get("baseline"))
    grid.expand()
    return grid


def override(
    grid: Grid,
    *,
    axes: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    seeds: int | None = None,
) -> Grid:
    """The grid with other axes, other fixed fields, and seeds 0 to seeds - 1.

    A setting of a field that is an axis replaces the axis. Epochs that do not exceed the warm-up shorten it
    to a tenth of them, unless it is set too.
    """
    settings = dict(settings or {})
    if "seed" in settings:
        raise UsageError("seed cannot be set: --seeds N runs the seeds 0 to N - 1")
    if seeds is not None and seeds < 1:
        raise UsageError(f"seeds must be a whole number of 1 or more, got {seeds}")
    _fit_warmup(settings, grid.axes, grid.base.warmup_epochs)
    merged = {**grid.axes, **{field: tuple(dict.fromkeys(values)) for field, values in (axes or {}).items()}}
    merged = {field: values for field, values in merged.items() if field not in settings}
    base = replace(grid.base, **settings)
    changed = replace(grid, base=base, axes=merged, seeds=grid.seeds if seeds is None else tuple(range(seeds)))
    return changed if grid.baseline in map(str, changed.levels) else _with_baseline(changed)


def parse_axes(texts: Mapping[str, str | None]) -> dict[str, tuple[Any, ...]]:
    """Axes from comma-separated lists of the command line; a list that is not given is left out."""
    return {
        field: tuple(parse(field, part) for part in text.split(","))
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


def shrink(grid: Grid) -> Grid:
    """The grid made small enough to try in seconds: one seed, two epochs, few images, its least depth."""
    axes = {field: values for field, values in grid.axes.items() if field not in _SHRUNK}
    if "depth" in grid.axes:
        axes["depth"] = (min(grid.axes["depth"]),)
    few = min(20, grid.base.per_class or 20)
    base = replace(grid.base, epochs=2, warmup_epochs=0.2, per_class=few, data_fraction=1.0)
    return replace(grid, name=f"{grid.name}-smoke", base=base, axes=axes, seeds=grid.seeds[:1])


def _fit_warmup(settings: dict[str, Any], axes: Mapping[str, Any], warmup: float) -> None:
    if "warmup_epochs" not in {*settings, *axes} and warmup >= settings.get("epochs", math.inf):
        settings["warmup_epochs"] = settings["epochs"] / 10


_SHRUNK = ("epochs", "warmup_epochs", "per_class", "data_fraction")


def _with_baseline(grid: Grid, baseline: object = None) -> Grid:
    """The grid with this baseline, or with "none" where that is compared, else the first level compared."""
    levels = [str(level) for level in grid.levels]
    if baseline is not None and str(baseline) not in levels:
        raise unknown_name(f"baseline of {grid.compared}", str(baseline), levels)
    default = "none" if "none" in levels else levels[0]
    return replace(grid, baseline=default if baseline is None else str(baseline))


def check_name(field: str, name: Any) -> str:
    """`name` if it can be the name of a folder; UsageError otherwise."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise UsageError(
            f"{field} must be up to 100 letters, digits, '_', '-' or '.', not first '-' or '.', got {name!r}"
        )
    return name


@contextmanager
def _inside(table: str) -> Iterator[None]:
    """Errors within say which table they are in."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"[{table}] {error}") from error


def _table(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise UsageError(f"{name} must be a table, written [{name}], got {value!r}")
    return value


def _axis(field: str, given: Any) -> tuple[Any, ...]:
    if not isinstance(given, list) or not given:
        raise UsageError(f"[axes] {field} must be a list of at least one value, got {given!r}")
    with _inside("axes"):
        return tuple(dict.fromkeys(coerce(field, value) for value in given))


def _seeds(given: Any) -> tuple[int, ...]:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return tuple(range(given))
    if isinstance(given, list) and given:
        return tuple(dict.fromkeys(coerce("seed", value) for value in given))
    raise UsageError(f"seeds must be a whole number of 1 or more, or a list of seeds, got {given!r}")


def _text(field: str, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise UsageError(f"{field} must be a text, got {given!r}")
    return given
