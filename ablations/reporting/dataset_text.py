"""Description of the data in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.config.run_config import OWN_DATA
from ablations.config.safe_text import markdown
from ablations.data.description import ARRAYS
from ablations.data.pictures import RESIZES
from ablations.data.sources.skipped import skipped_text
from ablations.reporting.formatting import listed
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

    if name in OWN_DATA:
        return _own(name, recorded_facts(results, name))
    info = DATASETS.get(name)
    if info is None:
        return name
    return f"{name} ({re.sub(r' [(]--.*?[)]', '', info.description)})"  # without hints about options


def _own(kind: str, found: Mapping[str, Any]) -> str:
    parts = []
    if "train_images" in found and "test_images" in found:
        validation = f", {found['validation_images']:,} validation" if "validation_images" in found else ""
        parts.append(f"{found['train_images']:,} training{validation} and {found['test_images']:,} test images")
    if "classes" in found:
        parts.append(f"{found['classes']:,} classes")
    if "image_size" in found:
        grey = ", grey" if found.get("channels") == 1 else ""
        parts.append(f"{found['image_size']} × {found['image_size']} pixels{grey}")
    what = {"folder": "the image folder", "csv": "the images listed in"}.get(kind, "the images in")
    some = {"folder": "an image folder"}.get(kind, f"images in a source of kind {kind}")
    name = f'{what} "{markdown(found["name"])}"' if "name" in found else some
    return name + (f" ({', '.join(parts)})" if parts else " (name and size not recorded)")


def recorded_facts(results: Results, kind: str) -> dict[str, Any]:
    """Return what all runs on a dataset, or on one's own data of a kind, have recorded of it alike."""
    return _shared([record for record, data in _records(results) if data == kind])


def details(results: Results) -> list[str]:
    """Return sentences on how pictures were read and how large the classes are, as far as recorded and the same."""
    records = [record for record, _ in _records(results)]
    found, names = _shared(records), {data for _, data in _records(results)}
    sentences = []
    if names <= {*OWN_DATA} and found.get("resize") in RESIZES and "image_size" in found:
        colour = {1: "in grey", 3: "in colour"}.get(found.get("channels", 0), "")
        size = f"{found['image_size']} × {found['image_size']} pixels {colour}".strip()
        arrays = names <= {*ARRAYS}
        if not arrays:
            sentences.append(f"Pictures were turned upright, {RESIZES[found['resize']]}, and resized to {size}")
        elif _is_number(first_value(results.runs, "image_size")):  # else they keep their pixels
            sentences.append(f"Images were resized to {size}: {RESIZES[found['resize']]}")
    if found.get("skipped") and len(names) == 1:
        sentences.append(f"Skipped were {skipped_text(next(iter(names)), found['skipped'])}")
    if sizes := found.get("class_sizes"):
        each = listed([f"{_range(*sizes[part])} {part}" for part in sizes])
        sentences.append(f"A class has {each} images")
    digests = {str(results.environments.get(key, {}).get("data_sha256", "")) for key in results.runs["key"]}
    if sizes and len(digests) == 1 and (digest := digests.pop()):
        sentences.append(f"The fingerprint of the images used begins with {digest[:16]}")
    return sentences


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _records(results: Results) -> list[tuple[Mapping[str, Any], str]]:
    """Return what each run recorded of its data, with the name of the dataset."""
    environments = results.environments
    return [
        (environments.get(key, {}).get("dataset", {}), str(data))
        for key, data in zip(results.runs["key"], results.runs["data"], strict=True)
    ]


def _shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is the same in all records."""
    if not records:
        return {}
    return {field: value for field, value in records[0].items() if all(each.get(field) == value for each in records)}


def first_value(runs: pd.DataFrame, field: str) -> object:
    """Return the value of a field in the first run; None if the runs do not have the field."""
    return runs[field].iloc[0] if field in runs else None


def percent(share: object) -> str:
    """Return a share between 0 and 1 in percent, with no more digits than it has."""
    return f"{100 * float(str(share)):.6g} %"


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not math.isnan(value)
