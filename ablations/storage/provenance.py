"""The environment in which a run is trained: code, packages, processor, threads."""

import platform
from functools import cache
from typing import Any

from ablations.machine import CUDA_PACKAGES, PACKAGES, available_cores, cpu_model, describe_gpus, git_state, versions
from ablations.storage.code_version import code_version, recorded_version

BITS = ("python", "packages", "platform", "cpu", "backend", "gpus")
"""What in an environment, besides the code, determines the bits of a run."""


def describe(*, position: str, backend: str, threads: int) -> dict[str, Any]:
    """Return the contents of a run's environment.json."""
    encodings = described_encodings(position)
    return {
        "git": git_state(),
        "code": code_version(position, backend),
        **({"encodings": encodings} if encodings else {}),
        "python": platform.python_version(),
        "packages": versions((*PACKAGES, *CUDA_PACKAGES)),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": available_cores(),
        "backend": backend,
        "gpus": describe_gpus() if backend == "cupy" else [],
        "threads": threads,
    }


def described_encodings(position: str) -> dict[str, dict[str, str]]:
    """Return name, description and source of the parts of an encoding that are not in this package, by label."""
    if "@" not in position:
        return {}
    from vit.positions import encoding, own

    return {
        own.short_name(part.name): {
            "name": part.name,
            "description": part.description,
            "source": own.source_of(part.name),
        }
        for part in encoding(position).parts
        if own.digest_of(part.name)
    }


def determinants(environment: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an environment that determines the bits of its run."""
    return {name: environment.get(name) for name in BITS} | {"code": recorded_version(environment)}


@cache
def place(position: str, backend: str) -> dict[str, Any]:
    """Return the `determinants` of a run with this position and backend that is trained here."""
    return determinants(describe(position=position, backend=backend, threads=1))
