"""Where and with what a run is trained: code, packages, processor, threads."""

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import Any

from ablations.machine import (
    CUDA_PACKAGES,
    PACKAGES,
    ROOT,
    available_cores,
    cpu_model,
    describe_gpus,
    git_state,
    versions,
)


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
        "gpus": describe_gpus() if backend == "cupy" else [],
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
def vit_digest() -> str:
    """SHA-256 over names and contents of the sources of `vit`: runs with the same share the model's code."""
    return _digest(ROOT / "vit")


TRAINING = ("training/trainer.py", "training/stack.py", "training/gpu_stack.py", "data/")
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
