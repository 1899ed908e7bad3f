"""The design of a tuned study: the training fields that are searched for each arm, their space, and the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ablations.config.labels import level_text
from ablations.config.run_config import FIELDS, RULES, RunConfig, coerce, parse
from ablations.errors import UsageError, unknown_name

TUNABLE = (
    "learning_rate",
    "weight_decay",
    "warmup_epochs",
    "batch_size",
    "label_smoothing",
    "clip_norm",
    "init_std",
    "dropout",
    "drop_path",
    "ema",
    "crop_padding",
    "flip",
    "erase",
    "mixup",
    "cutmix",
    "trivial_augment",
)
"""Fields of how a model is trained. Those of the data, the model, the epochs and the precision are what arms share or
what is compared."""
SAMPLERS = ("qmc", "tpe")
PRUNERS = ("none", "median")
PER = ("setting", "arm")
TRIALS = 12
"""Default number of trials."""
ROUNDS = 4
"""Largest number of rounds in which suggestions follow from earlier results."""
SMALLEST_ROUND = 4
LAST_SEED = 2**32 - 1

EXAMPLE = "learning_rate=1e-4:1e-2:log"

Values = Mapping[str, Any]
"""Values of the tuned fields."""
Group = tuple[Any, ...]
"""Levels of the axes by which runs are tuned together: an arm at a setting, or an arm."""


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; `log`: uniform in the logarithm."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}" + ":log" * self.log


Space = Range | tuple[Any, ...]
"""All values between two numbers, or a list of values."""


@dataclass(frozen=True)
class TuningDesign:
    """The search that precedes a comparison, equal for all arms.

    Each arm is trained with `trials` values of the fields in `space`, at each setting (`per` = "setting") or the same
    ones at all settings ("arm"). A trial is scored by the validation accuracy after its last epoch, its mean over
    `seeds` seeds that no comparison uses.
    """

    space: dict[str, Space]
    trials: int = TRIALS
    seeds: int = 1
    per: str = "setting"
    sampler: str = "qmc"
    """"qmc": quasi-random, the same points for every arm; "tpe": tree-structured Parzen estimator, by results."""
    prune: str = "none"
    """"median": end a run that is worse than the median of earlier trials."""
    epochs: int | None = None
    """Epochs of a trial, if those of the comparison are more; None: as many."""

    def __post_init__(self) -> None:
        space = {field: tuple(each) if isinstance(each, list) else each for field, each in self.space.items()}
        object.__setattr__(self, "space", space)

    @property
    def rounds(self) -> tuple[int, ...]:
        """Trials of each round. Suggestions and pruning follow from the results of earlier rounds alone.

        One round if they need no results; else at most ROUNDS of at least SMALLEST_ROUND trials.
        """
        if self.sampler == "qmc" and self.prune == "none":
            return (self.trials,)
        size = max(SMALLEST_ROUND, -(-self.trials // ROUNDS))
        return tuple(min(size, self.trials - first) for first in range(0, self.trials, size))

    @property
    def prunes(self) -> bool:
        """Whether a trial can be pruned: not in the first round, so not if that is the only one; nor in one epoch."""
        return self.prune != "none" and len(self.rounds) > 1 and self.epochs != 1

    @property
    def combinations(self) -> int | None:
        """Number of different values in the space; None if a field has a range of real numbers."""
        if any(isinstance(space, Range) and FIELDS[field] is float for field, space in self.space.items()):
            return None
        return math.prod(
            len(space) if isinstance(space, tuple) else int(space.high - space.low) + 1 for space in self.space.values()
        )

    @property
    def trial_seeds(self) -> tuple[int, ...]:
        """The seeds of the trials, the last ones that exist; `check` keeps them out of the comparison."""
        return tuple(LAST_SEED - i for i in range(self.seeds))

    @property
    def largest(self) -> dict[str, Any]:
        """The largest value of each tuned field."""
        return {field: space.high if isinstance(space, Range) else max(space) for field, space in self.space.items()}

    def group_axes(self, axes: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
        """Return the axes whose levels share one choice of values."""
        return tuple(axes) if self.per == "setting" else (compared_axis(axes),)

    def group(self, config: RunConfig, axes: Mapping[str, tuple[Any, ...]]) -> Group:
        """Return the group of a run: its levels of `group_axes`."""
        return tuple(getattr(config, axis) for axis in self.group_axes(axes))

    def values(self, config: RunConfig) -> dict[str, Any]:
        """Return the tuned fields of a run."""
        return {field: getattr(config, field) for field in self.space}

    def limited_to(self, epochs: int) -> TuningDesign:
        """Return the design without `epochs` if trials are no shorter than a comparison of this number of epochs."""
        return replace(self, epochs=None) if self.epochs is not None and self.epochs >= epochs else self

    def shortened(self, config: RunConfig, base: RunConfig) -> RunConfig:
        """Return a run of the comparison with the epochs of a trial.

        Epochs that differ from those of `base`, because compute is matched, are shortened in proportion, and so is the
        warm-up.
        """
        if self.epochs is None:
            return config
        return config.with_epochs(max(1, int(self.epochs / base.epochs * config.epochs + 0.5)))

    def check(self, base: RunConfig, axes: Mapping[str, tuple[Any, ...]], seeds: tuple[int, ...]) -> None:
        """Raise UsageError if this search is not possible for a grid with this base, these axes and seeds."""
        self.from_plain(self.to_plain())
        for field, space in self.space.items():
            if field in axes:
                raise UsageError(f"tune {field} must not be an axis of the grid: its levels are compared, not tuned")
            if field == "warmup_epochs":
                replace(
                    base, warmup_epochs=self.largest[field], epochs=min(axes.get("epochs", (base.epochs,)))
                ).validate()
            if not isinstance(space, Range) and self.trials < len(space):
                raise UsageError(
                    f"trials must be at least {len(space)}, the number of values of {field}, got {self.trials}"
                )
        if self.epochs is not None:
            for field in ("epochs", "warmup_epochs"):
                if field in axes or field in self.space:
                    reason = "is an axis" if field in axes else "is tuned"
                    raise UsageError(f"epochs of trials cannot be set where {field} {reason}, got {self.epochs}")
        if self.combinations is not None and self.trials > self.combinations:
            raise UsageError(
                f"trials must be at most {self.combinations}, the number of combinations of values, got {self.trials}"
            )
        if own := sorted({*seeds} & {*self.trial_seeds}):
            raise UsageError(
                f"seeds must be below {min(self.trial_seeds)} with tuning, whose trials have the others, got {own[0]}"
            )

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON, which `from_plain` reads."""
        space: dict[str, Any] = {}
        for field, each in self.space.items():
            space[field] = vars(each) if isinstance(each, Range) else [*each] if isinstance(each, tuple) else each
        plain = vars(self) | {"space": space}
        if self.epochs is None:  # as in plans that are older than the field
            del plain["epochs"]
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TuningDesign:
        """Return the design from the output of `to_plain`. Raises UsageError, TypeError or KeyError if invalid."""
        options = {name: plain[name] for name in OPTIONS if name != "epochs" or name in plain}
        return tuning_from_mapping({**plain["space"], **options})


