"""How many images of a dataset are alike, within its parts and between them; found once for each dataset."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.data import locations
from ablations.data.dataset import Dataset
from ablations.data.quality.duplicates import Twins, find_twins

VERSION = 2
"""Of what `find_twins` finds: to be raised with it."""
EXAMPLES = 10


@dataclass(frozen=True)
class Alike:
    """Numbers of images that are like an earlier one."""

    same: Mapping[str, int]
    """Images with the same pixels as another, by parts: `training` within it, `training, test` for test images."""
    near: Mapping[str, int]
    """Near-duplicates, by parts; see `ablations.data.quality.duplicates`."""
    relabelled: int
    """Images of another class than the one that they are like."""
    examples: tuple[tuple[int, int], ...]
    """Test or validation images and the training images that they are like, numbered as in `Dataset.parts`."""

    def between(self, earlier: str, later: str) -> tuple[int, int]:
        """Return the images of a part that are like one of an earlier part, or of the same: all, and same pixels."""
        name = earlier if earlier == later else f"{earlier}, {later}"
        return self.same.get(name, 0) + self.near.get(name, 0), self.same.get(name, 0)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def alike_of(dataset: Dataset) -> Alike:
    """Return how many images of a dataset are alike, from the user's cache if it is known there."""
    known = _found.get(dataset.fingerprint) or _read(dataset.fingerprint)
    return _find(dataset) if known is None else known


def twins_of(dataset: Dataset) -> Twins:
    """Return the pairs of images of a dataset that are alike, numbered as in `Dataset.parts`."""
    training = dataset.train_images
    parts = [training[: dataset.train_part], training[dataset.train_part :], dataset.test_images]
    return find_twins([part for part in parts if len(part)])


def summary(dataset: Dataset, twins: Twins) -> Alike:
    """Return the numbers of pairs of images that are alike."""
    names = list(dataset.parts)
    same: dict[str, int] = {}
    near: dict[str, int] = {}
    examples: list[tuple[int, int]] = []
    for later in range(len(names)):
        for earlier in range(later + 1):
            pairs = twins.between(earlier, later)
            name = names[later] if earlier == later else f"{names[earlier]}, {names[later]}"
            same[name], near[name] = int(pairs.exact.sum()), int((~pairs.exact).sum())
            if earlier < later:
                order = np.argsort(~pairs.exact, kind="stable")[:EXAMPLES]
                examples += zip(pairs.image[order].tolist(), pairs.twin[order].tolist(), strict=True)
    labels = dataset.labels
    relabelled = np.unique(twins.image[labels[twins.image] != labels[twins.twin]])
    return Alike(same, near, len(relabelled), tuple(examples[:EXAMPLES]))


_found: dict[str, Alike] = {}
"""By fingerprint, for processes that cannot write the cache."""


def _find(dataset: Dataset) -> Alike:
    found = _found[dataset.fingerprint] = summary(dataset, twins_of(dataset))
    path = _path(dataset.fingerprint)
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(found.to_plain()))
            temporary.replace(path)
    return found


def _read(fingerprint: str) -> Alike | None:
    path = _path(fingerprint)
    try:
        plain = json.loads(path.read_bytes()) if path is not None else None
        return plain and Alike(**plain | {"examples": tuple(tuple(pair) for pair in plain["examples"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(fingerprint: str) -> Path | None:
    root = locations.decoded_folder()
    return root and root / "alike" / f"{fingerprint}.{VERSION}.json"
