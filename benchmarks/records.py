"""Output files of the benchmarks: records, and the machine on which they were measured."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ablations.machine import cpu_model


def save_machine(path: Path, **more: object) -> None:
    """Write the machine, package versions and `more` to NAME.machine.json, in the folder of the records NAME.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = path.with_name(f"{path.stem}.machine.json")
    about.write_text(json.dumps({**environment(), **more}, indent=2) + "\n")


def save_records(path: Path, records: Sequence[Any]) -> None:
    """Write a list of dataclasses as JSON."""
    path.write_text(json.dumps([asdict(record) for record in records], indent=2) + "\n")


def environment() -> dict[str, object]:
    """Return the machine and the package versions."""
    packages = {}
    for name in ("numpy", "scipy", "numba", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        **packages,
    }
