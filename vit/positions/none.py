"""No positional encoding."""

from dataclasses import dataclass
from typing import ClassVar

from vit.positions.base import Position


@dataclass(frozen=True)
class NoPosition(Position):
    """No positional encoding. The output of the model does not depend on the order of the patches."""

    description: ClassVar[str] = "no positional encoding: the model ignores the order of the patches"
