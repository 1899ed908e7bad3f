"""Subsets of datasets: fewer classes, fewer training images."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.data.dataset import Dataset
from ablations.data.split import fixed_order
from ablations.errors import UsageError


def subset(dataset: Dataset, *, classes: int | Sequence[str] | None = None, per_class: int | None = None) -> Dataset:
    """Return a dataset with some of the classes and of their training images.

    Args:
        classes: How many classes, the first in the data set's own order of names (alphabetical for
            CIFAR-100); or their names. Names are kept in the data set's order whatever order they are given
            in, so that the same classes are the same data, with the same fingerprint. Labels are renumbered
            from 0.
        per_class: How many training images of each class, a fixed pseudo-random choice that grows with the
            number (100 holds what 50 holds). The test part keeps all its images of the chosen classes, so
            that results on less training data stay comparable.

    Raises:
        UsageError: if a class is unknown (with the nearest name), or there are not as many as asked for.
    """
    if classes is not None:
        dataset = _keep_classes(dataset, _class_indices(dataset, classes))
    if per_class is not None:
        dataset = _keep_images(dataset, per_class)
    return dataset


def _class_indices(dataset: Dataset, classes: int | Sequence[str]) -> list[int]:
    names = dataset.class_names
    if isinstance(classes, int):
        if isinstance(classes, bool) or not 2 <= classes <= len(names):
            raise UsageError(f"classes must be 2 to {len(names)}, or class names, for {dataset.name}, got {classes}")
        return list(range(classes))
    wanted = [classes] if isinstance(classes, str) else list(classes)
    for name in wanted:
        if name not in names:
            raise UsageError(f"classes: {dataset.name} has no class {name!r}{_hint(name, names)}")
        if wanted.count(name) > 1:
            raise UsageError(f"classes must name each class once, got {name!r} {wanted.count(name)} times")
    if len(wanted) < 2:
        raise UsageError(f"classes must be at least 2 classes, got {len(wanted)}")
    return sorted(names.index(name) for name in wanted)


def _hint(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(names[:10])
    return f"; valid: {shown}" + (f", ... ({len(names)} in all)" if len(names) > 10 else "")


def _keep_classes(dataset: Dataset, kept: list[int]) -> Dataset:
    if len(kept) == dataset.classes:
        return dataset
    renumbered = np.full(dataset.classes, -1, dtype=np.int64)
    renumbered[kept] = np.arange(len(kept))
    train, test = renumbered[dataset.train_labels], renumbered[dataset.test_labels]
    return replace(
        dataset,
        **_training_part(dataset, np.flatnonzero(train >= 0)) | {"train_labels": train[train >= 0]},
        test_images=dataset.test_images[test >= 0],
        test_labels=test[test >= 0],
        names=_names(dataset, np.flatnonzero(np.concatenate([train, test]) >= 0)),
        class_names=tuple(dataset.class_names[i] for i in kept),
        fingerprint="",
    )


def _keep_images(dataset: Dataset, per_class: int) -> Dataset:
    labels = dataset.train_labels[: dataset.train_part]
    counts = np.bincount(labels, minlength=dataset.classes)
    scarce = int(np.argmin(counts))
    if isinstance(per_class, bool) or not 1 <= per_class <= counts[scarce]:
        raise UsageError(
            f"per_class must be 1 to {counts[scarce]} (the training images of {dataset.class_names[scarce]!r} in "
            f"{dataset.name}), got {per_class}"
        )
    order = fixed_order([str(i) for i in range(len(labels))])
    grouped = order[np.argsort(labels[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    kept = np.sort(grouped[(starts[:, None] + np.arange(per_class)).ravel()])
    kept = np.concatenate([kept, np.arange(len(labels), len(dataset.train_labels))])
    tested = np.arange(len(dataset.train_labels), len(dataset.train_labels) + len(dataset.test_labels))
    names = _names(dataset, np.concatenate([kept, tested]))
    return replace(dataset, **_training_part(dataset, kept), names=names, fingerprint="")


def _names(dataset: Dataset, kept: NDArray[np.int64]) -> Sequence[str]:
    """Return the names of the images with these numbers; built-in datasets get names of their numbers in the whole."""
    return [dataset.name_of(i) for i in kept.tolist()]


def _training_part(dataset: Dataset, kept: NDArray[np.int64]) -> dict[str, Any]:
    """Return the fields of the training images with these indices, sorted, and of the validation images among them."""
    groups = dataset.train_groups
    return {
        "train_images": dataset.train_images[kept],
        "train_labels": dataset.train_labels[kept],
        "validation_images": int((kept >= dataset.train_part).sum()),
        "train_groups": None if groups is None else np.unique(groups[kept], return_inverse=True)[1].astype(np.int64),
    }
