"""Positional encodings, one per module, and their registry."""

from collections.abc import Iterable
from functools import cache

from vit.errors import ConfigError
from vit.positions.alibi_2d import AlibiPosition
from vit.positions.base import BlockHook, Hooks, Position, Rotation, ScoreBias, TokenHook
from vit.positions.combined import QUERIES_AND_KEYS, CombinedPosition
from vit.positions.cpe import ConvolutionPosition
from vit.positions.learned import LearnedPosition
from vit.positions.learned_axial import LearnedAxialPosition
from vit.positions.lie_rope import LieRotaryPosition
from vit.positions.none import NoPosition
from vit.positions.own_encodings import own
from vit.positions.relative_bias import RelativeBiasPosition
from vit.positions.relative_bias_mlp import RelativeBiasMlpPosition
from vit.positions.relative_keys import RelativeKeysPosition
from vit.positions.rope import RotaryPosition
from vit.positions.rope_dinov3 import Dinov3RotaryPosition
from vit.positions.rope_mixed import MixedRotaryPosition
from vit.positions.sinusoidal import SinusoidalPosition
from vit.positions.sinusoidal_1d import Sinusoidal1dPosition
from vit.positions.spelling import make, parse_part, split

__all__ = [
    "POSITIONS",
    "BlockHook",
    "Hooks",
    "Position",
    "Rotation",
    "ScoreBias",
    "TokenHook",
    "encoding",
    "kind_of",
    "names",
    "own",
    "part_names",
    "spelled",
]

POSITIONS: dict[str, type[Position]] = {
    "none": NoPosition,
    "learned": LearnedPosition,
    "learned-axial": LearnedAxialPosition,
    "sinusoidal": SinusoidalPosition,
    "sinusoidal-1d": Sinusoidal1dPosition,
    "rope": RotaryPosition,
    "rope-mixed": MixedRotaryPosition,
    "rope-dinov3": Dinov3RotaryPosition,
    "lie-rope": LieRotaryPosition,
    "relative-bias": RelativeBiasPosition,
    "relative-bias-mlp": RelativeBiasMlpPosition,
    "relative-keys": RelativeKeysPosition,
    "alibi-2d": AlibiPosition,
    "cpe": ConvolutionPosition,
}


def encoding(text: str) -> Position:
    """Return the encoding that a text describes, such as `rope`, `rope(base=10)` or `rope+learned`.

    `str` of the result is its standard spelling. Raises ConfigError for an unknown name or an invalid option.
    """
    complete = all(name in POSITIONS or own.digest_of(name) for name in part_names(text))
    return _encoding(text) if complete else _encoding.__wrapped__(text)  # a file may change


@cache
def _encoding(text: str) -> Position:
    parts = []
    for part in split(text, "+"):
        name, options = parse_part(part)
        parts.append(make(kind_of(name), name, options))
    return parts[0] if len(parts) == 1 else _combined(parts)


def part_names(text: str) -> list[str]:
    """Return the names of the encodings in a text, without options: [rope, learned] for `rope(base=10)+learned`."""
    return [parse_part(part)[0] for part in split(text, "+")]


def kind_of(name: str) -> type[Position]:
    """Return the class of an encoding by its name. Raises ConfigError if there is none."""
    if name in POSITIONS:
        kind = POSITIONS[name]
        if vars(kind).get("name") != name:
            kind.name = name
        return kind
    if own.is_own(name):
        return own.load(name)
    known = ", ".join(names())
    raise ConfigError(f"position must be one of {known}, or FILE.py:CLASS, got {name!r}")


def names() -> list[str]:
    """Return the names of the built-in encodings and of those of installed packages."""
    return [*POSITIONS, *(name for name in own.entry_points() if name not in POSITIONS)]


def spelled(text: str) -> str:
    """Return the standard spelling of an encoding. Encodings in files that have a digest are not read."""
    parts = []
    for part in split(text, "+"):
        name, options = parse_part(part)
        if own.digest_of(name) is None:
            parts.append(str(make(kind_of(name), name, options)))
        else:
            given = ",".join(f"{option}={value}" for option, value in options.items())
            parts.append(f"{name}({given})" if given else name)
    return "+".join(_ordered(parts))


def _ordered(parts: Iterable[str]) -> list[str]:
    """Return the parts of a sum in a fixed order, and check their names.

    First those in files by name, then the others from the last of `POSITIONS` to the first, so that the order of sums
    does not depend on how they are given, nor on folders.
    """
    order = list(POSITIONS)

    def place(part: str) -> tuple[int, str]:
        name = parse_part(part)[0]
        return (-order.index(name) if name in order else -len(order), own.without_folder(part))

    ordered = sorted(parts, key=place)
    names, whole = [parse_part(part)[0] for part in ordered], "+".join(ordered)
    if len(names) > 1 and "none" in names:
        raise ConfigError(f"position must not add 'none' to another encoding, got {whole!r}")
    short = [own.without_folder(name) for name in names]
    if twice := sorted({name for name in short if short.count(name) > 1}):
        raise ConfigError(f"position must not contain {twice[0]!r} twice, got {whole!r}")
    return ordered


def _combined(parts: list[Position]) -> Position:
    """Return the sum of encodings, in the order of `_ordered`."""
    by_text = {str(part): part for part in parts}
    ordered = _ordered([str(part) for part in parts])
    turning = [by_text[text].name for text in ordered if by_text[text].acts_on == QUERIES_AND_KEYS]
    if len(turning) > 1:
        raise ConfigError(
            f"position must contain at most one encoding of queries and keys, got {' and '.join(turning)} in "
            f"{'+'.join(ordered)!r}"
        )
    return CombinedPosition(tuple(by_text[text] for text in ordered))


for _name in POSITIONS:
    kind_of(_name)  # sets the names of the classes
