"""Positional encodings, one per module, and their registry."""

from vit.positions.base import Position
from vit.positions.learned import LearnedPosition
from vit.positions.none import NoPosition
from vit.positions.rope import RotaryPosition
from vit.positions.sinusoidal import SinusoidalPosition

__all__ = ["POSITIONS", "Position"]

POSITIONS: dict[str, type[Position]] = {
    "none": NoPosition,
    "learned": LearnedPosition,
    "sinusoidal": SinusoidalPosition,
    "rope": RotaryPosition,
}
