"""RunConfig: everything that determines the result of one run, and the key that identifies it."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ablations.config.columns import COLUMNS_VALID, TABLES, is_columns, standard_columns
from ablations.config.positions import position_identity, standard_position
from ablations.errors import UsageError, unknown_name

OWN_DATA = ("folder", "csv", "npz", "parquet", "idx")  # read from --data-dir
DATASETS = ("digits", "cifar10", "cifar100", "fashion-mnist", *OWN_DATA)
LABELS = ("fine", "coarse")
POOLS = ("mean", "cls")
PRECISIONS = ("float32", "tf32", "bf16")
RESIZES = ("crop", "pad", "stretch")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines the result of one run, apart from the pixels.

    The meaning of a field is one line below; `RULES` holds the valid range of each.
    """

    data: str = "digits"  # a name of ablations.data.DATASETS
    labels: str = "fine"  # cifar100: "fine" (100 classes) or "coarse" (20)
    columns: str = ""  # of a table in csv or parquet, such as "file=id,label=dx,group=patient"; the others are guessed
    image_size: int | None = None  # pixels a side of one's own pictures; None: 32, or the size of arrays
    channels: int | None = None  # of one's own pictures: 1 (grey) or 3 (colour); None: 3, or those of arrays
    resize: str = "crop"  # how one's own pictures become square: "crop", "pad" or "stretch"
    group_pattern: str = ""  # regular expression; what it finds in the name of a picture is the group of the picture
    skip_unreadable: bool = False  # whether pictures that cannot be read are left out
    classes: int | tuple[str, ...] | None = None  # the first N classes, or these names; None: all
    per_class: int | None = None  # training images kept of each class; None: all
    data_fraction: float = 1.0  # share of the training part that is used
    validation: float = 0.15  # share of the training part held out, cut by the seed
    position: str = "rope"  # as vit.positions.encoding spells it, such as "rope(base=10)+learned"
    depth: int = 2  # blocks
    patch: int = 2  # pixels a side
    width: int = 64  # D
    heads: int = 2  # H
    mlp_ratio: float = 4.0  # hidden width over width
    pool: str = "mean"  # "mean" over patches, or "cls" token
    dropout: float = 0.0
    drop_path: float = 0.0
    init_std: float = 0.06  # of the weights at the start; near 1 / sqrt(3 D), as narrow models learn slowly from 0.02
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3  # at the top of the schedule
    weight_decay: float = 0.05
    warmup_epochs: float = 3.0  # of linear warm-up; then cosine decay
    label_smoothing: float = 0.1
    clip_norm: float = 1.0  # largest global norm of a gradient; 0: no clipping
    crop_padding: int = 0  # pixels added around an image before a random crop
    flip: bool = False  # random horizontal flips
    erase: float = 0.0  # probability of random erasing
    mixup: float = 0.0  # alpha; 0: off
    cutmix: float = 0.0  # alpha; 0: off
    trivial_augment: bool = False
    ema: float = 0.0  # decay of the averaged weights; 0: off
    precision: str = "float32"  # of matrix products: "float32" everywhere; "tf32", "bf16" on GPUs
    seed: int = 0

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Return a validated config from a plain mapping. Raises UsageError for unknown names and wrong types."""
        config = cls(**{name: coerce(name, value) for name, value in values.items()})
        config.validate()
        return config

    def validate(self) -> None:
        """UsageError that names the field, what was given and what is valid; loads no model and no data."""
        for name, check in _CHECKS:
            value = getattr(self, name)
            if not check.accepts(value):
                raise UsageError(f"{name} must be {check.valid}, got {_show(value)}{_why(name, value)}")
        if (standard := standard_position(self.position)) != self.position:
            raise UsageError(f"position must be in its standard spelling, {standard!r}, got {self.position!r}")
        if self.data not in DATASETS:
            raise unknown_name("dataset", self.data, DATASETS)
        if self.labels == "coarse" and self.data != "cifar100":
            raise UsageError(
                f"labels must be 'fine' with data {self.data!r}, got 'coarse' (only cifar100 has coarse labels)"
            )
        if self.columns and self.data not in TABLES:
            raise UsageError(f"columns are for data {' or '.join(TABLES)}, got {self.columns!r} with {self.data!r}")
        for name in PICTURE_FIELDS:
            if self.data not in OWN_DATA and (given := getattr(self, name)) != DEFAULTS[name]:
                raise UsageError(
                    f"{name} is for data {', '.join(OWN_DATA[:-1])} or {OWN_DATA[-1]}, got {_show(given)} with data "
                    f"{self.data!r}, whose images are fixed"
                )
        if self.warmup_epochs >= self.epochs:
            raise UsageError(f"warmup_epochs must be below epochs ({self.epochs}), got {_show(self.warmup_epochs)}")

    def with_epochs(self, epochs: int) -> "RunConfig":
        """Return the run with this number of epochs, and the warm-up in proportion."""
        if epochs == self.epochs:
            return self
        return replace(self, epochs=epochs, warmup_epochs=self.warmup_epochs * epochs / self.epochs)

    def canonical(self) -> dict[str, Any]:
        """JSON-able values by sorted field name, each of its field's type: 1 and 1.0 are one rate.

        `ADDED_FIELDS` with their default values are left out.
        """
        plain = {name: _plain(name, getattr(self, name)) for name in sorted(FIELDS)}
        return {name: value for name, value in plain.items() if name not in ADDED_FIELDS or value != DEFAULTS[name]}


FIELDS: dict[str, Any] = {field.name: field.type for field in fields(RunConfig)}
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(RunConfig)}
PICTURE_FIELDS = ("image_size", "channels", "resize", "group_pattern", "skip_unreadable")
"""How one's own pictures are read."""
ADDED_FIELDS = ("precision", "columns", *PICTURE_FIELDS)
"""Fields that are younger than the keys of runs."""


