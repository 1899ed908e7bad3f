"""Checks of what a protocol declares and measures; it may be a class in a file or a package."""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.errors import UsageError, VitabError
from ablations.evaluation.protocol import Measurement, Metric, Protocol
from vit.own_classes import OwnClasses

if TYPE_CHECKING:
    from ablations.config import RunConfig

Own = OwnClasses[Protocol]

ROUNDING = 1e-6
"""By how much a metric may exceed its bounds, as sums of float32 do."""

_METRIC_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ARRAY_NAME = re.compile(r"(?!(?:allow_pickle|file)$)[A-Za-z]\w*", re.ASCII)  # of a keyword argument of np.savez
_METRIC_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "noun": ("a non-empty string", lambda value: isinstance(value, str) and bool(value.strip())),
    "unit": ("a string", lambda value: isinstance(value, str)),
    "higher_is_better": ("True, False or None", lambda value: value is None or isinstance(value, bool)),
    "signed": ("True or False", lambda value: isinstance(value, bool)),
    "tested": ("True or False", lambda value: isinstance(value, bool)),
}


def check_protocol(made: Protocol, own: Own) -> None:
    """Raise UsageError unless a protocol describes itself and its metrics."""
    name = own.without_digest(made.name)
    if not isinstance(description := getattr(made, "description", None), str):
        raise UsageError(f"description of protocol {name} must be a string, got {_shown(description)}")
    try:
        metrics = made.metrics()
    except (Exception, SystemExit) as error:
        raise UsageError(f"metrics of protocol {name} raises {own.describe_error(error, [type(made)])}") from error
    if not (isinstance(metrics, list) and metrics and all(isinstance(metric, Metric) for metric in metrics)):
        raise UsageError(f"metrics of protocol {name} must be a list of at least one Metric, got {_shown(metrics)}")
    for metric in metrics:
        _check_metric(metric, name)
    if len({metric.name for metric in metrics}) < len(metrics):
        twice = ", ".join(metric.name for metric in metrics)
        raise UsageError(f"metrics of protocol {name} must have different names, got {twice}")


def _check_metric(metric: Metric, name: str) -> None:
    if not (isinstance(metric.name, str) and _METRIC_NAME.fullmatch(metric.name)):
        valid = "letters, digits, '-', '.' or '_'"
        raise UsageError(f"name of a metric of protocol {name} must be {valid}, got {_shown(metric.name)}")
    for field, (valid, accepts) in _METRIC_FIELDS.items():
        if not accepts(value := getattr(metric, field)):
            raise UsageError(f"{field} of metric {metric.name} of protocol {name} must be {valid}, got {_shown(value)}")


def checked_passes(asked: Protocol, config: "RunConfig", own: Own) -> float:
    """Return the cost of a protocol on a run. Raises UsageError if it is not a number of forward passes."""
    name = own.without_digest(asked.name)
    try:
        passes = asked.passes(config)
    except (Exception, SystemExit) as error:
        raise UsageError(f"passes of protocol {name} raises {own.describe_error(error, [type(asked)])}") from error
    number = _number(passes)
    if number is None or not 0 <= number < math.inf:
        raise UsageError(f"passes of protocol {name} must be a finite number of at least 0, got {_shown(passes)}")
    return number


def checked_measurement(measured: Measurement, asked: Protocol, own: Own) -> Measurement:
    """Return what a protocol has measured: metrics of type float, arrays, and a tuple of reasons.

    Raises VitabError if a metric is not declared or not a finite number within its bounds, or if arrays or reasons
    cannot be stored.
    """
    name = own.without_digest(asked.name)
    if not isinstance(measured, Measurement):
        raise VitabError(f"measure of protocol {name} must return a Measurement, got {type(measured).__name__}")
    return replace(
        measured,
        metrics=_checked_metrics(measured.metrics, asked, name),
        arrays=_checked_arrays(measured.arrays, name),
        reasons=_checked_reasons(measured.reasons, name),
    )


def _checked_metrics(measured: object, asked: Protocol, name: str) -> dict[str, float]:
    if not isinstance(measured, Mapping):
        must = "must be a mapping of names to numbers"
        raise VitabError(f"metrics measured by protocol {name} {must}, got {_shown(measured)}")
    listed = {metric.name: metric for metric in asked.metrics()}
    found = {}
    for key, value in measured.items():
        if key not in listed:
            raise VitabError(f"metrics measured by protocol {name} must be {', '.join(listed)}, got {_shown(key)}")
        number = _number(value)
        if number is None:
            raise VitabError(f"metric {key} of protocol {name} must be a number, got {_shown(value)}")
        if valid := _violated(listed[key], number):
            raise VitabError(f"metric {key} of protocol {name} must be {valid}, got {number:g}")
        found[str(key)] = number
    return found


def _violated(metric: Metric, number: float) -> str:
    """Return what the number of a metric must be and is not, otherwise nothing."""
    least, most = -1 if metric.signed else 0, 1
    if not math.isfinite(number):
        return "a finite number, or be left out with a line in reasons"
    if metric.unit == "%" and not least - ROUNDING <= number <= most + ROUNDING:
        return f"a share from {least} to {most}, as its unit is %"
    if not metric.signed and number < -ROUNDING:
        return "at least 0, as it is not signed"
    return ""


def _checked_arrays(measured: object, name: str) -> dict[str, np.ndarray]:
    if not isinstance(measured, Mapping):
        raise VitabError(f"arrays of protocol {name} must be a mapping of names to arrays, got {_shown(measured)}")
    found = {}
    for key, value in measured.items():
        if not (isinstance(key, str) and _ARRAY_NAME.fullmatch(key)):
            valid = "a letter, then letters, digits or '_', and not allow_pickle or file"
            raise VitabError(f"name of an array of protocol {name} must be {valid}, got {_shown(key)}")
        try:
            array = np.asarray(value)
        except Exception:  # rows of different lengths, or what a class of its own raises
            array = np.array(None)
        if array.dtype.hasobject:
            valid = "numbers or strings in a rectangular array"
            raise VitabError(f"array {key} of protocol {name} must be {valid}, got {_shown(value)}")
        found[key] = array
    return found


def _checked_reasons(measured: object, name: str) -> tuple[str, ...]:
    if not isinstance(measured, tuple | list) or not all(
        isinstance(reason, str) and reason.strip() and len(reason.splitlines()) == 1 for reason in measured
    ):
        raise VitabError(
            f"reasons of protocol {name} must be a tuple or list of non-empty lines, got {_shown(measured)}"
        )
    return tuple(measured)


def _number(value: object) -> float | None:
    """Return a number as a float, an infinite one if it is too large; None if the value is not a number."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    """Return a value as in messages: in one line, and shortened if it is long."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 60
    shown.maxlevel = 2
    return " ".join(shown.repr(value).split())
