"""Positional encodings, one per module, and their registry."""

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
for _name, _kind in POSITIONS.items():
    _kind.name = _name


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
        return POSITIONS[name]
    if own.is_own(name):
        return own.load(name)
    known = ", ".join(names())
    raise ConfigError(f"position must be one of {known}, or FILE.py:CLASS, got {name!r}")


def names() -> list[str]:
    """Return the names of the built-in encodings and of those of installed packages."""
    return [*POSITIONS, *(name for name in own.entry_points() if name not in POSITIONS)]


def _combined(parts: list[Position]) -> Position:
    """Return the sum of encodings, in a fixed order: those that act late in the network first."""
    order = list(POSITIONS)
    parts = sorted(parts, key=lambda part: (-order.index(part.name) if part.name in order else -len(order), str(part)))
    spelled = "+".join(map(str, parts))
    names = [part.name for part in parts]
    if "none" in names:
        raise ConfigError(f"position must not add 'none' to another encoding, got {spelled!r}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"position must not contain {twice[0]!r} twice, got {spelled!r}")
    turning = [part.name for part in parts if part.acts_on == QUERIES_AND_KEYS]
    if len(turning) > 1:
        raise ConfigError(
            f"position must contain at most one encoding of queries and keys, got {' and '.join(turning)} in "
            f"{spelled!r}"
        )
    return CombinedPosition(tuple(parts))
