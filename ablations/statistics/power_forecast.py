"""Power analysis of a plan before it runs, in sentences."""

from __future__ import annotations

import numpy as np

from ablations.config import Grid, SequentialDesign, count
from ablations.statistics.contrasts import ALPHA
from ablations.statistics.power import MARGIN, MOST_SEEDS, detectable_effect, equivalence_seeds, smallest_p
from ablations.statistics.sequential.procedures import GroupSequential

_BITS = 12
TYPICAL_SPREAD = 1.0
"""Assumed standard deviation of a paired difference between seeds, in percentage points. On the digits, in the grid
`rope`, it is 0.4 to 1.5 in most settings, and 4 for a model without positions on many patches."""


def forecast_power(grid: Grid, spread: float = TYPICAL_SPREAD) -> list[str]:
    """Return two sentences on what the comparisons of a grid with its baseline can find; none if it compares nothing.

    Power is that of the sign-flip test at the strictest step of Holm; `spread` is in percentage points.
    """
    comparisons = len(grid.levels) - 1
    if comparisons < 1:
        return []
    cells = grid.blocks // len(grid.seeds)
    alpha = ALPHA / comparisons
    seeds = count(len(grid.seeds), "seed")
    least = f"the smallest possible p{_family(comparisons)} is {least_p(grid):.2g}"
    likely, unlikely = (detectable_effect([len(grid.seeds)] * cells, alpha, power) for power in (0.8, 0.2))
    if likely is None or unlikely is None:
        first = f"With {seeds} no difference can become significant, however large: {least}."
    else:
        first = (
            f"With {seeds} a difference of {likely * spread:.1f} points is found in 80 % of studies, one of "
            f"{unlikely * spread:.1f} points in 20 %; {least}."
        )
    per_cell = _seeds_for(MARGIN / spread, cells, alpha)
    needed = f"{per_cell} seeds" if per_cell < MOST_SEEDS else f"more than {MOST_SEEDS:,} seeds"
    same = equivalence_seeds(cells, spread, alpha)
    return [
        first,
        f"To find {MARGIN:g} points in 80 % of studies takes {needed} per setting, and to show that identical arms are "
        f"equivalent within {MARGIN:g} points takes {same}, if paired differences have a standard deviation of "
        f"{_points(spread)} between seeds.",
    ]


def _family(comparisons: int) -> str:
    return f" after Holm over {comparisons} comparisons" if comparisons > 1 else ""


def _points(value: float) -> str:
    return f"{value:g} point{'s' * (value != 1)}"


def _seeds_for(effect: float, cells: int, alpha: float) -> int:
    """Return the seeds per setting that detect this effect size with 80 % power, at most `MOST_SEEDS`."""
    low, high = 1, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        least = detectable_effect([middle] * cells, alpha)
        low, high = (low, middle) if least is not None and least <= effect else (middle + 1, high)
    return low


def forecast_sequential_power(grid: Grid, design: SequentialDesign, spread: float = TYPICAL_SPREAD) -> list[str]:
    """Return the same sentences for a sequential study, from simulated normal differences."""
    tests = len(grid.levels) - 1
    cells = grid.blocks // len(grid.seeds)
    alpha = ALPHA / tests
    fixed = detectable_effect([design.maximum] * cells, alpha)
    if fixed is None:
        return [
            f"With at most {design.maximum} seeds no difference can become significant, however large: the smallest "
            "possible p is too large."
        ]
    low, high = fixed, 1.5 * fixed
    while high > 1.01 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if rejections(middle, design, cells, tests)[0] >= 0.8 else (middle, high)
    seeds = [rejections(effect, design, cells, tests)[1] for effect in (high, 2 * high)]
    assumed = f"if paired differences have a standard deviation of {_points(spread)} between seeds"
    return [
        f"minimum detectable difference: {high * spread:.1f} points at 80 % power, {assumed} ({fixed * spread:.1f} "
        f"points with {design.maximum} seeds from the start)",
        f"an arm with this difference uses {seeds[0]:.1f} of {design.maximum} seeds on average, and {seeds[1]:.1f} "
        "with twice the difference",
    ]


def rejections(
    effect: float, design: SequentialDesign, cells: int, tests: int, studies: int = 200
) -> tuple[float, float]:
    """Return the share of simulated studies that detect an effect size, and the mean number of seeds that they use."""
    looks, procedure = design.looks, GroupSequential(design, contrasts=tests, bits=_BITS)
    noise = np.random.default_rng(0).normal(size=(studies, cells, design.maximum))
    ended = [procedure.orbit(values).rejected(ALPHA / tests)[0] for values in noise + effect]
    taken = np.array([*looks, design.maximum])[ended]
    return float(np.mean(np.array(ended) < len(looks))), float(taken.mean())


def power_warning(grid: Grid) -> str | None:
    """Return a warning if no comparison of the plan can reach p = 0.05, whatever its results; else None."""
    comparisons = len(grid.levels) - 1
    if comparisons < 1 or smallest_p(grid.blocks) * comparisons <= ALPHA:
        return None
    per_seed = grid.blocks // len(grid.seeds)
    seeds = next(n for n in range(1, 100) if smallest_p(per_seed * n) * comparisons <= ALPHA)
    return (
        f"no difference can reach p = 0.05 with {count(grid.blocks, 'pair')} of runs: "
        f"the smallest possible p is {least_p(grid):.2g}{_family(comparisons)}; use at least --seeds {seeds}"
    )


def least_p(grid: Grid) -> float:
    """Return the smallest possible two-sided p of the study after Holm's correction; 1 if nothing is compared."""
    return min(1.0, smallest_p(grid.blocks) * (len(grid.levels) - 1 or 1))
