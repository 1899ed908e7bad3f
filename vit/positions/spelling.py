"""Spelling of encodings: a name, options in brackets, and sums: `rope(base=10)+learned`."""

from collections.abc import Mapping

from vit import options
from vit.options import split
from vit.positions.base import Position

__all__ = ["make", "parse_part", "split"]


def parse_part(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of one encoding: `rope(base=10)` is ("rope", {"base": "10"})."""
    return options.parse_part(text, "position")


def make(kind: type[Position], name: str, given: Mapping[str, str]) -> Position:
    """Return an encoding with options given as text. Raises ConfigError for an unknown or invalid option."""
    return options.make(kind, name, given, "position")
