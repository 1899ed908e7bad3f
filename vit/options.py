"""Objects with options, and their spelling: a name with options in brackets, such as `rope(base=10)`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

from vit.errors import ConfigError

Made = TypeVar("Made", bound="Options")


@dataclass(frozen=True)
class Options:
    """Base class of frozen dataclasses whose fields are options (see `option`)."""

    name: ClassVar[str] = ""
    """Name in a registry, or FILE.py:CLASS for a class in a file."""

    def __str__(self) -> str:
        """Return the spelling: the name, and the options that differ from their defaults."""
        given = [
            f"{option.name}={spell(getattr(self, option.name))}"
            for option in fields(self)
            if getattr(self, option.name) != option.default
        ]
        return f"{self.name}({','.join(given)})" if given else self.name


def option(default: Any, valid: str, accepts: Any, meaning: str) -> Any:
    """Return a dataclass field for an option.

    `valid` describes the valid values in error messages ("above 0"), `accepts` is a function that tests a value of the
    type of `default`, and `meaning` is a line for lists of options.
    """
    return field(default=default, metadata={"valid": valid, "accepts": accepts, "meaning": meaning})


def choice(default: str, choices: Sequence[str], meaning: str) -> Any:
    """Return a dataclass field for an option with named choices, the default among them."""
    return option(default, " or ".join(choices), lambda value: value in choices, meaning)


def switch(default: bool, meaning: str) -> Any:
    """Return a dataclass field for an option that is true or false."""
    return option(default, "true or false", lambda value: True, meaning)


def spell(value: Any) -> str:
    """Return the value of an option as text: `100`, `0.5`, `true`, `index`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


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


def parse_part(text: str, what: str) -> tuple[str, dict[str, str]]:
    """Return a name and its options: `rope(base=10)` is ("rope", {"base": "10"}). `what` is its kind in messages."""
    match = _PART.fullmatch(text)
    if match is None:
        raise ConfigError(f"{what} must be NAME or NAME(OPTION=VALUE, ...), got {text.strip()!r}")
    options: dict[str, str] = {}
    for pair in filter(str.strip, (match["options"] or "").split(",")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise ConfigError(f"options of {what} {match['name']} must be OPTION=VALUE, got {pair.strip()!r}")
        if name in options:
            raise ConfigError(f"option {name} of {what} {match['name']} must be given once, got {text.strip()!r}")
        options[name] = value
    return match["name"], options


def make(kind: type[Made], name: str, given: Mapping[str, str], what: str) -> Made:
    """Return an object with options given as text. Raises ConfigError for an unknown or invalid option."""
    known: dict[str, Field[Any]] = {option.name: option for option in fields(kind)}
    values = {}
    for option, text in given.items():
        if option not in known:
            valid = f"must be one of {', '.join(known)}" if known else "do not exist"
            near = get_close_matches(option, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"options of {what} {name} {valid}, got {option!r}{hint}")
        values[option] = _value(known[option], f"{what} {name}", text)
    try:
        return kind(**values)
    except ConfigError:
        raise
    except Exception as error:  # of a class in a file
        raise ConfigError(f"cannot make {what} {name}: {type(error).__name__}: {error}") from error


def _value(field: Field[Any], owner: str, text: str) -> Any:
    default, valid = field.default, field.metadata.get("valid", "a value")
    error = ConfigError(f"{field.name} of {owner} must be {valid}, got {text!r}")
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
    except Exception:  # of a class in a file
        accepted = False
    if not accepted:
        raise error
    return value
