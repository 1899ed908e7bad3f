"""Reproduction of a finished run: train it again and compare the results."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.config import position_sources, run_key
from ablations.data.loading import dataset_for
from ablations.errors import UsageError, VitabError
from ablations.storage import Store, config_of, problems
from ablations.storage.provenance import determinants


@dataclass(frozen=True)
class Reproduction:
    """Comparison of a finished run with a repetition of it."""

    same_place: bool
    """Whether code, packages and processor are those of the finished run, so that identical bits are expected."""
    same_bits: bool
    accuracy: float
    accuracy_before: float
    tolerance: float
    """Two standard errors of the difference between two accuracies, assuming independent test images."""

    @property
    def good(self) -> bool:
        """Whether the bits agree or, in another environment, the accuracies agree within the tolerance."""
        return self.same_bits if self.same_place else abs(self.accuracy - self.accuracy_before) <= self.tolerance


def reproduce(store: Store, key: str, *, data_dir: Path | None, backend: str, threads: int) -> Reproduction:
    """Train a finished run again and compare the results. The store is not written.

    Raises UsageError if the dataset here differs from that of the run, VitabError if a file of the run is damaged.
    """
    from ablations.storage.provenance import describe
    from ablations.training.precision import check_runs
    from ablations.training.trainer import train

    if found := problems(store, key):
        raise VitabError(f"run {key[:16]} is damaged: {'; '.join(found)}")
    config = config_of(store, key)
    try:
        position_sources(config.position)
    except UsageError as error:
        raise UsageError(
            f"{error}; the source of the encoding is in {store.folder(key) / 'environment.json'} (encodings)"
        ) from error
    check_runs([config], backend)
    dataset = dataset_for(config, data_dir)
    if run_key(config, dataset.fingerprint) != key:
        raise UsageError(
            f"the dataset must be the one that run {key[:16]} was trained on, got a different {config.data}"
        )
    here = describe(position=config.position, backend=backend, threads=threads)
    record = train(config, dataset, backend=backend, threads=threads)
    before, weights = store.predictions(key), store.checkpoint(key)
    accuracy = float(store.result(key)["test_accuracy"])
    return Reproduction(
        same_place=_where(store.environment(key)) == _where(here),
        same_bits=_same(record.predictions, before) and _same(record.state, {n: weights.get(n) for n in record.state}),
        accuracy=float(record.test_accuracy),
        accuracy_before=accuracy,
        tolerance=2 * math.sqrt(2 * accuracy * (1 - accuracy) / len(dataset.test_labels)),
    )


def _where(environment: dict[str, Any]) -> dict[str, Any]:
    where = determinants(environment) | {"places": environment.get("places", [])}
    # On a GPU a matrix product may sum in a different order in a stack than in a single run; on a CPU it does not
    return where | {"stack": environment.get("stack", 1) if where["backend"] == "cupy" else 1}


def _same(first: dict[str, np.ndarray], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name], equal_nan=True) for name in first
    )
