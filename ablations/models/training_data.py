"""The data that a finished run was trained on, and whether those here are the same."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.config import RunConfig
from ablations.config.run_config import OWN_DATA
from ablations.data.loading import dataset_for
from ablations.errors import UsageError, VitabError
from ablations.storage import Store, config_of

if TYPE_CHECKING:
    from ablations.data import Dataset


def dataset_of(
    store: Store, key: str, data_dir: Path | None = None, heartbeat: Callable[[], object] = lambda: None
) -> "Dataset":
    """Return the dataset of a finished run. Raises UsageError if it is not the one that the run was trained on."""
    config = config_of(store, key)
    require_data_dir(store, key, config, data_dir)
    dataset = dataset_for(config, data_dir, heartbeat)
    if store.environment(key).get("data_sha256") not in (None, dataset.fingerprint):
        raise other_data(store, key, dataset)
    return dataset


def require_data_dir(store: Store, key: str, config: RunConfig, data_dir: Path | None) -> None:
    """Raise UsageError if a run was trained on one's own data, and their place is not given."""
    if data_dir is None and config.data in OWN_DATA:
        name = data_name(store, key, config)
        raise place_missing(f"run {key[:16]} was trained on {name!r}", config)


def place_missing(what: str, config: RunConfig) -> UsageError:
    """Return the error for one's own data whose place is not given."""
    place = {"folder": "folder", "csv": "CSV file", "npz": ".npz file"}.get(config.data, "file or folder")
    return UsageError(f"{what}: give its {place} with --data-dir PATH")


def data_name(store: Store, key: str, config: RunConfig) -> str:
    """Return the name of the data of a run: that of the folder or file of one's own data, if it is recorded."""
    recorded = store.environment(key).get("dataset", {})
    return str(recorded.get("name", config.data)) if config.data in OWN_DATA else config.data


def other_data(store: Store, key: str, dataset: "Dataset") -> UsageError:
    """Return the error for a dataset that is not the one that a run was trained on."""
    name = data_name(store, key, config_of(store, key))
    changed = f"have changed since its training{numbers(store, key, dataset)}"
    return UsageError(f"the data of run {key[:16]} ({name}) {changed}")


def numbers(store: Store, key: str, dataset: "Dataset") -> str:
    """Return how many images a finished run was trained and tested on, if recorded, and how many there are now.

    Such as `: 122 images, now 120`.
    """
    try:
        recorded = store.environment(key).get("dataset", {})
    except VitabError:  # damaged, which other commands say
        return ""
    parts = [recorded.get("train_images"), recorded.get("validation_images", 0), recorded.get("test_images")]
    if None in parts:
        return ""
    before, now = sum(parts), len(dataset.labels)
    return f": {before:,} images, now {now:,}" if before != now else f": {now:,} images as before, but not the same"
