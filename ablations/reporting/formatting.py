"""Numbers, intervals and lists as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablations.config import count


def p_text(p: float) -> str:
    """Return a p value with three decimals: `0.031`, `< 0.001`, or a dash if there is none."""
    if not np.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_phrase(p: float) -> str:
    """Return `p = 0.031` or `p < 0.001`."""
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def points_text(value: float, decimals: int = 1) -> str:
    """Return a signed difference with a minus sign (U+2212)."""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if float(f"{value:.{decimals}f}") else f"{0:.{decimals}f}"


def interval_text(low: float, high: float, decimals: int = 1) -> str:
    """Return the ends of an interval of a difference, each with as many decimals as show its sign (`signed_text`)."""
    return f"{signed_text(low, decimals)} to {signed_text(high, decimals)}"


def has_spread(low: float, high: float) -> bool:
    """Return whether an interval has a width; without one, all seeds of a setting gave the same value."""
    return high - low >= 1e-9


def interval_cell(low: float, high: float, decimals: int = 1) -> str:
    """Return an interval of a difference for a table: `no spread` if its width is zero, a dash if there is none."""
    if not np.isfinite(low):
        return "–"
    return interval_text(low, high, decimals) if has_spread(low, high) else "no spread"


def mean_interval(low: float, high: float, decimals: int = 1) -> str:
    """Return the interval of a mean or share; `all equal` if its width is zero, empty if there is none."""
    if not np.isfinite(low):
        return ""
    return f"{number(low, decimals)} to {number(high, decimals)}" if has_spread(low, high) else "all equal"


def number(value: float, decimals: int = 1) -> str:
    """Return a number with a minus sign (U+2212) if it is negative."""
    return f"{value:.{decimals}f}".replace("-", "−")


def signed_text(value: float, least: int = 1) -> str:
    """Return a signed difference with the least number of decimals that shows its sign, up to three more or four."""
    decimals = next((n for n in range(least, max(5, least + 4)) if float(f"{value:.{n}f}")), least)
    return points_text(value, decimals)


def time_text(seconds: float) -> str:
    """Return a time in hours or minutes with one decimal, or in whole seconds."""
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} hours"
    if seconds >= 120:
        return f"{seconds / 60:,.1f} minutes"
    return count(round(seconds), "second") if seconds >= 0.5 else "less than a second"


def in_unit(what: str, unit: str) -> str:
    """Return `what in unit`, or `what` for a pure number."""
    return f"{what} in {unit}" if unit else what


def capital(text: str) -> str:
    """Return text with a capital at the start."""
    return f"{text[:1].upper()}{text[1:]}"


def listed(names: Sequence[str], conjunction: str = "and") -> str:
    """Return `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {conjunction} {names[-1]}"
