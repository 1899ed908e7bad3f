"""Versions of installed packages, and the git commit of this code."""

from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ablations.machine.processes import output

PACKAGES = ("vitab", "numpy", "scipy", "numba", "scikit-learn", "safetensors", "threadpoolctl")
CUDA_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")

ROOT = Path(__file__).resolve().parents[2]


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def has_cupy() -> bool:
    """Return whether CuPy is installed, without importing it."""
    return find_spec("cupy") is not None


@cache
def git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it, when this code runs from its own git checkout; else None."""
    top = output("git", "-C", str(ROOT), "rev-parse", "--show-toplevel")
    commit = output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != ROOT:
        return None
    changes = output("git", "-C", str(ROOT), "status", "--porcelain", "--", "vit", "ablations", "pyproject.toml")
    return {"commit": commit, "dirty": bool(changes)}
