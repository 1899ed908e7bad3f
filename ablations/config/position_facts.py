"""What `vitab positions` shows of an encoding, read from its class."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ablations.config.positions import standard_position
from ablations.errors import UsageError

if TYPE_CHECKING:
    from vit.positions import Position

STATED_MODEL = {"image_size": 8, "patch_size": 2, "channels": 1, "classes": 10, "width": 64, "depth": 2, "heads": 2}
STATED = "width 64, 2 heads, depth 2 and 4 x 4 patches"
"""The model whose parameters are counted."""

OTHER_GRIDS = {
    "extend": "coordinates go on beyond the grid of the training",
    "interpolate": "coordinates are squeezed into the range of the training",
    "resize": "tables are resized by bicubic interpolation",
    "unchanged": "nothing depends on the grid",
}


@dataclass(frozen=True)
class OptionFacts:
    """An option of an encoding."""

    name: str
    default: str
    valid: str
    meaning: str


@dataclass(frozen=True)
class PositionFacts:
    """What an encoding is."""

    name: str
    description: str
    formula: str
    """The docstring of its class."""
    acts_on: str
    other_grids: str
    source: str
    options: tuple[OptionFacts, ...]
    parameters: tuple[tuple[str, tuple[int, ...]], ...] | None
    """Names and shapes in the stated model; None if the encoding does not support it."""

    @property
    def count(self) -> int | None:
        """Number of parameters in the stated model."""
        if self.parameters is None:
            return None
        total = 0
        for _, shape in self.parameters:
            size = 1
            for length in shape:
                size *= length
            total += size
        return total


def all_facts() -> Iterator[PositionFacts | str]:
    """Yield the built-in encodings and those of installed packages; a line instead of one that cannot be loaded."""
    from vit.positions import names

    for name in names():
        try:
            yield position_facts(name)
        except UsageError as error:
            yield str(error)


def position_facts(text: str) -> PositionFacts:
    """Return the facts of an encoding, which may be in a file. Raises UsageError if there is none or it is a sum."""
    from vit import ConfigError, ViTConfig
    from vit.options import spell
    from vit.positions import encoding, own

    position = encoding(standard_position(text))
    if len(position.parts) > 1:
        raise UsageError(f"ENCODING must be one encoding, got the sum {text!r}")
    try:
        declared = position.declare(ViTConfig(**STATED_MODEL, position=str(position)))  # type: ignore[arg-type]
        parameters = tuple((parameter.name, parameter.shape) for parameter in declared)
    except ConfigError:
        parameters = None
    except Exception as error:
        raise UsageError(f"{text} cannot be used: {own.describe_error(error, [type(position)])}") from error
    return PositionFacts(
        name=position.name,
        description=position.description,
        formula=inspect.cleandoc(_docstring(type(position))),
        acts_on=position.acts_on,
        other_grids=", ".join(position.other_grids),
        source=position.source,
        options=tuple(
            OptionFacts(
                option.name,
                spell(option.default),
                option.metadata.get("valid", "any value"),
                option.metadata.get("meaning", ""),
            )
            for option in fields(position)
        ),
        parameters=parameters,
    )


def _docstring(kind: "type[Position]") -> str:
    """Return the docstring of a class, without the one that a dataclass makes from its fields."""
    text = kind.__doc__ or ""
    return "" if text.startswith(f"{kind.__name__}(") else text
