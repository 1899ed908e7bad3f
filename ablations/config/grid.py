"""Grid: the runs that answer one question."""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ablations.config.labels import level_text
from ablations.config.positions import position_as_given
from ablations.config.run_config import RunConfig
from ablations.config.tuning import TuningDesign, compared_axis
from ablations.errors import UsageError, unknown_name


@dataclass(frozen=True)
class Grid:
    """Runs that answer one question: every combination of `axes` around `base`, for every seed.

    `baseline` is the label of the level of the compared axis that the others are measured against.
    """

    name: str
    question: str
    base: RunConfig
    axes: dict[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    baseline: str = "none"
    protocols: tuple[str, ...] = ()
    """Evaluation protocols chosen before the training."""
    match: str | None = None
    """flops or seconds: the training compute that all arms share; None: they share the epochs."""
    tuning: TuningDesign | None = None
    """The search for each arm's own values of some training fields, before the comparison."""

    @property
    def compared(self) -> str:
        """The axis whose levels are compared: position where it varies, else the first axis that does."""
        return compared_axis(self.axes)

    @property
    def levels(self) -> tuple[Any, ...]:
        """The levels of the compared axis."""
        return self.axes.get(self.compared, (getattr(self.base, self.compared),))

    @property
    def blocks(self) -> int:
        """Pairs behind each comparison: the combinations of all other axes and seeds."""
        return math.prod(len(self.axes[n]) for n in self.axes if n != self.compared) * len(self.seeds)

    def expand(self) -> list[RunConfig]:
        """Return every run once, validated. All arms of the first seed come first, and positions vary fastest.

        So paired comparisons are possible as early in a study as they can be. Tuned fields have the values of `base`.
        Raises UsageError for an invalid run, two levels of an axis with one label, or an impossible search.
        """
        if self.match is not None:
            check_match(self.match)
        if self.tuning is not None:
            self.tuning.check(self.base, self.axes, self.seeds)
        for name, levels in self.axes.items():
            _require_labels(name, levels)
        names = [name for name in self.axes if name not in _FASTEST] + [n for n in _FASTEST if n in self.axes]
        configs: dict[RunConfig, None] = {}
        for seed, *values in itertools.product(self.seeds, *(self.axes[name] for name in names)):
            config = replace(self.base, **dict(zip(names, values, strict=True)), seed=seed)
            configs.setdefault(config)
        for config in configs:
            config.validate()
        return list(configs)


_FASTEST = ("patch", "depth", "position")


def fit_warmup(settings: dict[str, Any], axes: Mapping[str, Any], warmup: float) -> None:
    if "warmup_epochs" not in {*settings, *axes} and warmup >= settings.get("epochs", math.inf):
        settings["warmup_epochs"] = settings["epochs"] / 10


MATCHES = ("flops", "seconds")


def check_match(match: object) -> str:
    """Return a valid `match` of a grid. Raises UsageError otherwise."""
    if match not in MATCHES:
        raise UsageError(f"match must be {' or '.join(map(repr, MATCHES))}, got {match!r}")
    return str(match)


def with_baseline(grid: Grid, baseline: object = None) -> Grid:
    """Return the grid with this baseline; by default "none" if it is an arm, else the first arm."""
    labels = [level_text(level) for level in grid.levels]
    if baseline is None:
        return replace(grid, baseline="none" if "none" in labels else labels[0])
    for level, label in zip(grid.levels, labels, strict=True):
        if str(baseline) in (label, str(level), position_as_given(str(level))):
            return replace(grid, baseline=label)
    raise unknown_name(f"baseline of {grid.compared}", str(baseline), labels)


def _require_labels(axis: str, levels: tuple[Any, ...]) -> None:
    """Raise UsageError if two levels have one label, by which reports tell them apart."""
    known: dict[str, Any] = {}
    for level in levels:
        if (other := known.setdefault(level_text(level), level)) != level:
            first, second = (position_as_given(str(each)) for each in (other, level))
            raise UsageError(
                f"{axis} must have levels with different labels, got {first} and {second}, both {level_text(level)!r}"
            )


def check_name(field: str, name: Any) -> str:
    """Return `name` if it can name a folder; otherwise raise UsageError."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise UsageError(
            f"{field} must be up to 100 letters, digits, '_', '-' or '.', and must not begin with '-' or '.', "
            f"got {name!r}"
        )
    return name
