"""Pictures of one's own: from a source to a dataset."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablations.config import RunConfig, count
from ablations.data.dataset import UNREADABLE, Dataset
from ablations.data.decoded import DecodedPictures, Geometry, decode_all
from ablations.data.pictures import CROP
from ablations.data.sources import Content, Source, divide, open_source
from ablations.data.sources.source import PARTS
from ablations.errors import UsageError

IMAGE_SIZE, CHANNELS = 32, 3
"""Of pictures in files, unless a run says otherwise."""
FINGERPRINT = 1
"""Version of `Dataset.fingerprint`: to be raised with it, as caches know fingerprints."""
SHOWN = 10
"""Pictures that a message names."""


@dataclass(frozen=True)
class Reading:
    """How pictures of one's own are read: the fields of a run with these names."""

    columns: str = ""
    image_size: int | None = None
    channels: int | None = None
    resize: str = CROP
    group_pattern: str = ""
    skip_unreadable: bool = False

    @classmethod
    def of(cls, config: RunConfig) -> "Reading":
        """Return the reading of a run."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


@dataclass(frozen=True, eq=False)
class Pictures:
    """The listing of a source and its decoded pictures, training, validation and test pictures one after the other."""

    source: Source
    order: NDArray[np.int64]
    """Indices into the source, (n,), of the pictures asked for."""
    decoded: DecodedPictures

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """Names of the pictures that cannot be read, each with the reason."""
        bad = np.flatnonzero(~self.decoded.readable)
        return [(self.source.names[self.order[at]], str(self.decoded.records[at])) for at in bad.tolist()]

    def dataset(self) -> Dataset:
        """Return the pictures that could be read, as a dataset.

        Raises UsageError if a part loses all pictures of a class.
        """
        readable = self.decoded.readable
        if readable.all():
            return _dataset(self.source, self.order, self.decoded)
        source = self.source.without(self.order[~readable], UNREADABLE)
        before, after = (
            set(zip(each.parts.tolist(), each.labels.tolist(), strict=True)) for each in (self.source, source)
        )
        if lost := sorted(before - after):
            part, label = lost[0]
            reasons = unreadable_text(self.unreadable, len(self.order)).partition("; fix or remove")[0]
            if _out_of_range(self.unreadable, len(self.order)):
                raise UsageError(f"{source.path}: {reasons}")
            raise UsageError(
                f"{source.path}: no {part} picture of class {source.class_names[label]} can be read: {reasons}; fix or "
                "remove them"
            )
        return _dataset(source, order_of(source), self.decoded)


def read(kind: str, data_dir: Path | None, reading: Reading) -> Dataset:
    """Read the pictures of a source as a dataset: training, validation and test pictures, each in the source's order.

    Raises:
        UsageError: if the source cannot be listed or divided, or pictures cannot be read and are not to be skipped.
        VitabError: if there is no space for the decoded pictures.
    """
    pictures = pictures_of(kind, data_dir, reading)
    if (bad := pictures.unreadable) and not reading.skip_unreadable:
        raise UsageError(f"{pictures.source.path}: {unreadable_text(bad, len(pictures.order))}")
    return pictures.dataset()


def pictures_of(kind: str, data_dir: Path | None, reading: Reading) -> Pictures:
    """Return the pictures of a source, decoded. Raises as `read`, but not for pictures that cannot be read."""
    source = listed(kind, data_dir, reading)
    order = order_of(source)
    return Pictures(source, order, decode_all(source, order, geometry_of(source, order, reading)))


def listed(kind: str, data_dir: Path | None, reading: Reading) -> Source:
    """Return the divided listing of a source, with the groups of a pattern."""
    source = open_source(kind, data_dir, reading.columns)
    if reading.group_pattern:
        groups = _groups(source, reading.group_pattern)
        source = replace(source, groups=groups, grouped_by=f"--group-pattern {reading.group_pattern}")
    return divide(source)


def order_of(source: Source) -> NDArray[np.int64]:
    """Return the indices of the pictures of a divided source, part by part."""
    return np.concatenate([np.flatnonzero(source.parts == part) for part in PARTS]).astype(np.int64)


def geometry_of(source: Source, order: NDArray[np.int64], reading: Reading) -> Geometry:
    """Return what the pictures become: what a run says, else the shape of arrays, else 32 x 32 in colour."""
    size, channels = reading.image_size, reading.channels
    if size is None or channels is None:
        first = _first(source, order)
        if isinstance(first, np.ndarray) and first.ndim in (2, 3):
            height, width = first.shape[:2]
            if size is None and height != width:
                raise UsageError(
                    f"{source.path}: images of {width} x {height} pixels are not square; give a size, such as --set "
                    f"image_size={max(height, width)}, and how they become square: --set resize=crop, pad or stretch"
                )
            size = size or height
            channels = channels or (1 if first.ndim == 2 or first.shape[2] == 1 else CHANNELS)
    return Geometry(size or IMAGE_SIZE, channels or CHANNELS, reading.resize)


def unreadable_text(bad: Sequence[tuple[str, str]], total: int) -> str:
    """Return one line that names the first pictures that cannot be read, and says what to do.

    One reason for all images of arrays, values out of range, is said once.
    """
    if arrays := _out_of_range(bad, total):
        return arrays
    shown = "; ".join(f"{name} ({reason})" for name, reason in bad[:SHOWN])
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    them = "them" if len(bad) > 1 else "it"
    return (
        f"cannot read {len(bad):,} of {count(total, 'picture')}: {shown}{more}; fix or remove {them}, or leave {them} "
        "out with --skip-unreadable"
    )


RANGE = re.compile(r"(?P<kind>.+) must be from 0 to (?P<highest>\d+), got (?P<low>\S+) to (?P<high>\S+)")
"""The reason that `decode` gives for values out of range."""


def _out_of_range(bad: Sequence[tuple[str, str]], total: int) -> str:
    """Return one line if all pictures are images of arrays with values out of one range, else nothing."""
    arrays = list(dict.fromkeys(name.rpartition("[")[0] if name.endswith("]") else "" for name, _ in bad))
    found = [match for _, reason in bad if (match := RANGE.fullmatch(reason))]
    if not all(arrays) or len(found) < len(bad) or len({(each["kind"], each["highest"]) for each in found}) > 1:
        return ""
    low, high = min(float(each["low"]) for each in found), max(float(each["high"]) for each in found)
    if not math.isfinite(low + high):
        return ""
    verb, it = ("holds", "it") if len(arrays) == 1 else ("hold", "them")
    remedy = f"scale {it}, and save {it} as uint8"
    if found[0]["highest"] == "1":
        remedy = f"save {it} as uint8 or divide by 255" if low >= 0 and 1 < high <= 255 else f"scale {it} to 0 to 1"
    of = "" if len(bad) == total else f", in {len(bad):,} of {total:,} images,"
    kind, highest = found[0]["kind"].replace("pixels", "numbers"), found[0]["highest"]
    numbers = f"{kind} from {low:g} to {high:g}, which must be from 0 to {highest}"
    return f"{' and '.join(arrays)} {verb}{of} {numbers}: {remedy}"


def _groups(source: Source, pattern: str) -> NDArray[np.str_]:
    """Return the group of each picture: what the pattern finds in its name, or the first group in it."""
    if source.groups is not None:
        raise UsageError(f"{source.path}: groups are given by a column and by --group-pattern; give one of them")
    found = [re.search(pattern, name) for name in source.names]
    groups = ["" if match is None else next(iter(match.groups()), None) or match[0] for match in found]
    missing = [name for name, group in zip(source.names, groups, strict=True) if not group]
    if missing:
        raise UsageError(
            f"{source.path}: --group-pattern {pattern!r} must find a group in every name, got none in {len(missing):,} "
            f"of {len(groups):,}, such as {missing[0]}"
        )
    return np.array(groups)


def _first(source: Source, order: NDArray[np.int64]) -> Content | None:
    """Return the first picture that can be read."""
    for i in order.tolist():
        try:
            return source.read(i)
        except (OSError, UsageError):
            continue
    return None


def _dataset(source: Source, order: NDArray[np.int64], decoded: DecodedPictures) -> Dataset:
    testing = int((source.parts == "test").sum())
    training = len(order) - testing
    groups = None
    if source.groups is not None:
        groups = np.unique(source.groups[order[:training]], return_inverse=True)[1].astype(np.int64)
    labels = source.labels[order]
    validation = int((source.parts == "validation").sum())
    known = f"fingerprint {_digest(labels, groups, training, validation, source)}"
    dataset = Dataset(
        name=source.kind,
        train_images=decoded.images[:training],
        train_labels=labels[:training],
        test_images=decoded.images[training:],
        test_labels=labels[training:],
        class_names=source.class_names,
        validation_images=validation,
        train_groups=groups,
        skipped=source.skipped,
        names=[source.names[i] for i in order],
        grouping=_grouping(source),
        fingerprint=decoded.fact(known) or "",
    )
    if decoded.fact(known) is None:
        decoded.remember(known, dataset.fingerprint)
    return dataset


def _grouping(source: Source) -> str:
    if source.groups is None:
        return ""
    return f"{count(len(np.unique(source.groups)), 'group')} by {source.grouped_by}"


def _digest(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | None, training: int, validation: int, source: Source
) -> str:
    """Return a digest of all that a fingerprint depends on beside the pixels."""
    others = (FINGERPRINT, training, validation, source.class_names, source.skipped.get(UNREADABLE), groups is None)
    digest = hashlib.sha256(repr(others).encode())
    digest.update(np.ascontiguousarray(labels).data)
    if groups is not None:
        digest.update(np.ascontiguousarray(groups).data)
    return digest.hexdigest()[:16]
