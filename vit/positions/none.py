"""No positional encoding."""

from vit.positions.base import Position


class NoPosition(Position):
    """No positional encoding. The output of the model does not depend on the order of the patches."""

    traceable = fusible = True
    description = "no positional encoding: the model ignores the order of the patches"
