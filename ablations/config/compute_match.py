"""Compute matching: the epochs by which all arms of a study get the training compute of the baseline arm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ablations.config.grid import Grid
from ablations.config.labels import Level, level_text, name_level
from ablations.config.run_config import RunConfig
from ablations.errors import UsageError


@dataclass(frozen=True)
class RelativeCost:
    """Cost of an epoch of an arm, divided by that of the baseline arm in the same setting."""

    value: float
    low: float | None = None
    high: float | None = None
    """Of measured times: the 95 % confidence interval of the median `value`."""
    where: str = ""
    """The machine and environment in which times were measured."""


Costs = Callable[[Sequence[tuple[RunConfig, RunConfig]]], Sequence[RelativeCost]]
"""Returns the relative cost of the first config of each pair, the second being the baseline arm in its setting."""


@dataclass(frozen=True)
class ComputeMatch:
    """Epochs of the arms of a study for equal training compute: the baseline arm has `epochs`, the others as many as
    take the same FLOPs or seconds, rounded to a whole number.

    `costs` are by the levels of the `axes` of the study.
    """

    measure: str
    """flops or seconds."""
    epochs: int
    compared: str
    """The axis whose levels are the arms."""
    baseline: str
    """The label of the baseline arm."""
    axes: tuple[str, ...]
    costs: Mapping[tuple[Level, ...], RelativeCost]

    def levels(self, config: RunConfig) -> tuple[Level, ...]:
        """Return the levels of a run by which `costs` has its arm and setting."""
        return tuple(getattr(config, axis) for axis in self.axes)

    def epochs_of(self, levels: tuple[Level, ...]) -> int:
        """Return the epochs of an arm in a setting."""
        return int(self.epochs / self.costs[levels].value + 0.5)

    def share_of(self, levels: tuple[Level, ...]) -> float:
        """Return the compute of an arm divided by that of the baseline arm; 1 apart from the rounding of epochs."""
        return self.epochs_of(levels) * self.costs[levels].value / self.epochs

    def matched(self, config: RunConfig) -> RunConfig:
        """Return a run with the epochs of its arm, and the warm-up scaled in proportion."""
        return config.with_epochs(self.epochs_of(self.levels(config)))

    @property
    def arms(self) -> dict[Level, list[tuple[Level, ...]]]:
        """The keys of `costs` by arm: those of its settings."""
        at, found = self.axes.index(self.compared), dict[Level, list[tuple[Level, ...]]]()
        for levels in self.costs:
            found.setdefault(levels[at], []).append(levels)
        return found

    def describe_epochs(self) -> str:
        """Return the epochs of the arms over all settings as text: `30 for none, 29 to 30 for rope`."""
        found = {arm: _range(sorted(map(self.epochs_of, keys))) for arm, keys in self.arms.items()}
        if len(set(found.values())) == 1:
            return f"{next(iter(found.values()))} for every arm"
        return ", ".join(f"{epochs} for {name_level(self.compared, arm)}" for arm, epochs in found.items())

    def describe_shares(self) -> str:
        """Return the `share_of` all arms and settings as text: `97 % to 101 %`."""
        return _range([f"{100 * share:.0f} %" for share in sorted(map(self.share_of, self.costs))])

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: getattr(self, name) for name in _FIELDS} | {"axes": list(self.axes)}
        return plain | {"costs": [{"levels": list(levels)} | asdict(cost) for levels, cost in self.costs.items()]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ComputeMatch":
        """Return the object from the output of `to_plain`. Raises TypeError or KeyError if invalid."""
        costs = {}
        for each in plain["costs"]:
            cost = RelativeCost(**{name: each[name] for name in each if name != "levels"})
            costs[tuple(tuple(level) if isinstance(level, list) else level for level in each["levels"])] = cost
        return cls(**{name: plain[name] for name in _FIELDS}, axes=tuple(plain["axes"]), costs=costs)


_FIELDS = ("measure", "epochs", "compared", "baseline")


def _range(ordered: Sequence[object]) -> str:
    """Return the first and the last value as text, or the one that there is."""
    first, last = str(ordered[0]), str(ordered[-1])
    return first if first == last else f"{first} to {last}"


def match_epochs(grid: Grid, configs: Sequence[RunConfig], costs: Costs) -> ComputeMatch:
    """Return the epochs of the arms of a grid whose runs are `configs`.

    Raises UsageError if nothing is compared, if epochs are an axis, or if an arm would get less than one epoch.
    """
    assert grid.match is not None
    if len(grid.levels) < 2:
        raise UsageError(f"match {grid.match!r} needs two levels to compare, such as position = ['none', 'rope']")
    if "epochs" in grid.axes:
        raise UsageError(f"epochs cannot be an axis with match {grid.match!r}, which determines the epochs of each arm")
    baseline = next(level for level in grid.levels if level_text(level) == grid.baseline)
    axes, arms = tuple(grid.axes), dict.fromkeys(replace(config, seed=grid.seeds[0]) for config in configs)
    pairs = [(config, replace(config, **{grid.compared: baseline})) for config in arms]
    found = ComputeMatch(grid.match, grid.base.epochs, grid.compared, grid.baseline, axes, {})
    by_levels = {found.levels(config): cost for (config, _), cost in zip(pairs, costs(pairs), strict=True)}
    for config in arms:
        exact = grid.base.epochs / by_levels[found.levels(config)].value
        if exact < 1:
            arm = ", ".join(name_level(axis, getattr(config, axis)) for axis in axes if len(grid.axes[axis]) > 1)
            raise UsageError(
                f"epochs must give every arm the compute of at least one epoch, got {grid.base.epochs} for the "
                f"baseline {name_level(grid.compared, baseline)}, which gives {arm} {exact:.2g}; use more epochs or "
                "another baseline"
            )
    return replace(found, costs=by_levels)
