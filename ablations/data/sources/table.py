"""Tables of pictures: which column holds what, and the parts that a column names."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ablations.config.columns import parse_columns
from ablations.data.sources.part_names import VALID, part_of
from ablations.errors import UsageError

NAMES: Mapping[str, tuple[str, ...]] = {
    "file": (
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "path",
        "image",
        "image_path",
        "image_name",
        "img",
    ),
    "image": ("image", "img", "picture"),
    "label": ("label", "labels", "class", "class_name", "category", "target"),
    "split": ("split", "subset", "set", "partition"),
    "group": ("group", "group_id", "patient", "patient_id", "subject", "subject_id", "scene", "series"),
}
"""The names by which a column is recognised."""
NEEDED = ("file", "image", "label")
SHOWN = 10
"""Names that a message lists."""


def choose_columns(place: str, found: Sequence[str], kinds: Sequence[str], columns: str) -> dict[str, str]:
    """Return the column that holds each kind of thing, as named in ``columns`` or by the usual names in any case.

    Args:
        place: The file, for errors.
        kinds: What is looked for, such as ``("file", "label", "split", "group")``.
        columns: As the field of a run; an empty name means that no column holds that kind.

    Raises:
        UsageError: if a column does not exist, is not found, or could be one of several.
    """
    shown = ", ".join(found[:SHOWN]) + (f", ... ({len(found):,} in all)" if len(found) > SHOWN else "") or "none"
    if twice := {name for name, number in Counter(found).items() if number > 1 and name}:
        raise UsageError(f"{place}: there must be one column of each name, got {sorted(twice)[0]!r} twice")
    named = parse_columns(columns)
    if other := [kind for kind in named if kind not in kinds]:
        raise UsageError(f"columns must be of {', '.join(kinds)} for {place}, got {other[0]!r}")
    chosen = {}
    for kind in kinds:
        if kind in named:
            candidates = [named[kind]] if named[kind] else []
            if candidates and candidates[0] not in found:
                raise UsageError(f"{place}: there is no column {named[kind]!r} for the {kind}; found: {shown}")
        else:
            usual = [name for name in found if name.strip().lower().replace(" ", "_").replace("-", "_") in NAMES[kind]]
            candidates = [name for name in usual if name not in named.values()]
        if len(candidates) > 1:
            raise UsageError(
                f"{place}: the {kind} could be in {' or '.join(map(repr, candidates))}; choose with "
                f"--columns {kind}={candidates[0]}"
            )
        if candidates:
            chosen[kind] = candidates[0]
        elif kind in NEEDED:
            raise UsageError(
                f"{place}: no column looks like the {kind} ({', '.join(NAMES[kind][:4])}, ...); found: {shown}; "
                f"choose with --columns {kind}=NAME"
            )
    return chosen


def parts_from(place: str, column: str, values: Sequence[str]) -> NDArray[np.str_]:
    """Return the parts (n,) that a column names; none if it is empty.

    Raises:
        UsageError: if a value is not the name of a part.
    """
    known = {value: part_of(value) for value in dict.fromkeys(values)}
    if len(known) == 1 and not any(values):
        return np.full(len(values), "", dtype="<U10")
    if odd := [value for value, part in known.items() if part is None]:
        more = f", ... ({len(odd):,} in all)" if len(odd) > SHOWN else ""
        raise UsageError(
            f"{place}: the column {column!r} must name a part, {VALID}, got {', '.join(map(repr, odd[:SHOWN]))}{more}; "
            "without parts: --columns split="
        )
    return np.array([known[value] for value in values], dtype="<U10")


def groups_from(values: Sequence[str], names: Sequence[str]) -> NDArray[np.str_]:
    """Return the groups (n,) that a column names; a picture without one is a group of its own."""
    return np.array([value or f"\\{name}" for value, name in zip(values, names, strict=True)])