@dataclass(frozen=True)
class Rule:
    """A check of a value, and the description of valid values."""

    valid: str
    accepts: Callable[[Any], bool]


def _whole(least: int) -> Rule:
    return Rule(f"an integer of at least {least}", lambda value: _is_int(value) and value >= least)


def _real(valid: str, accepts: Callable[[float], bool]) -> Rule:
    return Rule(f"a number {valid}", lambda value: _is_real(value) and math.isfinite(value) and accepts(value))


def _choice(names: tuple[str, ...]) -> Rule:
    return Rule(" or ".join(repr(name) for name in names), lambda value: value in names)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_classes(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) >= 2 and len(set(value)) == len(value) and all(isinstance(n, str) for n in value)
    return value is None or (_is_int(value) and value >= 2)  # type: ignore[operator]


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


_TEXT = Rule("a name", lambda value: isinstance(value, str))
_SWITCH = Rule("true or false", lambda value: isinstance(value, bool))
_NOT_NEGATIVE = _real("of at least 0", lambda value: value >= 0)
_POSITIVE = _real("above 0", lambda value: value > 0)
_SHARE_BELOW_1 = _real("of at least 0 and below 1", lambda value: 0 <= value < 1)

RULES: dict[str, Rule] = {
    "data": _TEXT,
    "labels": _choice(LABELS),
    "columns": Rule(COLUMNS_VALID, lambda value: isinstance(value, str) and is_columns(value)),
    "classes": Rule("an integer of at least 2, or two or more different class names", _is_classes),
    "per_class": Rule("an integer of at least 1, or none", lambda value: value is None or _whole(1).accepts(value)),
    "image_size": Rule("an integer of at least 1, or none", lambda value: value is None or _whole(1).accepts(value)),
    "channels": Rule("1, 3 or none", lambda value: value is None or (_is_int(value) and value in (1, 3))),
    "resize": _choice(RESIZES),
    "group_pattern": Rule("a regular expression", _is_pattern),
    "skip_unreadable": _SWITCH,
    "data_fraction": _real("above 0, at most 1", lambda value: 0 < value <= 1),
    "validation": _real("above 0 and below 1", lambda value: 0 < value < 1),
    "position": _TEXT,
    "depth": _whole(1),
    "patch": _whole(1),
    "width": _whole(1),
    "heads": _whole(1),
    "mlp_ratio": _POSITIVE,
    "pool": _choice(POOLS),
    "dropout": _SHARE_BELOW_1,
    "drop_path": _SHARE_BELOW_1,
    "init_std": _POSITIVE,
    "epochs": _whole(1),
    "batch_size": _whole(1),
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "warmup_epochs": _NOT_NEGATIVE,
    "label_smoothing": _SHARE_BELOW_1,
    "clip_norm": _NOT_NEGATIVE,
    "crop_padding": _whole(0),
    "flip": _SWITCH,
    "erase": _real("from 0 to 1", lambda value: 0 <= value <= 1),
    "mixup": _NOT_NEGATIVE,
    "cutmix": _NOT_NEGATIVE,
    "trivial_augment": _SWITCH,
    "ema": _SHARE_BELOW_1,
    "precision": _choice(PRECISIONS),
    "seed": Rule("an integer from 0 to 2^32 - 1", lambda value: _is_int(value) and 0 <= value < 2**32),
}
_CHECKS = tuple(RULES.items())


def run_key(config: RunConfig, fingerprint: str) -> str:
    """Return the key of a run: SHA-256 (64 hex characters) of its canonical config and data fingerprint."""
    values = config.canonical()
    values["position"] = position_identity(config.position)
    identity = {"config": values, "data": fingerprint, "format": 1}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def coerce(name: str, value: Any) -> Any:
    """Return a value from TOML or JSON in the type of its field. Raises UsageError for a wrong name or type."""
    if name not in FIELDS:
        raise unknown_name("field", name, FIELDS)
    if name == "classes" and isinstance(value, list):
        value = tuple(value)
    if FIELDS[name] is float and _is_int(value):
        value = float(value)
    if not RULES[name].accepts(value):
        raise UsageError(f"{name} must be {RULES[name].valid}, got {_show(value)}{_why(name, value)}")
    if name == "columns":
        return standard_columns(value)
    return standard_position(value) if name == "position" else value


def parse(name: str, text: str) -> Any:
    """Parse a value of the command line, such as parse("learning_rate", "1e-3"). Raises as `coerce`."""
    if name not in FIELDS:
        raise unknown_name("field", name, FIELDS)
    text = text.strip()
    kind = FIELDS[name]
    if kind is bool:
        return coerce(name, {"true": True, "false": False}.get(text.lower(), text))
    if name in ("classes", "per_class", "image_size", "channels") and text.lower() == "none":
        return None
    if name == "classes" and not text.isdecimal():
        return coerce(name, tuple(part.strip() for part in text.split(",")))
    if kind is not str:
        text = text if kind is not float or re.search("[0-9]", text) else f"'{text}'"
        try:
            return coerce(name, float(text) if kind is float else int(text))
        except ValueError:
            raise UsageError(f"{name} must be {RULES[name].valid}, got {text!r}") from None
    return coerce(name, text)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return float(value) if FIELDS[name] is float else value


def _why(name: str, value: object) -> str:
    """Return what is wrong with a regular expression."""
    if name == "group_pattern" and isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            return f" ({error})"
    return ""


def _show(value: object) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
