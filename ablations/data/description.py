"""What a run records of its data, for reports."""

from pathlib import Path
from typing import Any

from ablations.config import RunConfig
from ablations.config.run_config import OWN_DATA
from ablations.data.dataset import Dataset
from ablations.data.quality.alike import Alike, alike_of
from ablations.data.quality.class_sizes import class_counts

ARRAYS = ("npz", "idx")
"""Own data that are no pictures in files: without an `image_size`, they keep their pixels."""


def describe_dataset(dataset: Dataset, data_dir: Path | None, config: RunConfig) -> dict[str, Any]:
    """Return name, size and faults of the dataset of a run.

    One's own data are named after their folder or file, and `resize` says how their pictures became square, if they
    were resized. Numbers of `validation_images`, `groups` (of training images) and `skipped` files are there if there
    are any. `duplicates` has the numbers of images that are like another.
    """
    own = dataset.name in OWN_DATA
    name = data_dir.expanduser().resolve().name if own and data_dir else ""
    described: dict[str, Any] = {
        "name": name or dataset.name,
        "train_images": dataset.train_part,
        "test_images": len(dataset.test_labels),
        "classes": dataset.classes,
        "image_size": dataset.image_size,
        "channels": dataset.channels,
    }
    if dataset.validation_images:
        described["validation_images"] = dataset.validation_images
    if dataset.train_groups is not None:
        described["groups"] = int(dataset.train_groups.max()) + 1
    if own and not (dataset.name in ARRAYS and config.image_size is None):
        described["resize"] = config.resize
    if dataset.skipped:
        described["skipped"] = dict(dataset.skipped)
    described["class_sizes"] = {
        part: [int(counts.min()), int(counts.max())] for part, counts in class_counts(dataset).items()
    }
    described["duplicates"] = duplicates_record(alike_of(dataset))
    return described


def duplicates_record(alike: Alike) -> dict[str, int]:
    """Return the numbers of images that are like an earlier one, by parts, without zeros."""
    parts = {**alike.same, **alike.near}
    found = {name: alike.same.get(name, 0) + alike.near.get(name, 0) for name in parts}
    found |= {f"{name}, same pixels": number for name, number in alike.same.items()}
    found["other label"] = alike.relabelled
    return {name: number for name, number in found.items() if number}
