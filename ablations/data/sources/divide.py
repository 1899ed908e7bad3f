"""The parts of a source: those it came with, or a test part cut off by the names of its pictures."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ablations.data.sources.source import Source
from ablations.data.split import fixed_order, take, take_groups
from ablations.errors import UsageError

TEST_FRACTION = 0.2
LEAST = 3
"""Pictures of a class: one in each part."""
SHOWN = 10


def divide(source: Source) -> Source:
    """Return the source with each picture in ``train``, ``validation`` or ``test``.

    The validation pictures of a source without test pictures become the test part, as is usual for ImageNet. Of a
    source without parts, or with training pictures only, ``TEST_FRACTION`` of each class becomes the test part; the
    choice goes by the names of the pictures, or of their groups, so that it is the same on every machine.

    Raises:
        UsageError: if a class would lack pictures to train on or to test with, or a group is in more than one part.
    """
    parts = source.parts
    if set(parts.tolist()) in ({""}, {"train"}):
        divided = replace(source, parts=_cut(source), own_parts=False)
        _check_classes(divided)
        return divided
    if not (parts == "test").any():
        parts = np.where(parts == "validation", "test", parts)
    divided = replace(source, parts=parts)
    _check_classes(divided)
    _check_groups(divided)
    return divided


def _cut(source: Source) -> NDArray[np.str_]:
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    if (counts < LEAST).any():
        raise UsageError(
            f"{source.path}: every class must have at least {LEAST} pictures, so that one can be trained on, one held "
            f"out for validation and one kept for the test; got fewer of {_listed(_of(source, counts < LEAST))}"
        )
    total = round(TEST_FRACTION * len(source))
    if source.groups is None:
        held = take(source.labels, fixed_order([f"0/{name}" for name in source.names]), total, at_least=1, leave=2)
    else:
        names, groups = np.unique(source.groups, return_inverse=True)
        alone = _spread(source.labels, groups, len(source.class_names)) < 2
        if alone.any():
            raise UsageError(
                f"{source.path}: every class must have pictures of at least 2 groups, so that one can be kept for the "
                f"test, got 1 group for {_listed(_of(source, alone))}"
            )
        order = fixed_order([f"0/{name}" for name in names])
        held = take_groups(source.labels, groups, order, total, at_least=1)
    parts = np.full(len(source), "train", dtype="<U10")
    parts[held] = "test"
    return parts


def _spread(of: NDArray[np.int64], over: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return over how many values of `over` (n,) each value 0 to number - 1 of `of` (n,) is spread."""
    pairs = np.unique(np.stack([of, over]), axis=1)
    return np.bincount(pairs[0], minlength=number)


def _check_classes(source: Source) -> None:
    """Raise UsageError if the parts do not have the same classes."""
    has = {
        part: np.bincount(source.labels[source.parts == part], minlength=len(source.class_names)) > 0
        for part in dict.fromkeys(source.parts.tolist())
    }
    if "train" not in has:
        raise UsageError(f"{source.path}: there must be pictures to train on, got only {' and '.join(sorted(has))}")
    if "test" not in has:
        raise UsageError(f"{source.path}: there must be test or validation pictures beside those to train on, got none")
    for part, there in has.items():
        odd = (there != has["train"]) if part == "test" else there & ~has["train"]
        if odd.any():
            raise UsageError(
                f"{source.path}: the parts train and {part} must have the same classes, got "
                f"{_listed(_of(source, odd))} in only one of them"
            )


def _check_groups(source: Source) -> None:
    """Raise UsageError if pictures of a group are in more than one part."""
    if source.groups is None:
        return
    names, groups = np.unique(source.groups, return_inverse=True)
    spread = _spread(groups, np.unique(source.parts, return_inverse=True)[1], len(names))
    if (spread > 1).any():
        odd = names[spread > 1].tolist()
        without = "--columns group=" if source.grouped_by.startswith("column") else "leave --group-pattern out"
        raise UsageError(
            f"{source.path}: the pictures of a group must be in one part, got {len(odd):,} of {len(names):,} groups "
            f"(by {source.grouped_by}) in several: {_listed(odd)}; correct the parts, or use no groups: {without}"
        )


def _of(source: Source, which: NDArray[np.bool_]) -> list[str]:
    return [name for name, yes in zip(source.class_names, which, strict=True) if yes]


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names):,} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
