"""Spelling of encodings: a name, options in brackets, and sums: `rope(base=10)+learned`."""

import re
from collections.abc import Mapping
from dataclasses import Field, fields
from difflib import get_close_matches
from typing import Any

from vit.errors import ConfigError
from vit.positions.base import Position

_PART = re.compile(r"\s*(?P<name>[^()+,=]+?)\s*(?:\((?P<options>[^()]*)\))?\s*")


def split(text: str, separator: str) -> list[str]:
    """Split a text at a separator (one character) outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def parse_part(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of one encoding: `rope(base=10)` is ("rope", {"base": "10"})."""
    match = _PART.fullmatch(text)
    if match is None:
        raise ConfigError(f"position must be NAME or NAME(OPTION=VALUE, ...), or a sum with +, got {text.strip()!r}")
    options: dict[str, str] = {}
    for pair in filter(str.strip, (match["options"] or "").split(",")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise ConfigError(f"options of position {match['name']} must be OPTION=VALUE, got {pair.strip()!r}")
        if name in options:
            raise ConfigError(f"option {name} of position {match['name']} must be given once, got {text.strip()!r}")
        options[name] = value
    return match["name"], options


def make(kind: type[Position], name: str, given: Mapping[str, str]) -> Position:
    """Return an encoding with options given as text. Raises ConfigError for an unknown or invalid option."""
    known: dict[str, Field[Any]] = {option.name: option for option in fields(kind)}
    values = {}
    for option, text in given.items():
        if option not in known:
            valid = f"must be one of {', '.join(known)}" if known else "do not exist"
            near = get_close_matches(option, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"options of position {name} {valid}, got {option!r}{hint}")
        values[option] = _value(known[option], name, text)
    try:
        return kind(**values)
    except ConfigError:
        raise
    except Exception as error:  # of an encoding in a file
        raise ConfigError(f"cannot make position {name}: {type(error).__name__}: {error}") from error


def _value(field: Field[Any], name: str, text: str) -> Any:
    default, valid = field.default, field.metadata.get("valid", "a value")
    error = ConfigError(f"{field.name} of position {name} must be {valid}, got {text!r}")
    value: Any = text
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise error
        value = text == "true"
    elif isinstance(default, int | float):
        try:
            value = type(default)(text)
        except ValueError:
            raise error from None
        if value != value or value in (float("inf"), float("-inf")):
            raise error
    try:
        accepted = field.metadata.get("accepts", lambda value: True)(value)
    except Exception:  # of an encoding in a file
        accepted = False
    if not accepted:
        raise error
    return value