def compared_axis(axes: Mapping[str, tuple[Any, ...]]) -> str:
    """Return the axis whose levels are compared: position where it varies, else the first axis that does."""
    varying = [name for name, levels in axes.items() if len(levels) > 1]
    return "position" if "position" in varying or not varying else varying[0]


OPTIONS = ("trials", "seeds", "epochs", "per", "sampler", "prune")
"""Fields of a [tune] table that are not fields of a run."""


def tuning_from_mapping(table: Mapping[str, Any]) -> TuningDesign:
    """Return the design from a [tune] table: a space by field of a run, and any of OPTIONS.

    A space is a list of values, or a mapping with low, high and perhaps log. Raises UsageError that names the field.
    """
    space = {field: _space(field, each) for field, each in table.items() if field not in OPTIONS}
    if not space:
        raise UsageError(
            "must have a field with its space, such as learning_rate = { low = 1e-4, high = 1e-2, log = true }"
        )
    design = with_default_trials(TuningDesign(space))
    for name in OPTIONS:
        if name in table:
            design = with_option(design, name, table[name])
    return design


def with_default_trials(design: TuningDesign) -> TuningDesign:
    """Return the design with the default number of trials: TRIALS, or fewer if its space has fewer combinations."""
    return replace(design, trials=min(TRIALS, design.combinations or TRIALS))


