"""The outcomes of a study as an array: arms, settings in which they are compared, seeds that pair them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ablations.config import Level, level_text, name_level
from ablations.config.labels import plain_level
from ablations.statistics.measure import ACCURACY, Measure

if TYPE_CHECKING:
    from ablations.storage import Results

FloatArray = NDArray[np.float64]


def varying_axes(results: Results) -> dict[str, tuple[Level, ...]]:
    """Return the axes of the plan that have more than one level, in the plan's order."""
    axes = {axis: tuple(plain_level(level) for level in levels) for axis, levels in results.plan.axes.items()}
    return {axis: levels for axis, levels in axes.items() if len(levels) > 1}


@dataclass(frozen=True)
class Outcomes:
    """Test accuracy or another measure of the runs of a study, for paired comparison: A arms, G settings, S seeds.

    `values` (A, G, S) are in the unit of the `measure`, shares in percent, NaN where no run has finished; `keys`
    (A, G, S) are run keys, "" there. If a value is the mean of several runs, `keys` has a last axis with their keys. A
    block is one (setting, seed): its runs share the data, their order and every initial weight that their models have
    in common. `diverged` are the keys of finished runs that diverged.
    """

    axis: str
    arms: tuple[Level, ...]
    cell_axes: tuple[str, ...]
    cells: tuple[tuple[Level, ...], ...]
    seeds: tuple[int, ...]
    baseline: int
    values: FloatArray
    keys: NDArray[np.str_]
    diverged: frozenset[str] = frozenset()
    measure: Measure = ACCURACY

    @property
    def others(self) -> list[int]:
        """The arms other than the baseline, in their order: those of `baseline_contrasts`."""
        return [arm for arm in range(len(self.arms)) if arm != self.baseline]

    @property
    def has_diverged(self) -> NDArray[np.bool_]:
        """Whether each run diverged, (A, G, S); for a mean of several runs, whether any of them did."""
        found = np.isin(self.keys, sorted(self.diverged)).reshape(*self.values.shape, -1)
        return np.asarray(found.any(axis=-1))

    def without_diverged(self) -> Outcomes:
        """Return the outcomes without diverged runs."""
        values = np.where(self.has_diverged, np.nan, self.values)
        return replace(self, values=values, keys=np.where(np.isin(self.keys, sorted(self.diverged)), "", self.keys))

    def arm_name(self, arm: int) -> str:
        return name_level(self.axis, self.arms[arm])

    def cell_name(self, cell: int) -> str:
        pairs = zip(self.cell_axes, self.cells[cell], strict=True)
        return ", ".join(name_level(axis, level) for axis, level in pairs)

    def differences(self, subject: int, reference: int) -> FloatArray:
        """Return `subject` minus `reference`, (G, S), shares in percentage points, NaN in incomplete blocks."""
        return self.values[subject] - self.values[reference]

    def averaged(self, axis: str) -> Outcomes:
        """Return outcomes whose arms are the levels of a cell axis, averaged over the present arms.

        The first level is the baseline; the settings are those of the other axes; NaN unless all arms finished.
        """
        at = self.cell_axes.index(axis)
        levels = [tuple(dict.fromkeys(cell[i] for cell in self.cells)) for i in range(len(self.cell_axes))]
        axes = {name: each for name, each in zip(self.cell_axes, levels, strict=True) if name != axis}
        cells = tuple(product(*axes.values()))

        def moved(array: NDArray[Any]) -> NDArray[Any]:
            """(A, G, S) as (A, levels of the axis, other cells, S)."""
            shape = (len(self.arms), *map(len, levels), len(self.seeds))
            return np.moveaxis(array.reshape(shape), at + 1, 1).reshape(len(self.arms), len(levels[at]), len(cells), -1)

        values, keys = moved(self.values).mean(axis=0), np.moveaxis(moved(self.keys), 0, -1)
        return Outcomes(axis, levels[at], tuple(axes), cells, self.seeds, 0, values, keys, self.diverged, self.measure)

    def runs(self, *arms: int) -> tuple[str, ...]:
        """Return the keys of the runs of these arms in the blocks where all of them finished."""
        complete = np.isfinite(self.values[list(arms)]).all(axis=0)
        return tuple(sorted(str(key) for key in self.keys[list(arms)][:, complete].ravel()))

    def incomplete_blocks(self) -> list[tuple[int, int, list[int]]]:
        """Return (setting, seed index, arms without a finished run) of every incomplete block."""
        absent = ~np.isfinite(self.values)
        return [
            (int(cell), int(seed), [int(arm) for arm in np.flatnonzero(absent[:, cell, seed])])
            for cell, seed in np.argwhere(absent.any(axis=0))
        ]


def arrange(
    results: Results,
    axis: str | None = None,
    measure: Measure = ACCURACY,
    measured: Mapping[str, float] | None = None,
) -> Outcomes:
    """Return the outcomes of a study along one axis: its test accuracy, or what was `measured`, by the keys of runs.

    `axis` is the axis whose levels are compared; by default position if it varies, otherwise the first that varies.
    The baseline is the plan's if it is a level of that axis, otherwise the axis's first level.
    """
    axes = varying_axes(results)
    if axis is None:
        axis = "position" if "position" in axes or not axes else next(iter(axes))
    arms = axes.get(axis) or tuple(plain_level(level) for level in results.plan.axes.get(axis, ())[:1])
    if not arms:
        arms = (plain_level(results.runs[axis].iloc[0]),)
    cell_axes = tuple(name for name in axes if name != axis)
    cells = tuple(product(*(axes[name] for name in cell_axes)))
    seeds = tuple(results.plan.seeds)
    names = [level_text(arm) for arm in arms]
    baseline = names.index(str(results.plan.baseline)) if str(results.plan.baseline) in names else 0

    values = np.full((len(arms), len(cells), len(seeds)), np.nan)
    keys = np.full(values.shape, "", dtype="<U64")
    place = (
        {arm: i for i, arm in enumerate(arms)},
        {cell: i for i, cell in enumerate(cells)},
        {seed: i for i, seed in enumerate(seeds)},
    )
    columns = ["key", "test_accuracy", "seed", axis, *cell_axes]
    for key, correct, seed, arm, *cell in results.runs[columns].itertuples(index=False, name=None):
        at = (place[0].get(plain_level(arm)), place[1].get(tuple(map(plain_level, cell))), place[2].get(seed))
        value = correct if measured is None else measured.get(key, np.nan)
        if None not in at and np.isfinite(value):
            values[at] = measure.scale * value
            keys[at] = key
    measure = measure.with_decimals(values)
    return Outcomes(axis, arms, cell_axes, cells, seeds, baseline, values, keys, diverged_keys(results), measure)


def diverged_keys(results: Results) -> frozenset[str]:
    """Return the keys of the runs that diverged."""
    return frozenset(results.runs["key"][results.runs["diverged"] > 0])
