"""What a class with options says of itself: its docstring and its options, for encodings and protocols."""

import inspect
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vit.options import Options


@dataclass(frozen=True)
class OptionFacts:
    """An option of an encoding or a protocol."""

    name: str
    default: str
    valid: str
    meaning: str


def option_facts(described: "Options") -> tuple[OptionFacts, ...]:
    """Return the options of an encoding or a protocol, in the order of its fields."""
    from vit.options import spell

    return tuple(
        OptionFacts(
            option.name,
            spell(option.default),
            option.metadata.get("valid", "any value"),
            option.metadata.get("meaning", ""),
        )
        for option in fields(described)
    )


def docstring(kind: type) -> str:
    """Return the docstring of a class, without the one that a dataclass makes from its fields."""
    text = kind.__doc__ or ""
    return "" if text.startswith(f"{kind.__name__}(") else inspect.cleandoc(text)
