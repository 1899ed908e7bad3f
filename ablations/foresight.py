"""What a plan can and cannot find out, before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablations.power import MARGIN, MOST_SEEDS, detectable_effect, equivalence_seeds

if TYPE_CHECKING:
    from ablations.config import Grid

ALPHA = 0.05
TYPICAL_SPREAD = 1.0
"""Standard deviation between seeds of a paired difference, in percentage points. In the grid `rope` on the digits it
is 0.4 to 1.5 in most settings, and 4 where a model without positions sees many patches."""


def foresight(grid: Grid, spread: float = TYPICAL_SPREAD) -> list[str]:
    """Sentences on the comparisons of a grid with its baseline, at this spread; none if it compares nothing.

    Detection is the power of the sign-flip test at the strictest step of Holm; `spread` is in percentage points.
    """
    comparisons = len(grid.levels) - 1
    if comparisons < 1:
        return []
    cells = grid.blocks // len(grid.seeds)
    alpha = ALPHA / comparisons
    assumed = f"if paired differences spread by {spread:g} point{'s' * (spread != 1)} between seeds"
    lines = []
    likely, unlikely = (detectable_effect(grid.blocks, alpha, power) for power in (0.8, 0.2))
    if likely is None or unlikely is None:
        lines.append("it cannot show that any two arms differ, however large the difference")
    else:
        lines.append(
            f"it finds a difference of {likely * spread:.1f} points in 80 of 100 such studies and one of "
            f"{unlikely * spread:.1f} points in 20, {assumed}; twice the spread, twice the difference"
        )
    per_cell = _seeds_for(MARGIN / spread, cells, alpha)
    seeds = f"{per_cell} seeds" if per_cell < MOST_SEEDS else f"over {MOST_SEEDS:,} seeds"
    same = equivalence_seeds(cells, spread, alpha)
    lines.append(
        f"to find {MARGIN:g} points it would need {seeds}; to show that equal arms are equal within {MARGIN:g} points, "
        f"{same} seed{'s' * (same != 1)}"
    )
    return lines


def _seeds_for(effect: float, cells: int, alpha: float) -> int:
    """Seeds per cell that find this effect (d_z) in 80 of 100 studies; at most `MOST_SEEDS`."""
    low, high = 1, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        least = detectable_effect(cells * middle, alpha)
        low, high = (low, middle) if least is not None and least <= effect else (middle + 1, high)
    return low
