"""Where and with what a run is trained: code, packages, processor, threads."""

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("vitab", "numpy", "scipy", "numba", "scikit-learn", "safetensors", "threadpoolctl")
CUDA_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
ROOT = Path(__file__).resolve().parent.parent


def describe(*, backend: str, threads: int) -> dict[str, Any]:
    """What environment.json says about a run."""
    return {
        "git": git_state(),
        "vit_sha256": vit_digest(),
        "training_sha256": training_digest(),
        "python": platform.python_version(),
        "packages": versions((*PACKAGES, *CUDA_PACKAGES)),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": available_cores(),
        "backend": backend,
        "gpus": gpus() if backend == "cupy" else [],
        "threads": threads,
    }


WHERE = ("vit_sha256", "training_sha256", "python", "packages", "platform", "cpu", "backend", "gpus")
"""What of an environment decides the bits of a run."""


@cache
def place(backend: str) -> dict[str, Any]:
    """What decides the bits of a run that is trained here."""
    here = describe(backend=backend, threads=1)
    return {name: here[name] for name in WHERE}


@cache
def git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it, when this code runs from its own git checkout; else None."""
    top = output("git", "-C", str(ROOT), "rev-parse", "--show-toplevel")
    commit = output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != ROOT:
        return None
    changes = output("git", "-C", str(ROOT), "status", "--porcelain", "--", "vit", "ablations", "pyproject.toml")
    return {"commit": commit, "dirty": bool(changes)}


@cache
def vit_digest() -> str:
    """SHA-256 over names and contents of the sources of `vit`: runs with the same share the model's code."""
    return _digest(ROOT / "vit")


TRAINING = ("trainer.py", "stack.py", "device_stack.py", "batches.py", "augmentation.py", "trivial_augment.py", "data/")
"""What of `ablations` decides the numbers of a run; the fields of a run are part of its key."""


@cache
def training_digest() -> str:
    """The same of the sources that make batches and train on them."""
    return _digest(ROOT / "ablations", TRAINING)


@cache
def code_digest() -> str:
    """The same of `vit` and `ablations`: half a run is only continued by the code that began it."""
    return hashlib.sha256(f"{vit_digest()} {_digest(ROOT / 'ablations')}".encode()).hexdigest()


def _digest(folder: Path, only: tuple[str, ...] = ("",)) -> str:
    """SHA-256 of the sources in a folder whose paths there begin with one of these."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".cu", ".cuh")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(only):
            continue
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def cpu_model() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        return output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


@cache
def gpus() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU; empty without a working driver."""
    text = output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return text.splitlines()


def has_cupy() -> bool:
    """Whether CuPy is installed; does not import it."""
    return find_spec("cupy") is not None


def blas() -> list[str]:
    """Name, version and threads of each BLAS that NumPy has loaded."""
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return [
        f"{pool['internal_api']} {pool.get('version') or ''}".strip() + f", {pool['num_threads']} threads"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]


def output(*command: str) -> str:
    """What a command prints; empty when it is absent, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
