"""Verification of the files of finished runs."""

from collections.abc import Callable, Collection
from pathlib import Path

from ablations.config import RunConfig, position_sources
from ablations.errors import UsageError
from ablations.storage.evaluations import EvaluationStore
from ablations.storage.files import read_json
from ablations.storage.store import Store
from ablations.storage.trials import TrialStore


def finished_keys(store: Store) -> tuple[list[str], list[Path]]:
    """Return the keys of all finished runs in a folder, and the run folders whose DONE.json is damaged."""
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
    """Return a clause for each file of a finished run that is missing, damaged or unreadable."""
    manifest = read_json(store.folder(key) / "DONE.json")
    listed = manifest.get("sha256", {}) if isinstance(manifest, dict) else {}
    found = {name: f"{name} is missing from DONE.json" for name in store.files if name not in listed}
    found |= {name: f"{name} does not match its checksum" for name in store.verify(key)}
    readers: dict[str, Callable[[str], object]] = {
        "environment.json": store.environment,
        "metrics.csv": store.metrics,
        "predictions.npz": store.predictions,
        "mistakes.npz": store.mistakes,
        "checkpoint.safetensors": store.checkpoint,
        "result.json": store.result,
        "config.json": lambda key: config_of(store, key),
    }
    if isinstance(store, EvaluationStore):
        readers["arrays.npz"] = store.arrays
    for name in store.files:
        if name not in found:
            try:
                readers[name](key)
            except Exception as error:
                found[name] = f"cannot read {name}: {' '.join(str(error).split())}"
    return list(found.values())


def config_of(store: Store, key: str) -> RunConfig:
    """Return the config in the config.json of a run. Raises UsageError if it is damaged."""
    content = read_json(store.folder(key) / "config.json")
    if not isinstance(content, dict):
        raise UsageError(f"{store.folder(key) / 'config.json'} is damaged")
    return RunConfig.from_mapping(content)


def readable_config(store: Store, key: str) -> RunConfig:
    """Return the config of a run. Raises UsageError if the source of its encoding cannot be read."""
    config = config_of(store, key)
    try:
        position_sources(config.position)
    except UsageError as error:
        raise UsageError(
            f"{error}; the source of the encoding is in {store.folder(key) / 'environment.json'} (encodings)"
        ) from error
    return config


def find_key(store: Store, beginning: str) -> tuple[Store, str]:
    """Return the key of the only finished run, trial or evaluation whose key begins so, and the store that has it.

    Raises UsageError if there is none or several.
    """
    stores = store, TrialStore.beside(store), EvaluationStore.beside(store)
    found = [
        (place, key) for place in stores for key in finished_keys(place)[0] if beginning and key.startswith(beginning)
    ]
    if len(found) != 1:
        what = (
            "no finished run, trial or evaluation"
            if not found
            else f"{len(found)} finished runs, trials or evaluations"
        )
        raise UsageError(f"{what} in {store.root} with a key that begins with {beginning!r}; keys are names of folders")
    return found[0]


def evaluations_of(store: EvaluationStore, runs: Collection[str] | None) -> tuple[list[str], list[Path]]:
    """Return `finished_keys` of the evaluations of these runs, and of those whose run is unknown; of all if None."""
    keys, unreadable = finished_keys(store)

    def belongs(folder: Path) -> bool:
        result = read_json(folder / "result.json")
        run = result.get("run") if isinstance(result, dict) else None
        return runs is None or run is None or run in runs

    return [key for key in keys if belongs(store.folder(key))], [path for path in unreadable if belongs(path)]
