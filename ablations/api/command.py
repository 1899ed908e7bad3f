"""The shell command of a call of `ablations.run`, which a plan records and a report states."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ablations.config import Grid


def command_of(grid: Grid | str, arguments: Mapping[str, Any]) -> str:
    """Return the command that runs the same study anywhere. `grid` is a name, a file, or a Grid."""
    call = ", ".join((_literal(grid), *(f"{name}={_literal(value)}" for name, value in arguments.items())))
    names = ["Grid", "RunConfig"] if isinstance(grid, Grid) else []
    names += ["Range", "TuningDesign"] if isinstance(grid, Grid) and grid.tuning else []
    imported = f"from ablations import {', '.join(sorted(names))}; " if names else ""
    return shlex.join(["python", "-c", f"import ablations; {imported}ablations.run({call})"])


def _literal(value: Any) -> str:
    """Return the source code of a value; of a dataclass without the fields that have their default."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # in double quotes, as the shell takes the single ones
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(each)}' for key, each in value.items())}}}"
    if is_dataclass(value):
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        kept = (
            f"{field.name}={_literal(given[field.name])}"
            for field in fields(value)
            if given[field.name] != field.default
        )
        return f"{type(value).__name__}({', '.join(kept)})"
    return repr(value)
