"""Numbers, intervals and lists as text."""

from __future__ import annotations

import numpy as np


def p_text(p: float) -> str:
    """A p value with three decimals: `0.031`, `< 0.001`, or a dash where there is none."""
    if not np.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_phrase(p: float) -> str:
    """`p = 0.031` or `p < 0.001`."""
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def points_text(value: float, decimals: int = 1) -> str:
    """A signed number of percentage points, with a real minus sign."""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if float(f"{value:.{decimals}f}") else f"{0:.{decimals}f}"


def interval_text(low: float, high: float) -> str:
    """The ends of an interval of points: so near to zero that one decimal hides their side, with as many as show it."""
    return f"{_end_text(low)} to {_end_text(high)}"


def mean_interval(low: float, high: float) -> str:
    """The interval of a mean in percent; of runs that are all alike there is none: they say nothing of their spread."""
    if not np.isfinite(low):
        return ""
    return "all alike" if high - low < 1e-9 else f"{low:.1f} to {high:.1f}"


def _end_text(value: float) -> str:
    decimals = next((n for n in range(1, 5) if float(f"{value:.{n}f}")), 1)
    return points_text(value, decimals)


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
