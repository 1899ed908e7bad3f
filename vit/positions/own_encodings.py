"""Encodings that are not in this package: in files, or in installed packages."""

from vit.own_classes import OwnClasses
from vit.positions.base import Position

own = OwnClasses(
    Position, base_name="vit.positions.Position", group="vitab.positions", what="position", noun="encoding"
)
