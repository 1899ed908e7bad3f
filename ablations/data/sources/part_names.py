"""The names that people give to the parts of a dataset."""

import re
from collections.abc import Collection

ALIASES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Part by name, in lower case."""
VALID = "train, val (valid, validation) and test"


def part_of(name: str) -> str | None:
    """Return the part with this name, in upper or lower case; None if it is not the name of a part."""
    return ALIASES.get(name.strip().lower())


def part_within(name: str) -> str | None:
    """Return the part that a longer name speaks of, such as ``seg_train`` or ``test2017``; None without one, or two."""
    found = {ALIASES[word] for word in re.findall("[a-z]+", name.lower()) if word in ALIASES}
    return found.pop() if len(found) == 1 else None


def repeated(parts: Collection[str | None]) -> bool:
    """Return whether a part is there twice."""
    named = [part for part in parts if part is not None]
    return len(set(named)) < len(named)