def with_option(design: TuningDesign, name: str, value: Any, shown: str = "") -> TuningDesign:
    """Return the design with another value of one of OPTIONS. Raises UsageError, which names it as `shown`."""
    choices = {"per": PER, "sampler": SAMPLERS, "prune": PRUNERS}.get(name)
    if choices is not None and value not in choices:
        raise UsageError(f"{shown or name} must be {' or '.join(map(repr, choices))}, got {value!r}")
    if choices is None and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        raise UsageError(f"{shown or name} must be an integer of at least 1, got {value!r}")
    return replace(design, **{name: value})


def parse_space(text: str) -> tuple[str, Space]:
    """Return the field and the space of `--tune`: FIELD=LOW:HIGH, FIELD=LOW:HIGH:log, or FIELD=VALUE,VALUE."""
    field, equals, space = (part.strip() for part in text.partition("="))
    if not equals or not space:
        raise UsageError(
            f"--tune must be FIELD=LOW:HIGH, FIELD=LOW:HIGH:log or FIELD=VALUE,VALUE, such as {EXAMPLE}, got {text!r}"
        )
    _require_tunable(field)
    if ":" not in space:
        return field, _space(field, [parse(field, part) for part in space.split(",")])
    low, high, *log = space.split(":")
    if log not in ([], ["log"]):
        raise UsageError(f"--tune {field} must be LOW:HIGH or LOW:HIGH:log, got {space!r}")
    return field, _space(field, {"low": parse(field, low), "high": parse(field, high), "log": bool(log)})


def space_text(space: Space) -> str:
    """Return a space as `--tune` takes it."""
    return str(space) if isinstance(space, Range) else ",".join(map(level_text, space))


def _space(field: str, given: Any) -> Space:
    _require_tunable(field)
    if isinstance(given, Range):
        given = vars(given)
    if isinstance(given, list | tuple):
        values = tuple(dict.fromkeys(coerce(field, value) for value in given))
        if len(values) < 2:
            raise UsageError(f"{field} must have at least two different values, got {[*given]!r}")
        return values
    if not isinstance(given, Mapping):
        raise UsageError(f"{field} must be {{ low, high }} or a list of values, got {given!r}")
    for name in given:
        if name not in ("low", "high", "log"):
            raise unknown_name(f"bound of {field}", name, ("low", "high", "log"))
    if FIELDS[field] is bool:
        raise UsageError(f"{field} must be a list of values, as it has no range, got {dict(given)!r}")
    missing = [name for name in ("low", "high") if name not in given]
    if missing:
        raise UsageError(f"{field} must have low and high, got no {' and no '.join(missing)}")
    low, high = (_bound(field, name, given[name]) for name in ("low", "high"))
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"log of {field} must be true or false, got {log!r}")
    if low >= high:
        raise UsageError(f"low of {field} must be below high ({high:g}), got {low:g}")
    if log and low <= 0:
        raise UsageError(f"low of {field} must be above 0 with log, got {low:g}")
    return Range(low, high, log)


def _bound(field: str, name: str, value: Any) -> Any:
    try:
        return coerce(field, value)
    except UsageError:
        raise UsageError(f"{name} of {field} must be {RULES[field].valid}, got {value!r}") from None


def _require_tunable(field: str) -> None:
    if field not in FIELDS:
        raise unknown_name("field", field, TUNABLE)
    if field not in TUNABLE:
        raise UsageError(f"{field} cannot be tuned; fields that can: {', '.join(TUNABLE)}")


def pruning_warning(design: TuningDesign | None) -> str | None:
    """Return a warning if trials are to be pruned but are too few for it; else None."""
    if design is None or design.prune == "none" or design.prunes:
        return None
    if design.epochs == 1:
        return "no trial will be pruned: trials have 1 epoch; use more --tune-epochs, or --no-prune"
    return (
        f"no trial will be pruned: the first round of {SMALLEST_ROUND} trials never is, and there are "
        f"{design.trials}; use at least --trials {SMALLEST_ROUND + 1}, or --no-prune"
    )


def smallest(design: TuningDesign) -> TuningDesign:
    """Return the design with as few trials as its space allows, for a quick test."""
    levels = [len(space) for space in design.space.values() if isinstance(space, tuple)]
    few = replace(design, trials=max([2, *levels]), seeds=1, epochs=None)
    return few if few.prunes else replace(few, prune="none")


def shown_value(value: Any) -> str:
    """Return a tuned value as text with at most three digits: 0.00213."""
    return f"{value:.3g}" if isinstance(value, float) and math.isfinite(value) else level_text(value)
