"""Style of the figures: a colour and a marker for each arm, and matplotlib settings that do not change its state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ablations.config.safe_text import shortened
from ablations.statistics import Measure


@dataclass(frozen=True)
class Mark:
    """Colour and marker of an arm."""

    colour: str
    marker: str

    @property
    def scale(self) -> float:
        """Return the factor that makes the marker look as large as others of its size."""
        return 1.4 if self.marker == "*" else 1.0

    def key(self, line: float = 0) -> Line2D:
        """Return an entry of a legend, with a line of this width through the marker."""
        return Line2D([], [], color=self.colour, marker=self.marker, ms=7 * self.scale, lw=line)


POSITION_MARKS = {
    "none": Mark("#949494", "o"),
    "learned": Mark("#F0A500", "s"),
    "sinusoidal": Mark("#2A6FB5", "^"),
    "rope": Mark("#C8412B", "D"),
    "learned-axial": Mark("#DDCC77", "h"),
    "sinusoidal-1d": Mark("#56B4E9", "v"),
    "rope-mixed": Mark("#780000", "d"),
    "rope-dinov3": Mark("#882255", "X"),
    "lie-rope": Mark("#D24BFF", "P"),
    "relative-bias": Mark("#332288", "<"),
    "relative-bias-mlp": Mark("#960FF0", ">"),
    "relative-keys": Mark("#000000", "p"),
    "alibi-2d": Mark("#A5D2A5", "H"),
    "cpe": Mark("#4B0F5A", "*"),
}
OTHER_MARKS = (*list(POSITION_MARKS.values())[4:], Mark("#B48769", "8"))
"""Marks of encodings that are not built in: those that no built-in arm of the study has.

Colours of Okabe & Ito and of Tol, and others, chosen by a search. All are at least 19 apart in CIELAB for normal vision
and without one of the three kinds of cones; those of none, learned, sinusoidal and rope at least 30."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "d", "h", "8", "H")

INK = "#222222"
FAINT = "#D9D9D9"

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.edgecolor": "#777777",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "vitab",
    "path.simplify": True,
    "text.parse_math": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the style within the context, and restore the settings of matplotlib afterwards."""
    with sns.axes_style("ticks"), mpl.rc_context(_STYLE):
        yield


def position_marks(names: Sequence[str]) -> dict[str, Mark]:
    """Return a mark for each position: fixed for the built-in ones, else chosen by a hash of the name.

    Arms have different colours; where there are more arms than colours, those of one colour have different markers.
    """
    marks = {name: POSITION_MARKS[name] for name in names if name in POSITION_MARKS}
    for name in sorted(set(names) - set(marks)):
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        order = [OTHER_MARKS[(start + i) % len(OTHER_MARKS)] for i in range(len(OTHER_MARKS))]
        used = {mark.colour for mark in marks.values()}
        free = [mark for mark in order if mark.colour not in used]
        free = free or [mark for mark in _with_other_markers(order) if mark not in marks.values()]
        marks[name] = (free or order)[0]
    return {name: marks[name] for name in names}


def _with_other_markers(marks: Sequence[Mark]) -> Iterator[Mark]:
    """Yield combinations of the colours of marks with other markers."""
    for shift in range(1, len(MARKERS)):
        for mark in marks:
            yield Mark(mark.colour, MARKERS[(MARKERS.index(mark.marker) + shift) % len(MARKERS)])


def shades(count: int) -> list[str]:
    """Return colours from dark to light, for levels that have an order."""
    colour_map = sns.color_palette("viridis", as_cmap=True)
    return [to_hex(colour_map(x)) for x in np.linspace(0.05, 0.8, count)]


def arm_marks(axis: str, names: Sequence[str]) -> dict[str, Mark]:
    """Return the marks of the arms: by name for positions, else dark to light in the order of the levels."""
    if axis == "position":
        return position_marks(names)
    return {
        name: Mark(colour, MARKERS[i % len(MARKERS)])
        for i, (name, colour) in enumerate(zip(names, shades(len(names)), strict=True))
    }


LEGEND_WIDTH = 90
"""Characters that fit beside each other in a legend, a mark and a gap counted as eight per name."""


def arm_legend(figure: Figure, marks: Mapping[str, Mark], line: float = 0, **options: Any) -> None:
    """Draw the legend of the arms above the axes; the figure grows by its lines after the first."""
    names = list(map(shortened, marks))
    columns = max(1, min(len(names), 5, LEGEND_WIDTH // (max(map(len, names)) + 8)))
    figure.set_figheight(figure.get_figheight() + 0.2 * ((len(names) - 1) // columns))
    handles = [mark.key(line) for mark in marks.values()]
    legend = figure.legend(handles, [" "] * len(names), loc="outside upper center", ncols=columns, **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # as a label, a name that starts with "_" would be left out


def value_ticks(axis: mpl.axis.Axis, measure: Measure, most: int = 5) -> None:
    """Set the ticks of an axis of values: in percent for shares."""
    if measure.is_share:
        percent_ticks(axis, most)
    else:
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def percent_ticks(axis: mpl.axis.Axis, most: int = 5) -> None:
    """Set the ticks of an axis in percent, at whole numbers unless the axis is too short."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
