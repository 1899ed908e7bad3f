"""Finished runs looked at again: whether their files are what was written, and whether training gives them again."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.config import RunConfig, run_key
from ablations.environment import WHERE
from ablations.errors import UsageError, VitabError
from ablations.files import read_json
from ablations.scheduling.workers import dataset_for
from ablations.store import FILES, Store


def finished_keys(store: Store) -> tuple[list[str], list[Path]]:
    """The keys of all finished runs in a folder, and the folders whose DONE.json says nothing sensible."""
    keys, unreadable = [], []
    for path in sorted(store.root.glob("*/DONE.json")):
        content = read_json(path)
        key = content.get("key") if isinstance(content, dict) else None
        if isinstance(key, str) and store.folder(key) == path.parent and store.done(key):
            keys.append(key)
        else:
            unreadable.append(path.parent)
    return keys, unreadable


def problems(store: Store, key: str) -> list[str]:
    """What is wrong with the files of a finished run; empty when every one is as written and can be read."""
    manifest = read_json(store.folder(key) / "DONE.json")
    listed = manifest.get("sha256", {}) if isinstance(manifest, dict) else {}
    found = {name: f"{name} is missing from DONE.json" for name in FILES if name not in listed}
    found |= {name: f"{name} is not what was written" for name in store.verify(key)}
    readers: dict[str, Callable[[str], object]] = {
        "environment.json": store.environment,
        "metrics.csv": store.metrics,
        "predictions.npz": store.predictions,
        "checkpoint.safetensors": store.checkpoint,
        "result.json": store.result,
        "config.json": lambda key: config_of(store, key),
    }
    for name, read in readers.items():
        if name not in found:
            try:
                read(key)
            except Exception as error:
                found[name] = f"{name} cannot be read: {' '.join(str(error).split())}"
    return list(found.values())


def config_of(store: Store, key: str) -> RunConfig:
    """The config of a run by its own file; UsageError when it is damaged."""
    content = read_json(store.folder(key) / "config.json")
    if not isinstance(content, dict):
        raise UsageError(f"{store.folder(key) / 'config.json'} is damaged")
    return RunConfig.from_mapping(content)


def find_key(store: Store, beginning: str) -> str:
    """The key of the one finished run that begins so; UsageError when there is none or several."""
    keys = [key for key in finished_keys(store)[0] if beginning and key.startswith(beginning)]
    if len(keys) != 1:
        what = "no finished run" if not keys else f"{len(keys)} finished runs"
        raise UsageError(f"{what} in {store.root} with a key that begins with {beginning!r}; keys are names of folders")
    return keys[0]


@dataclass(frozen=True)
class Reproduction:
    """A finished run beside itself, trained once more."""

    same_place: bool
    """Whether code, packages and processor are those of the finished run, all the way, so that its bits are due."""
    same_bits: bool
    accuracy: float
    accuracy_before: float
    tolerance: float
    """Two standard errors of the difference of two such accuracies, as if on independent images."""

    @property
    def good(self) -> bool:
        """Bits in the same place, accuracy in another."""
        return self.same_bits if self.same_place else abs(self.accuracy - self.accuracy_before) <= self.tolerance


def reproduce(store: Store, key: str, *, data_dir: Path | None, backend: str, threads: int) -> Reproduction:
    """Train a finished run again and compare; the store is not written.

    Raises UsageError when the data here are not those of the run, VitabError when its files are damaged.
    """
    from ablations.environment import describe
    from ablations.precision import check_runs
    from ablations.trainer import train

    if found := problems(store, key):
        raise VitabError(f"run {key[:16]} is damaged: {'; '.join(found)}")
    config = config_of(store, key)
    check_runs([config], backend)
    dataset = dataset_for(config, data_dir)
    if run_key(config, dataset.fingerprint) != key:
        raise UsageError(f"run {key[:16]} was trained on other data than {config.data} is here")
    record = train(config, dataset, backend=backend, threads=threads)
    before, weights = store.predictions(key), store.checkpoint(key)
    accuracy = float(store.result(key)["test_accuracy"])
    return Reproduction(
        same_place=_where(store.environment(key)) == _where(describe(backend=backend, threads=threads)),
        same_bits=_same(record.predictions, before) and _same(record.state, {n: weights.get(n) for n in record.state}),
        accuracy=float(record.test_accuracy),
        accuracy_before=accuracy,
        tolerance=2 * math.sqrt(2 * accuracy * (1 - accuracy) / len(dataset.test_labels)),
    )


def _where(environment: dict[str, Any]) -> dict[str, Any]:
    where = {name: environment.get(name) for name in WHERE} | {"places": environment.get("places", [])}
    # On a GPU the products of a stack may sum in another order than those of a run alone; on a CPU they do not
    return where | {"stack": environment.get("stack", 1) if where["backend"] == "cupy" else 1}


def _same(first: dict[str, np.ndarray], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
