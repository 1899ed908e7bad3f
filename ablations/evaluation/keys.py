"""Keys of evaluations: the run, the protocol with its options, and the code that both depend on."""

import hashlib
import inspect
import json
from functools import cache

from ablations.errors import UsageError
from ablations.evaluation.protocol import Protocol
from ablations.evaluation.registry import own, protocol
from ablations.storage.code_version import code_version, component_digest, imported_sources

SHARED = (
    *(f"ablations/evaluation/{name}.py" for name in ("finished_run", "numbers", "patches", "protocol")),
    *(f"ablations/data/{name}.py" for name in ("augmentation", "loader", "normalisation", "preprocessing", "split")),
    "ablations/models/inference.py",
    "ablations/config/model.py",
)
"""Sources that every protocol may depend on, relative to the root of the code."""


def evaluation_key(run: str, text: str, position: str) -> str:
    """Return the key of an evaluation: SHA-256 (64 hex characters) of the run's key, the protocol and the code.

    `text` is the protocol in its standard spelling; `position` the encoding of the run.
    """
    identity = {"run": run, "protocol": text, "code": evaluation_code(text, position), "format": 1}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def key_of(run: str, text: str, position: str) -> str | None:
    """Return the `evaluation_key`; None if the protocol no longer exists, or its file is gone or has changed."""
    try:
        return evaluation_key(run, text, position)
    except UsageError:
        return None


@cache
def evaluation_code(text: str, position: str) -> dict[str, str]:
    """Return the SHA-256 of the code that a protocol depends on, by component: its own, the model, the encoding."""
    version = code_version(position, "numpy")
    of_run = {name: version[name] for name in version if name == "model" or name.startswith("position ")}
    return of_run | {"protocol": _protocol_digest(type(protocol(text)))}


def _protocol_digest(kind: type[Protocol]) -> str:
    """Return the SHA-256 of the source of a protocol and of what it may depend on."""
    if (digest := own.digest_of(kind.name)) is None:
        return component_digest((*SHARED, inspect.getfile(kind)))
    imported = imported_sources(kind, own.source_of(kind.name))
    return hashlib.sha256(f"{digest} {component_digest((*SHARED, *imported))}".encode()).hexdigest()
