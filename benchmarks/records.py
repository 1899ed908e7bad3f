"""What benchmarks write to a file: their records, and beside them the machine that they are of."""

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
    """NAME.machine.json beside the records NAME.json: the machine, the versions, and what else there is to say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = path.with_name(f"{path.stem}.machine.json")
    about.write_text(json.dumps({**environment(), **more}, indent=2) + "\n")


def save_records(path: Path, records: Sequence[Any]) -> None:
    """A list of dataclasses."""
    path.write_text(json.dumps([asdict(record) for record in records], indent=2) + "\n")


def environment() -> dict[str, object]:
    """The machine and the versions behind the figures."""
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
