"""Grids by name or from TOML files."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablations.config.builtin_grids import GRIDS
from ablations.config.grid import Grid, check_name, fit_warmup, with_baseline
from ablations.config.run_config import RunConfig, coerce
from ablations.config.tuning import tuning_from_mapping
from ablations.errors import UsageError, unknown_name

TOML_FIELDS = ("name", "question", "baseline", "seeds", "protocols", "match", "base", "axes", "tune")


def find_grid(name: str) -> Grid:
    """Return the built-in grid of this name, or the grid in this TOML file."""
    if name in GRIDS:
        return GRIDS[name]
    if name.endswith(".toml") or "/" in name or Path(name).is_file():
        return load_grid(Path(name))
    error = unknown_name("grid", name, GRIDS)
    raise UsageError(f"{error}, or a file such as mine.toml")


def load_grid(path: Path) -> Grid:
    """Read a grid from a TOML file with the fields of Grid.

    ::

        name = "width"                                  # default: the name of the file
        question = "Do wider models need positions?"
        baseline = "none"                               # the level of position (or the first axis) to compare with
        seeds = 3                                       # or [0, 1, 2]
        protocols = ["resolution", "shift"]             # measured after the training; default: none
        match = "flops"                                 # or "seconds": compute that arms share; default: equal epochs

        [base]                                          # any field of RunConfig
        epochs = 20

        [axes]                                          # any field but seed, with a list of values
        position = ["none", "rope"]
        width = [32, 64]

        [tune]                                          # optional: training fields that each arm chooses by trials
        learning_rate = { low = 1e-4, high = 1e-2, log = true }
        weight_decay = [0.0, 0.05, 0.3]
        trials = 12                                     # of each arm at each setting
        seeds = 2                                       # of each trial; the default is 1
        epochs = 10                                     # of each trial; the default is that of the comparison
        per = "setting"                                 # or "arm": one choice over all settings
        sampler = "qmc"                                 # or "tpe"
        prune = "median"                                # default: "none"

    Raises UsageError with the file, and the field or line, for anything that cannot be read or is not valid.
    """
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read the grid file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a TOML file: it is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    try:
        return grid_from_mapping(table, default_name=path.stem)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def grid_from_mapping(table: Mapping[str, Any], *, default_name: str) -> Grid:
    """Return a grid from the mapping that `load_grid` describes. Raises UsageError with the field."""
    for key in table:
        if key not in TOML_FIELDS:
            raise unknown_name("field", key, TOML_FIELDS)
    base = _table(table, "base")
    axes = _table(table, "axes")
    if not axes:
        raise UsageError("axes must have at least one field with a list of values, such as depth = [1, 2]")
    if "seed" in base or "seed" in axes:
        raise UsageError("seed must not be in base or axes; use seeds = 3 or seeds = [0, 1, 2]")
    for field in axes:
        if field in base:
            raise UsageError(f"{field} must be in base or in axes, not in both")
    with _naming_table("tune"):
        tuning = tuning_from_mapping(_table(table, "tune")) if "tune" in table else None
    for field in () if tuning is None else tuning.space:
        if field in base or field in axes:
            raise UsageError(f"{field} must be in {'base' if field in base else 'axes'} or in tune, not in both")
    with _naming_table("base"):
        base = {field: coerce(field, value) for field, value in base.items()}
    fit_warmup(base, axes, RunConfig().warmup_epochs)
    config = RunConfig(**base)
    values = {field: _axis(field, given) for field, given in axes.items()}
    grid = Grid(
        name=check_name("name", table.get("name", default_name)),
        question=_text("question", table.get("question", _default_question(values))),
        base=config,
        axes=values,
        seeds=_seeds(table.get("seeds", 3)),
        protocols=_protocols(table.get("protocols", [])),
        match=table.get("match"),
        tuning=tuning,
    )
    grid = with_baseline(grid, table.get("baseline"))
    grid.expand()
    return grid


def _default_question(axes: Mapping[str, tuple[Any, ...]]) -> str:
    names = [name.replace("_", " ") for name, levels in axes.items() if len(levels) > 1] or [*axes]
    *first, last = names
    return f"What is the effect of {' and '.join(filter(None, (', '.join(first), last)))}?"


@contextmanager
def _naming_table(table: str) -> Iterator[None]:
    """Put the name of the table in front of the message of a UsageError."""
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
    with _naming_table("axes"):
        return tuple(dict.fromkeys(coerce(field, value) for value in given))


def _seeds(given: Any) -> tuple[int, ...]:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return tuple(range(given))
    if isinstance(given, list) and given:
        return tuple(dict.fromkeys(coerce("seed", value) for value in given))
    raise UsageError(f"seeds must be an integer of at least 1, or a list of seeds, got {given!r}")


def _protocols(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise UsageError(f'protocols must be a list of names, such as ["resolution"], got {given!r}')
    return tuple(dict.fromkeys(given))


def _text(field: str, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise UsageError(f"{field} must be a non-empty string, got {given!r}")
    return given
