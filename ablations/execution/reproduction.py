"""Reproduction of a finished run, trial or evaluation: train or measure again, and compare the results."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.config import run_key
from ablations.data.registry import check_data_dir
from ablations.errors import VitabError
from ablations.execution.tasks import ExecutionSettings
from ablations.models.training_data import dataset_of, other_data
from ablations.storage import EvaluationStore, Store, TrialStore, problems, readable_config, trial_key
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
    config = readable_config(store, key)
    check_data_dir([config.data], data_dir)
    check_runs([config], backend)
    dataset = dataset_of(store, key, data_dir)
    if run_key(config, dataset.fingerprint) != key:
        raise other_data(store, key, dataset)
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


def reproduce_trial(store: TrialStore, key: str, *, data_dir: Path | None, backend: str, threads: int) -> Reproduction:
    """Train a finished run of a trial again and compare its epochs. Raises as `reproduce`."""
    from ablations.data.loader import DataLoader
    from ablations.storage.provenance import describe
    from ablations.training.precision import check_runs
    from ablations.training.trainer import train_trial

    if found := problems(store, key):
        raise VitabError(f"trial run {key[:16]} is damaged: {'; '.join(found)}")
    config, before = readable_config(store, key), store.result(key)
    check_data_dir([config.data], data_dir)
    check_runs([config], backend)
    dataset = dataset_of(store, key, data_dir)
    if trial_key(config, dataset.fingerprint, before["thresholds"]) != key:
        raise other_data(store, key, dataset)
    here = describe(position=config.position, backend=backend, threads=threads)
    record = train_trial(config, dataset, before["thresholds"], backend=backend, threads=threads)
    accuracy, images = float(before["validation_accuracy"]), len(DataLoader.of(config, dataset).validation)
    curve = ("train_loss", "validation_loss", "validation_accuracy")
    epochs = [[getattr(metrics, name) for name in curve] for metrics in record.metrics]
    return Reproduction(
        same_place=_where(store.environment(key)) == _where(here),
        same_bits=epochs == [[metrics[name] for name in curve] for metrics in store.metrics(key)],
        accuracy=float(record.validation_accuracy),
        accuracy_before=accuracy,
        tolerance=2 * math.sqrt(2 * accuracy * (1 - accuracy) / images),
    )


TOLERANCE = 0.01
"""Difference of a metric accepted in another environment: absolute up to 1, relative above. The weights are the same,
but sums may be rounded differently, so that the predicted class of a few images changes."""


@dataclass(frozen=True)
class EvaluationReproduction:
    """Comparison of a finished evaluation with a repetition of it."""

    run: str
    protocol: str
    same_place: bool
    """Whether code, packages and processor are those of the evaluation, so that identical bits are expected."""
    same_bits: bool
    differences: dict[str, float]
    """Of metrics, by name, divided by the tolerance; infinite if only one of the two has the metric."""

    @property
    def good(self) -> bool:
        """Whether the bits agree or, in another environment, the metrics agree within the tolerance."""
        return self.same_bits if self.same_place else all(share <= 1 for share in self.differences.values())


def reproduce_evaluation(
    evaluations: EvaluationStore, key: str, *, data_dir: Path | None, backend: str, threads: int
) -> EvaluationReproduction:
    """Measure again what an evaluation has measured, and compare. Nothing is written.

    Raises VitabError if a file of the evaluation or of its run is damaged, or its protocol no longer exists.
    """
    from ablations.execution.evaluation import evaluation_environment, measure

    if found := problems(evaluations, key):
        raise VitabError(f"evaluation {key[:16]} is damaged: {'; '.join(found)}")
    before, arrays, environment = evaluations.result(key), evaluations.arrays(key), evaluations.environment(key)
    run, text = str(before["run"]), str(before["protocol"])
    if found := problems(evaluations.runs, run):
        raise VitabError(f"run {run[:16]}, which was evaluated, is damaged: {'; '.join(found)}")
    if not evaluations.is_of_current_run(before):
        raise VitabError(f"run {run[:16]} was trained again after evaluation {key[:16]}; evaluate it again first")
    config = readable_config(evaluations.runs, run)
    check_data_dir([config.data], data_dir)
    settings = ExecutionSettings(evaluations.root, data_dir, backend, threads)
    here = evaluation_environment(text, config.position, settings)
    measured = measure(evaluations.runs, run, text, settings)
    old, new = before["metrics"], dict(measured.metrics)
    places = [_where(one) | {"evaluation": one.get("evaluation")} for one in (environment, here)]
    same_metrics = old.keys() == new.keys() and all(_equal(old[name], new[name]) for name in old)
    return EvaluationReproduction(
        run=run,
        protocol=text,
        same_place=places[0] == places[1],
        same_bits=same_metrics and _same({name: np.asarray(a) for name, a in measured.arrays.items()}, arrays),
        differences={name: _difference(old.get(name), new.get(name)) for name in sorted({*old, *new})},
    )


def _equal(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


def _difference(before: float | None, now: float | None) -> float:
    """Return the difference of two values of a metric as a multiple of the tolerance."""
    if before is None or now is None:
        return math.inf
    if _equal(before, now):
        return 0.0
    difference = abs(now - before) / (TOLERANCE * max(1.0, abs(before)))
    return math.inf if math.isnan(difference) else difference


def _where(environment: dict[str, Any]) -> dict[str, Any]:
    where = determinants(environment) | {"places": environment.get("places", [])}
    # On a GPU a matrix product may sum in a different order in a stack than in a single run; on a CPU it does not
    return where | {"stack": environment.get("stack", 1) if where["backend"] == "cupy" else 1}


def _same(first: dict[str, np.ndarray], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name], equal_nan=True) for name in first
    )
