"""The functions behind ``vitab data``: list, fetch, verify, sheet."""

from dataclasses import dataclass
from pathlib import Path

from ablations.data.contact_sheet import save_contact_sheet
from ablations.data.datasets.fetch import Progress, Remote, fetch
from ablations.data.locations import cache_folder
from ablations.data.reading import Reading
from ablations.data.registry import AS_IT_COMES, DATASETS, DatasetInfo, load, lookup
from ablations.data.sources import KINDS
from ablations.errors import UsageError


@dataclass(frozen=True)
class DatasetLocation:
    """A dataset and its place on this machine; ``where`` is None if it is not here."""

    info: DatasetInfo
    where: Path | None


@dataclass(frozen=True)
class Verified:
    """The properties of a dataset that passed all checks."""

    name: str
    where: Path
    train_images: int
    validation_images: int
    test_images: int
    classes: int
    image_size: int
    channels: int
    fingerprint: str


def list_datasets(data_dir: Path | None = None) -> list[DatasetLocation]:
    """Return every dataset, searched in ``data_dir`` or in the cache. No dataset is read.

    Raises:
        UsageError: if ``data_dir`` is given and does not exist.
    """
    return [DatasetLocation(info, info.find(data_dir)) for info in DATASETS.values()]


def fetch_dataset(name: str, on_progress: Progress | None = None, *, cache: Path | None = None) -> list[Path]:
    """Download the missing files of a dataset into the cache, as `ablations.data.datasets.fetch.fetch` does.

    Args:
        on_progress: Called with (file name, bytes so far, bytes in all or None).
        cache: Instead of the user's cache folder of this data set.

    Raises:
        UsageError: if the name is unknown or there is nothing to fetch.
        VitabError: if a file cannot be had, or its checksum is wrong.
    """
    return fetch(remotes_of(name), cache or cache_folder(name), on_progress)


def remotes_of(name: str) -> tuple[Remote, ...]:
    """Return the files to download for a dataset.

    Raises:
        UsageError: if the name is unknown or there is nothing to fetch.
    """
    info = lookup(name)
    if not info.remotes:
        fetchable = ", ".join(other.name for other in DATASETS.values() if other.remotes)
        raise UsageError(f"dataset must be one of {fetchable} to be downloaded, got {name!r} (source: {info.source})")
    return info.remotes


def verify_dataset(
    name: str, data_dir: Path | None = None, *, labels: str = "fine", reading: Reading = AS_IT_COMES
) -> Verified:
    """Read a data set in full, with every check that `load` makes, and say what was found.

    Raises:
        UsageError: naming the file and what is wrong with it.
    """
    dataset = load(name, data_dir=data_dir, labels=labels, reading=reading)
    where = lookup(name).find(data_dir)
    assert where is not None
    return Verified(
        name=name,
        where=where,
        train_images=dataset.train_part,
        validation_images=dataset.validation_images,
        test_images=len(dataset.test_labels),
        classes=dataset.classes,
        image_size=dataset.image_size,
        channels=dataset.channels,
        fingerprint=dataset.fingerprint,
    )


def sheet(
    name: str,
    out: Path,
    data_dir: Path | None = None,
    *,
    labels: str = "fine",
    classes: int | tuple[str, ...] | None = None,
    samples: int | None = None,
    seed: int = 0,
    reading: Reading = AS_IT_COMES,
) -> Path:
    """Write a PNG of samples with their labels; see `ablations.data.contact_sheet`. Gives back ``out``."""
    dataset = load(name, data_dir=data_dir, labels=labels, classes=classes, reading=reading)
    own = data_dir.expanduser().resolve().name if data_dir is not None and name in KINDS else ""
    save_contact_sheet(dataset, out, name=own, samples=samples, seed=seed)
    return out
