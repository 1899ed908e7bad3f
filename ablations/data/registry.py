"""The datasets by name, and the function that reads them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.data.dataset import Dataset
from ablations.data.datasets import cifar, digits, fashion_mnist
from ablations.data.datasets.fetch import Remote
from ablations.data.reading import Reading
from ablations.data.reading import read as read_source
from ablations.data.sources import KINDS, find_source
from ablations.data.subset import subset
from ablations.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from ablations.config import RunConfig


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a dataset before it is read; ``None`` if only the files can tell.

    Attributes:
        image_size: Rows, and columns, in pixels.
        channels: 1 for grey, 3 for colour.
        source: Where it comes from, for people.
        read: ``read(data_dir, labels, reading)``, the whole data set.
        find: ``find(data_dir)``, the folder or archive that would be read, or None.
        label_sets: The valid values of ``labels``.
        remotes: The files to fetch; none where there is nothing to fetch.
        in_files: Whether it is read from files that a person has, rather than from an installed package.
    """

    name: str
    description: str
    classes: int | None
    image_size: int | None
    channels: int | None
    source: str
    read: Callable[[Path | None, str, Reading], Dataset] = field(repr=False)
    find: Callable[[Path | None], Path | None] = field(repr=False)
    label_sets: tuple[str, ...] = ("fine",)
    remotes: tuple[Remote, ...] = ()
    in_files: bool = True


def _read_own(kind: str, data_dir: Path | None, labels: str, reading: Reading) -> Dataset:
    return read_source(kind, data_dir, reading)


AS_IT_COMES = Reading()
NAME_A_KIND = f"add --data {', '.join(list(KINDS)[:-1])} or {list(KINDS)[-1]}"
"""What is missing where a place was given without saying what it is."""

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            description="1,400 training and 397 test scans of handwritten digits",
            classes=10,
            image_size=8,
            channels=1,
            source="scikit-learn",
            read=lambda data_dir, labels, reading: digits.read(),
            find=lambda data_dir: digits.location(),
            in_files=False,
        ),
        DatasetInfo(
            name="cifar10",
            description="50,000 training and 10,000 test photographs of animals and vehicles",
            classes=10,
            image_size=32,
            channels=3,
            source="https://www.cs.toronto.edu/~kriz/cifar.html",
            read=lambda data_dir, labels, reading: cifar.read(cifar.CIFAR10, data_dir, labels),
            find=partial(cifar.find, cifar.CIFAR10),
            remotes=(cifar.CIFAR10.archives[0].remote,),
        ),
        DatasetInfo(
            name="cifar100",
            description="50,000 training and 10,000 test photographs in 100 classes (--labels coarse: 20)",
            classes=100,
            image_size=32,
            channels=3,
            source="https://www.cs.toronto.edu/~kriz/cifar.html",
            read=lambda data_dir, labels, reading: cifar.read(cifar.CIFAR100, data_dir, labels),
            find=partial(cifar.find, cifar.CIFAR100),
            label_sets=("fine", "coarse"),
            remotes=(cifar.CIFAR100.archives[0].remote,),
        ),
        DatasetInfo(
            name="fashion-mnist",
            description="60,000 training and 10,000 test greyscale images of clothing",
            classes=10,
            image_size=28,
            channels=1,
            source="https://github.com/zalandoresearch/fashion-mnist, Debian: dataset-fashion-mnist",
            read=lambda data_dir, labels, reading: fashion_mnist.read(data_dir),
            find=fashion_mnist.find,
            remotes=tuple(file.remote for file in fashion_mnist.FILES),
        ),
        *(
            DatasetInfo(
                name=kind.name,
                description=kind.description,
                classes=None,
                image_size=None,
                channels=None,
                source="--data-dir",
                read=partial(_read_own, kind.name),
                find=partial(find_source, kind.name),
            )
            for kind in KINDS.values()
        ),
    )
}


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    labels: str = "fine",
    classes: int | tuple[str, ...] | None = None,
    per_class: int | None = None,
    reading: Reading = AS_IT_COMES,
) -> Dataset:
    """Read a dataset, or a part of it, from this machine, never from the network.

    Args:
        name: A key of ``DATASETS``.
        data_dir: The folder that holds the files (or an archive, or a folder above them); the user's cache
            when None, where ``vitab data fetch`` puts them.
        labels: ``"fine"``, or ``"coarse"`` for the 20 superclasses of CIFAR-100.
        classes: The first N classes, or the names of classes; see `subset`.
        per_class: Training images of each class; see `subset`.
        reading: How pictures of one's own are read.

    Raises:
        UsageError: if the name or a choice is unknown, files are missing or they are not what they should be.
    """
    info = lookup(name)
    if labels not in info.label_sets:
        raise UsageError(f"labels must be one of {', '.join(info.label_sets)} for {name}, got {labels!r}")
    whole = info.read(None if data_dir is None else Path(data_dir).expanduser(), labels, reading)
    return subset(whole, classes=classes, per_class=per_class)


def load_for(config: RunConfig, data_dir: Path | str | None = None) -> Dataset:
    """Read the dataset of a run."""
    return load(
        config.data,
        data_dir=data_dir,
        labels=config.labels,
        classes=config.classes,
        per_class=config.per_class,
        reading=Reading.of(config),
    )


def check_data_dir(names: Iterable[str], data_dir: Path | None, remedy: str = "leave it out") -> None:
    """Raise UsageError, which ends with a remedy, if a place is given of datasets none of which is read from files."""
    used = list(dict.fromkeys(names))
    if data_dir is not None and used and not any(lookup(name).in_files for name in used):
        raise UsageError(
            f"--data-dir is for data that are read from files, got it with data {', '.join(map(repr, used))}: {remedy}"
        )


def check_is_name(data: object) -> None:
    """Raise UsageError if the path of one's own data is given for the name of a dataset."""
    if not isinstance(data, str) or not data or data in DATASETS:
        return
    path = Path(data).expanduser()
    if (kind := next((kind for kind in KINDS if find_source(kind, path) is not None), None)) is not None:
        raise UsageError(
            f"--data must be the name of a dataset, got the path {data!r}; did you mean --data {kind} --data-dir "
            f"{shlex.quote(data)}?"
        )


def lookup(name: str) -> DatasetInfo:
    """Return the entry of a dataset; raise UsageError for an unknown name."""
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    return DATASETS[name]
