"""No position at all: the model sees a bag of patches."""

from vit.positions.base import Position


class NoPosition(Position):
    """Nothing. The model is then permutation-equivariant over patches."""

    traceable = fusible = True
    description = "no position: the patches are a bag"
