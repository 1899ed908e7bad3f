"""Description of the data in words."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.config.safe_text import markdown
from ablations.statistics import varying_axes

if TYPE_CHECKING:
    from ablations.storage import Results

SUBSET_FIELDS = {
    "labels": "the kind of labels (fine or coarse)",
    "classes": "the number of classes",
    "per_class": "the number of training images per class",
    "data_fraction": "the fraction of the training set that is used",
}
"""Fields of a run that select a part of a dataset, with their description."""


def images(results: Results) -> str:
    """Return the dataset and the part of it that was used, as far as it is the same in all runs."""
    from ablations.data import DATASETS

    runs, varying = results.runs, set(varying_axes(results))
    names = list(dict.fromkeys(runs["data"]))
    text = " or ".join(_dataset(results, str(name)) for name in names)
    known = {name: None if name in varying else first_value(runs, name) for name in SUBSET_FIELDS}
    if known["labels"] == "coarse":
        text += ", with its coarse labels"
    classes, per_class, fraction = known["classes"], known["per_class"], known["data_fraction"]
    if isinstance(classes, list | tuple):
        text += f", only classes {', '.join(map(str, classes))}"
    elif _is_number(classes):
        info = DATASETS.get(str(names[0]))
        whole = f" of {info.classes}" if info and info.classes and len(names) == 1 and known["labels"] == "fine" else ""
        text += f", only the first {classes:g}{whole} classes"
    if _is_number(per_class):
        text += f", {per_class:g} training images per class"
    if _is_number(fraction) and fraction != 1:
        text += f", {percent(fraction)} of the training set"
    return text


def varying_subset(results: Results) -> str:
    """Return which choices of a part of the dataset vary, as a clause, empty if none does."""
    axes = varying_axes(results)
    names = [words for name, words in SUBSET_FIELDS.items() if name in axes]
    return f"{' and '.join(names)} {'vary' if len(names) > 1 else 'varies'}" if names else ""


def _dataset(results: Results, name: str) -> str:
    from ablations.data import DATASETS

    if name == "folder":
        return _folder(folder_facts(results))
    info = DATASETS.get(name)
    if info is None:
        return name
    return f"{name} ({re.sub(r' [(]--.*?[)]', '', info.description)})"  # without hints about options


def _folder(found: dict[str, Any]) -> str:
    parts = []
    if "train_images" in found and "test_images" in found:
        parts.append(f"{found['train_images']:,} training and {found['test_images']:,} test images")
    if "classes" in found:
        parts.append(f"{found['classes']:,} classes")
    if "image_size" in found:
        parts.append(f"{found['image_size']} × {found['image_size']} pixels")
    name = f'the image folder "{markdown(found["name"])}"' if "name" in found else "an image folder"
    return name + (f" ({', '.join(parts)})" if parts else " (name and size not recorded)")


def folder_facts(results: Results) -> dict[str, Any]:
    """Return the name and size of the image folder, as far as recorded and the same in all runs on one."""
    keys = results.runs.loc[results.runs["data"] == "folder", "key"]
    recorded = [results.environments.get(key, {}).get("dataset", {}) for key in keys]
    if not recorded:
        return {}
    return {field: value for field, value in recorded[0].items() if all(each.get(field) == value for each in recorded)}


def first_value(runs: pd.DataFrame, field: str) -> object:
    """Return the value of a field in the first run; None if the runs do not have the field."""
    return runs[field].iloc[0] if field in runs else None


def percent(share: object) -> str:
    """Return a share between 0 and 1 in percent, with no more digits than it has."""
    return f"{100 * float(str(share)):.6g} %"


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not math.isnan(value)
