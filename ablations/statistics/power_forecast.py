"""What a plan can and cannot find out, before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ablations.config import Grid, SequentialDesign, count
from ablations.statistics.power import MARGIN, MOST_SEEDS, detectable_effect, equivalence_seeds
from ablations.statistics.sequential.procedures import GroupSequential

if TYPE_CHECKING:
    pass

ALPHA = 0.05
_BITS = 12
TYPICAL_SPREAD = 1.0
"""Standard deviation between seeds of a paired difference, in percentage points. In the grid `rope` on the digits it
is 0.4 to 1.5 in most settings, and 4 where a model without positions sees many patches."""


def forecast_power(grid: Grid, spread: float = TYPICAL_SPREAD) -> list[str]:
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
    likely, unlikely = (detectable_effect([len(grid.seeds)] * cells, alpha, power) for power in (0.8, 0.2))
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
        least = detectable_effect([middle] * cells, alpha)
        low, high = (low, middle) if least is not None and least <= effect else (middle + 1, high)
    return low


def forecast_sequential_power(grid: Grid, design: SequentialDesign, spread: float = TYPICAL_SPREAD) -> list[str]:
    """The same for a study that grows in rounds, at the strictest step of Holm, from simulated normal differences."""
    tests = len(grid.levels) - 1
    cells = grid.blocks // len(grid.seeds)
    alpha = ALPHA / tests
    fixed = detectable_effect([design.maximum] * cells, alpha)
    if fixed is None:
        return ["it cannot show that any two arms differ, however large the difference"]
    low, high = fixed, 1.5 * fixed
    while high > 1.01 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if rejections(middle, design, cells, tests)[0] >= 0.8 else (middle, high)
    seeds = [rejections(effect, design, cells, tests)[1] for effect in (high, 2 * high)]
    assumed = f"if paired differences spread by {spread:g} point{'s' * (spread != 1)} between seeds"
    return [
        f"it finds a difference of {high * spread:.1f} points in 80 of 100 such studies, {assumed} "
        f"({fixed * spread:.1f} with {design.maximum} seeds fixed); twice the spread, twice the difference",
        f"on average such an arm takes {seeds[0]:.1f} of the {design.maximum} seeds, and {seeds[1]:.1f} when the "
        "difference is twice as large",
    ]


def rejections(
    effect: float, design: SequentialDesign, cells: int, tests: int, studies: int = 200
) -> tuple[float, float]:
    """Share of simulated studies in which an effect (d_z) is found, and the mean seeds they take, up to the look."""
    looks, procedure = design.looks, GroupSequential(design, contrasts=tests, bits=_BITS)
    noise = np.random.default_rng(0).normal(size=(studies, cells, design.maximum))
    ended = [procedure.orbit(values).rejected(ALPHA / tests)[0] for values in noise + effect]
    taken = np.array([*looks, design.maximum])[ended]
    return float(np.mean(np.array(ended) < len(looks))), float(taken.mean())


def power_warning(grid: Grid) -> str | None:
    """A line for a plan whose comparisons cannot reach p = 0.05, whatever the runs give; else None."""
    from ablations.statistics.power import smallest_p

    comparisons = len(grid.levels) - 1
    if comparisons < 1 or smallest_p(grid.blocks) * comparisons <= 0.05:
        return None
    per_seed = grid.blocks // len(grid.seeds)
    seeds = next(n for n in range(1, 100) if smallest_p(per_seed * n) * comparisons <= 0.05)
    family = f" after Holm over {comparisons} comparisons" if comparisons > 1 else ""
    return (
        f"no difference can reach p = 0.05 with {count(grid.blocks, 'pair')} of runs: "
        f"the smallest p is {least_p(grid):.2g}{family}; --seeds {seeds} would do"
    )


def least_p(grid: Grid) -> float:
    """The smallest two-sided p that the study can give after Holm's correction; 1 with nothing to compare."""
    from ablations.statistics.power import smallest_p

    return min(1.0, smallest_p(grid.blocks) * (len(grid.levels) - 1 or 1))
