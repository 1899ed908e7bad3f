"""Load the dataset of a run, cached in memory."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.config import RunConfig
from ablations.data.heartbeat import heartbeat_listener
from ablations.data.reading import Reading

if TYPE_CHECKING:
    from ablations.data import Dataset


def dataset_for(config: RunConfig, data_dir: Path | None, heartbeat: Callable[[], object] = lambda: None) -> "Dataset":
    """Return the dataset of a run, with heartbeats while it is read. The last few are kept in memory."""
    with heartbeat_listener(heartbeat):
        return _read(*_choice(config), data_dir)


def datasets_for(configs: Iterable[RunConfig], data_dir: Path | None) -> Iterator[tuple[RunConfig, "Dataset"]]:
    """Yield the datasets of runs, each once with a run on it."""
    for choice, config in {_choice(config): config for config in configs}.items():
        yield config, _read(*choice, data_dir)


def _choice(config: RunConfig) -> tuple[Any, ...]:
    """Return what the fields of a run say about its dataset."""
    return config.data, config.labels, config.classes, config.per_class, Reading.of(config)


@lru_cache(maxsize=4)
def _read(
    data: str,
    labels: str,
    classes: int | tuple[str, ...] | None,
    per_class: int | None,
    reading: Reading,
    data_dir: Path | None,
) -> "Dataset":
    from ablations.data import load

    return load(data, data_dir=data_dir, labels=labels, classes=classes, per_class=per_class, reading=reading)
