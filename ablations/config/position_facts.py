"""What `vitab positions` shows of an encoding, read from its class."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ablations.config.option_facts import OptionFacts, docstring, option_facts
from ablations.config.positions import standard_position
from ablations.errors import UsageError

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
        return sum(math.prod(shape) for _, shape in self.parameters)


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
        formula=docstring(type(position)),
        acts_on=position.acts_on,
        other_grids=", ".join(position.other_grids),
        source=position.source,
        options=option_facts(position),
        parameters=parameters,
    )
