"""Figures of the search of a tuned study: validation accuracy of every trial against each tuned field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ablations.config import Range, compared_axis, level_text, name_level
from ablations.config.safe_text import shortened
from ablations.config.tuning import shown_value
from ablations.reporting.figures.figure import WIDTH, ReportFigure, canvas
from ablations.reporting.figures.palette import INK, Mark, arm_marks, percent_ticks, style
from ablations.reporting.figures.panels import mark_diverged
from ablations.reporting.formatting import listed
from ablations.reporting.tuning.analysis import Choice, TuningAnalysis, chosen_range
from ablations.tuning import Trial

MOST_COLUMNS = 4
"""Most arms side by side. More are wrapped, and then every setting has a figure of its own."""
MOST_ROWS = 4
"""Most settings below each other; further ones are in another figure."""
MOST_NAMED = 8
"""Most choices that the alternative text has one by one."""
SPANS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0)
"""Points that a panel may cover."""
SHOWN = 0.75
"""Share of the trials that the panels are to show above their lower end."""
INSIDE = 0.06
"""Height of the lowest markers, of trials that are below the panel, as a share of its height."""
APART = 0.5
"""Width over which the trials with the same value of a list are spread, where the values are 1 apart."""
TITLE = 17
"""Characters of a line above a panel."""


@dataclass(frozen=True)
class _Place:
    """Where the trials of a group lie on the axis: numbers of a range as they are, values of a list at 0, 1, 2."""

    field: str
    space: Range | tuple[Any, ...]
    trials: int

    def __call__(self, trial: Trial) -> float:
        value = trial.values[self.field]
        if isinstance(self.space, Range):
            return float(value)
        return self.levels.index(value) + APART * ((trial.number + 0.5) / self.trials - 0.5)

    @property
    def levels(self) -> list[Any]:
        """The values of a list, numbers in order."""
        assert not isinstance(self.space, Range)
        numbers = all(isinstance(value, int | float) for value in self.space)
        return sorted(self.space) if numbers else [*self.space]

    def prepare(self, ax: Axes, narrow: bool) -> None:
        """Set the scale, the ends and the ticks of the horizontal axis; the ends of a range are thin lines."""
        if not isinstance(self.space, Range):
            texts = [shortened(level_text(level), 12) for level in self.levels]
            crowded = sum(map(len, texts)) + 2 * len(texts) > (12 if narrow else 26)
            ax.set_xlim(-0.6, len(texts) - 0.4)
            ax.set_xticks(range(len(texts)), texts, rotation=90 if crowded else 0)
            return
        low, high = self.space.low, self.space.high
        if self.space.log:
            decades = math.log10(high / low)
            margin = 10 ** (0.06 * decades)
            ax.set_xscale("log")
            ax.set_xlim(low / margin, high * margin)
            powers = math.floor(math.log10(high) + 1e-9) - math.ceil(math.log10(low) - 1e-9) + 1
            if narrow and powers < 2:
                ax.set_xticks([low, high])
            else:
                ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if powers >= 2 else (1.0, 3.0), numticks=4))
            ax.xaxis.set_minor_locator(NullLocator())
        else:
            margin = 0.06 * (high - low)
            ax.set_xlim(low - margin, high + margin)
            ax.xaxis.set_major_locator(MaxNLocator(2 if narrow else 4, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, narrow)))
        for end in (low, high):
            ax.axvline(end, color="#CCCCCC", lw=0.8, zorder=0)


def _tick(value: float, narrow: bool) -> str:
    """Return a number on the horizontal axis: `0.001`, or `10⁻³` where there is little room."""
    power = math.log10(value) if value > 0 else math.nan
    if narrow and power < -1.5 and abs(power - round(power)) < 1e-9:
        return f"10⁻{'⁰¹²³⁴⁵⁶⁷⁸⁹'[-round(power)]}" if power > -9.5 else f"{value:g}"
    return f"{value:g}"


def sensitivity_figures(found: TuningAnalysis) -> list[ReportFigure]:
    """Return the figures: for each tuned field one, or several if not all settings fit below each other."""
    with style():
        pages = _pages(found)
        return [
            _figure(found, field, page, number if len(pages) > 1 else 0)
            for number, page in enumerate(pages, start=1)
            for field in found.design.space
        ]


def _pages(found: TuningAnalysis) -> list[list[list[Choice | None]]]:
    """Return the panels of each figure: rows of choices, a setting each, or one setting in several rows."""
    compared = compared_axis(found.axes)
    arms = list(dict.fromkeys(level_text(choice.levels[compared]) for choice in found.choices))
    settings: dict[tuple[str, ...], dict[str, Choice]] = {}
    for choice in found.choices:
        setting = tuple(level_text(level) for axis, level in choice.levels.items() if axis != compared)
        settings.setdefault(setting, {})[level_text(choice.levels[compared])] = choice
    rows = [[of_setting.get(arm) for arm in arms] for of_setting in settings.values()]
    if len(arms) > MOST_COLUMNS:
        return [[row[start : start + MOST_COLUMNS] for start in range(0, len(row), MOST_COLUMNS)] for row in rows]
    return [rows[start : start + MOST_ROWS] for start in range(0, len(rows), MOST_ROWS)]


def _figure(found: TuningAnalysis, field: str, page: Sequence[Sequence[Choice | None]], number: int) -> ReportFigure:
    columns = max(map(len, page))
    compared = compared_axis(found.axes)
    shown = [choice for row in page for choice in row if choice]
    names = list(dict.fromkeys(name_level(compared, choice.levels[compared]) for choice in found.choices))
    marks = arm_marks(compared, names)
    by_rows = len({_setting(choice, compared) for choice in shown}) > 1
    figure, axes = canvas(0.75 + 1.4 * len(page), len(page), columns, width=WIDTH)
    span, place = _span(found), _Place(field, found.design.space[field], found.design.trials)
    for row, choices in enumerate(page):
        for column, ax in enumerate(axes[row]):
            choice = choices[column] if column < len(choices) else None
            if choice is None:
                ax.set_visible(False)
                continue
            arm = name_level(compared, choice.levels[compared])
            place.prepare(ax, narrow=columns > 2)
            trials_of_choice(ax, found, choice, place, marks[arm], span)
            last = row == len(page) - 1 or column >= len([each for each in page[row + 1] if each])
            ax.tick_params(axis="x", labelbottom=last)
            if row == 0 or not by_rows:
                ax.set_title("\n".join(wrap(shortened(arm, 2 * TITLE), TITLE)), loc="left", fontsize=10)
            if by_rows and column == 0:
                parts = _setting(choice, compared).split(", ")
                names_of_setting = ("\n".join(wrap(shortened(part, 2 * TITLE), TITLE)) for part in parts)
                ax.set_ylabel("\n".join(names_of_setting), fontsize=10)
    word = field.replace("_", " ")
    scale = isinstance(place.space, Range) and place.space.log
    figure.supxlabel(word + " (log scale)" * scale, fontsize=11)
    figure.supylabel("validation accuracy", fontsize=11)
    settings = list(dict.fromkeys(filter(None, (_setting(choice, compared) for choice in shown))))
    where = f" at {settings[0]}" if number and len(settings) == 1 else ""
    part = f" ({number})" if number and len(settings) != 1 else ""
    return ReportFigure(
        f"sensitivity_{field}" + f"_{number}" * bool(number),
        f"Validation accuracy against {word}{where}{part}",
        f"Validation accuracy of every trial against {word}, one panel for each of "
        f"{listed(names)}{f' at each of {len(settings)} settings' if len(settings) > 1 else where}; chosen: "
        + (
            "; ".join(f"{choice.name} {shown_value(choice.values[field])}" for choice in shown)
            if len(shown) <= MOST_NAMED
            else chosen_range(found, field)
        )
        + ".",
        _caption(found, shown, span, place),
        figure,
        {f"sensitivity_span_{number}" if number else "sensitivity_span": span},
    )


def _setting(choice: Choice, compared: str) -> str:
    return ", ".join(name_level(axis, level) for axis, level in choice.levels.items() if axis != compared)


def _caption(found: TuningAnalysis, shown: Sequence[Choice], span: float, place: _Place) -> str:
    states = {found.state(trial) for choice in shown for trial in choice.trials}
    below = any(_is_below(found, choice, trial, span) for choice in shown for trial in choice.trials)
    return (
        f"Dot: one trial{', shorter than the runs of the comparison' * (found.design.epochs is not None)}"
        + (f", mean over {found.design.seeds} seeds" if found.design.seeds > 1 else "")
        + ". Circled, "
        "with a dashed line: the trial that was chosen."
        + (" Hollow: a pruned trial, at the accuracy that it had reached." if "pruned" in states else "")
        + (" Cross: a trial with a run that diverged." if "diverged" in states else "")
        + f" Every panel covers {span:g} points, up to its best trial"
        + ("; triangles at the lower edge: trials further below" if below else "")
        + "."
        + (" Trials with the same value lie side by side." if not isinstance(place.space, Range) else "")
    )


def _span(found: TuningAnalysis) -> float:
    """Return the points that every panel covers: those that show most of the finished trials."""
    drops = [
        drop
        for choice in found.choices
        for trial in choice.trials
        if found.state(trial) == "finished" and math.isfinite(drop := _top(found, choice) - found.reached(trial))
    ]
    needed = float(np.quantile(drops, SHOWN)) / (1 - INSIDE) if drops else 0.0
    return next(span for span in SPANS if span >= min(needed, SPANS[-1]))


def _top(found: TuningAnalysis, choice: Choice) -> float:
    """Return the accuracy of the best trial of a group."""
    reached = [found.reached(trial) for trial in choice.trials if found.state(trial) != "pruned"]
    return max((each for each in reached if math.isfinite(each)), default=math.nan)


def _is_below(found: TuningAnalysis, choice: Choice, trial: Trial, span: float) -> bool:
    return found.reached(trial) < _top(found, choice) - span * (1 - INSIDE)


def trials_of_choice(ax: Axes, found: TuningAnalysis, choice: Choice, place: _Place, mark: Mark, span: float) -> Axes:
    """Draw the trials of a group against one field, and the chosen one."""
    top = _top(found, choice)
    if not math.isfinite(top):
        ax.text(0.5, 0.5, "no trial", transform=ax.transAxes, ha="center", va="center", fontsize=10)
        ax.set_yticks([])
        return ax
    bottom, ceiling = top - span, top + 0.12 * span
    ax.set_ylim(bottom, ceiling)
    for trial in choice.trials:
        y, state = found.reached(trial), found.state(trial)
        if not math.isfinite(y) or state == "not finished":
            continue
        below = _is_below(found, choice, trial, span)
        _dot(ax, place(trial), bottom + INSIDE * span if below else y, state, mark.colour, below)
    if choice.winner is not None:
        x = place(choice.winner)
        ax.axvline(x, color=mark.colour, lw=1, ls="--", alpha=0.6, zorder=1)
        ax.plot(x, max(choice.score, bottom), "o", ms=10, mfc="none", mec=INK, mew=1.3, zorder=5)
    percent_ticks(ax.yaxis, most=3)
    ax.grid(axis="y")
    return ax


def _dot(ax: Axes, x: float, y: float, state: str, colour: str, below: bool) -> None:
    if state == "diverged":
        mark_diverged(ax, [x], [y], colour)
        return
    style: Mapping[str, Any] = {"mfc": "white", "mec": colour} if state == "pruned" else {"mfc": colour, "mec": "white"}
    ax.plot(x, y, "v" if below else "o", ms=5.5, mew=1.1 if state == "pruned" else 0.6, zorder=3, **style)
