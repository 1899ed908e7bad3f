"""The figures of a report, with captions and alternative texts."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ablations.config import Level, level_text
from ablations.config.safe_text import LONGEST, shortened
from ablations.reporting.figures import panels as figures
from ablations.reporting.figures.cost import cost
from ablations.reporting.figures.encodings import encodings
from ablations.reporting.figures.figure import WIDTH, ReportFigure, canvas
from ablations.reporting.figures.palette import Mark, arm_legend, arm_marks, style, value_ticks
from ablations.reporting.formatting import capital, listed, number, points_text
from ablations.statistics import Analysis, FloatArray, Measure, Outcomes

if TYPE_CHECKING:
    from ablations.storage import Results


def report_figures(results: Results, analysis: Analysis) -> list[ReportFigure]:
    """Return every figure that the study has data for, in the order of the report.

    Learning curves and encodings are figures of the report on accuracy only.
    """
    outcomes = analysis.outcomes
    whole = outcomes.measure.is_accuracy
    with style():
        drawn = [
            _values(outcomes),
            _contrasts(analysis),
            _ranks(analysis),
            _heatmaps(outcomes),
            *([_learning(results, outcomes)] if whole else []),
            cost(results, outcomes),
            *(encodings(results) if whole else []),
        ]
    return [figure for figure in drawn if figure]


def names_of(outcomes: Outcomes) -> list[str]:
    return [outcomes.arm_name(arm) for arm in range(len(outcomes.arms))]


def marks_of(outcomes: Outcomes) -> dict[str, Mark]:
    return arm_marks(outcomes.axis, names_of(outcomes))


def panels_of(outcomes: Outcomes, most: int = 4) -> tuple[int, int]:
    """Return the rows and columns of panels, one per cell: the last cell axis across, the others down."""
    cells = len(outcomes.cells)
    if len(outcomes.cell_axes) < 2:
        columns = cells if cells <= most else 3
    else:
        columns = len({cell[-1] for cell in outcomes.cells})
    return -(-cells // columns), columns


def panel_title(name: str) -> str:
    return "\n".join(wrap(shortened(name, 2 * LONGEST), LONGEST))


def _level_names(levels: Iterable[Level]) -> list[str]:
    return [shortened(level_text(level)) for level in levels]


def _axis_word(axis: str) -> str:
    return axis.replace("_", " ")


def _values(outcomes: Outcomes) -> ReportFigure:
    m = outcomes.measure
    names, marks = names_of(outcomes), marks_of(outcomes)
    rows, columns = panels_of(outcomes, most=2)
    height = 0.75 + rows * (0.45 + 0.33 * len(names))
    figure, axes = canvas(height, rows, columns, sharex=True, sharey=True, width=max(WIDTH, 2.1 * columns + 1))
    for cell, ax in enumerate(axes.flat):
        if cell >= len(outcomes.cells):
            ax.set_visible(False)
            continue
        figures.values_by_arm(ax, outcomes.values[:, cell], outcomes.has_diverged[:, cell], names, marks, measure=m)
        ax.grid(axis="x")
        ax.set_title(panel_title(outcomes.cell_name(cell)), loc="left")
        ax.tick_params(axis="x", labelbottom=True)
    figure.supxlabel(axis_label(m), fontsize=11)
    n = _run_range(outcomes)
    return ReportFigure(
        "accuracy" if m.is_accuracy else "values",
        f"{'Accuracy' if m.is_accuracy else capital(m.noun)} by {_axis_word(outcomes.axis)}",
        f"Dot plot of {m.noun}, one panel per setting, with a row for {listed(names)}; runs per row: {n}.",
        f"Marker: {m.noun} of one run (one seed){_in_unit(m)}; bar and number: mean of the row."
        + (" Cross: a run that diverged, with chance accuracy." if outcomes.has_diverged.any() else ""),
        figure,
    )


def _contrasts(analysis: Analysis) -> ReportFigure | None:
    outcomes = analysis.looked
    arms = outcomes.others
    pairs = [
        (
            contrast,
            outcomes.differences(arm, outcomes.baseline),
            outcomes.has_diverged[arm] | outcomes.has_diverged[outcomes.baseline],
        )
        for arm, contrast in zip(arms, analysis.contrasts, strict=True)
        if contrast.n
    ]
    if not pairs:
        return None
    figure, axes = canvas(0.85 + (0.55 if len(pairs) <= 6 else 0.42) * len(pairs))
    ax = axes[0, 0]
    contrasts, differences, diverged = (list(each) for each in zip(*pairs, strict=True))
    figures.contrast_forest(ax, contrasts, differences, diverged, marks_of(outcomes))
    base = outcomes.arm_name(outcomes.baseline)
    m = outcomes.measure
    unit = f"({m.differences_in})" if m.differences_in else ""
    label = tuple(filter(None, ("difference from", shortened(base), unit)))
    ax.set_xlabel((" " if len(base) <= LONGEST // 2 else "\n").join(label))
    interval = any(np.isfinite(contrast.low) for contrast in contrasts)
    return ReportFigure(
        "contrasts",
        f"Paired differences from {base}",
        f"Forest plot of paired differences in {m.noun} from {base}: "
        + "; ".join(f"{c.subject} {m.amount(points_text(c.mean, m.decimals))}" for c in contrasts)
        + ".",
        f"Large marker and number: mean difference from {base}{f' in {m.differences_in}' if m.differences_in else ''}"
        + ("; thick line: its 95 % interval" if interval else "")
        + "; small dots: the differences of individual pairs."
        + (" Cross: a pair in which a run diverged." if any(each.any() for each in diverged) else ""),
        figure,
    )


def _ranks(analysis: Analysis) -> ReportFigure | None:
    found = analysis.ranks
    if found is None:
        return None
    m = analysis.outcomes.measure
    best, first = ("1 = highest", "highest") if m.higher_is_better is None else ("1 = best", "best")
    figure, axes = canvas(1.1 + 0.32 * len(found.arms))
    figures.critical_difference(axes[0, 0], found, marks_of(analysis.outcomes))
    axes[0, 0].set_xlabel(f"mean rank ({best})")
    order = sorted(zip(found.mean_ranks, found.arms, strict=True))
    return ReportFigure(
        "ranks",
        "Ranks over settings",
        f"Mean ranks over settings, {first} first: " + "; ".join(f"{arm} {rank:.2f}" for rank, arm in order) + ".",
        f"Mean rank over {found.cells} settings ({best}). Grey bars join arms whose mean ranks differ by less than "
        f"the critical difference of {found.critical:.2f}.",
        figure,
    )


def _heatmaps(outcomes: Outcomes) -> ReportFigure | None:
    if not outcomes.cell_axes:
        return None
    means, m = _mean(outcomes.values), outcomes.measure
    finite = means[np.isfinite(means)]
    lowest, highest = float(finite.min()), float(finite.max())
    if lowest == highest:
        lowest, highest = lowest - 1, highest + 1
    tables: list[tuple[str, pd.DataFrame]]
    if len(outcomes.cell_axes) == 1:
        other = outcomes.cell_axes[0]
        frame = pd.DataFrame(means, _level_names(outcomes.arms), _level_names(c[0] for c in outcomes.cells))
        tables, down, across = [("", frame)], outcomes.axis, other
    else:
        *first, across = outcomes.cell_axes
        down = ", ".join(first)
        index = list(dict.fromkeys(", ".join(_level_names(c[:-1])) for c in outcomes.cells))
        columns = list(dict.fromkeys(_level_names(c[-1] for c in outcomes.cells)))
        shape = (len(index), len(columns))
        tables = [
            (name, pd.DataFrame(row.reshape(shape), index, columns))
            for name, row in zip(names_of(outcomes), means, strict=True)
        ]
    wide = len(tables) if tables[0][1].shape[1] * len(tables) <= 12 else min(2, len(tables))
    rows = -(-len(tables) // wide)
    panel = 0.42 * tables[0][1].shape[0]
    figure, axes = canvas(0.8 + rows * (0.45 + max(panel, 0.8)), rows, wide)
    layout = figure.get_layout_engine()
    figure.set_layout_engine("none")  # each heatmap of seaborn would lay the whole figure out
    for i, (ax, (name, frame)) in enumerate(zip(axes.flat, tables, strict=False)):
        figures.means_heatmap(ax, frame, lowest=lowest, highest=highest, decimals=m.decimals)
        ax.set_title(panel_title(name))
        ax.tick_params(labelleft=i % wide == 0, labelbottom=i + wide >= len(tables))
    for ax in list(axes.flat)[len(tables) :]:
        ax.set_visible(False)
    figure.set_layout_engine(layout)
    units = {"patch": " (pixels a side)", "depth": " (blocks)"}
    figure.supxlabel(_axis_word(across) + units.get(across, ""), fontsize=11)
    figure.supylabel(_axis_word(down) + (units.get(down, "") if rows * panel > 1.4 else ""), fontsize=11)
    scale = ScalarMappable(Normalize(lowest, highest), sns.color_palette("crest", as_cmap=True))
    bar = figure.colorbar(scale, ax=axes.ravel().tolist(), aspect=12, pad=0.02, shrink=0.9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    value_ticks(bar.ax.yaxis, m, most=4)
    return ReportFigure(
        "heatmap",
        f"{_axis_word(down)} × {_axis_word(across)}".capitalize(),
        f"Heatmaps of {m.mean_noun} over {_axis_word(down)} and {_axis_word(across)}, "
        f"from {number(lowest, m.decimals)} to {number(highest, m.decimals)}{_unit(m)}.",
        f"{capital(m.mean_noun)}{_in_unit(m)}; all panels share one colour scale.",
        figure,
    )


def _learning(results: Results, outcomes: Outcomes) -> ReportFigure | None:
    shared = [c for c in (outcomes.axis, *outcomes.cell_axes) if c not in results.epochs.columns]
    epochs = results.epochs.merge(results.runs[["key", *shared, "diverged"]], on="key")
    if epochs.empty:
        return None
    matched = results.plan.match is not None and results.runs["epochs"].nunique() > 1  # then all end at 100 %
    epochs["share"] = 100 * epochs["epoch"] / epochs["key"].map(results.runs.set_index("key")["epochs"])
    names, marks = names_of(outcomes), marks_of(outcomes)
    rows, columns = panels_of(outcomes)
    banded = len(names) <= figures.MOST_BANDS
    figure, axes = canvas(
        0.75 + rows * (1.75 if len(outcomes.cells) > 1 else 2.8 if banded else 4.2),
        rows,
        columns,
        sharex=True,
        sharey=True,
        width=max(WIDTH, 1.8 * columns + 0.6),
    )
    by_name = dict(zip(map(level_text, outcomes.arms), names, strict=True))
    texts = {column: epochs[column].map(level_text, na_action=None) for column in (outcomes.axis, *outcomes.cell_axes)}
    epochs = epochs.assign(**texts)
    for cell, ax in enumerate(axes.flat):
        if cell >= len(outcomes.cells):
            ax.set_visible(False)
            continue
        here = np.ones(len(epochs), dtype=bool)
        for axis, level in zip(outcomes.cell_axes, outcomes.cells[cell], strict=True):
            here &= (epochs[axis] == level_text(level)).to_numpy()
        figures.learning_curves(ax, epochs[here], outcomes.axis, by_name, marks, "share" if matched else "epoch")
        ax.set_title(panel_title(outcomes.cell_name(cell)), loc="left")
    figure.supxlabel("share of the training compute (percent)" if matched else "epoch", fontsize=11)
    figure.supylabel("validation accuracy", fontsize=11)
    if len(names) > 1:
        arm_legend(figure, marks, line=2.5, handlelength=2)
    return ReportFigure(
        "learning_curves",
        "Learning curves",
        f"Validation accuracy after every epoch for {listed(names)}, one panel per setting.",
        f"Line: mean over seeds{'; band: lowest to highest seed' * banded}. "
        + ("All arms have the same compute, in different numbers of epochs. " if matched else "")
        + "The validation images are held out from the training set; the test set contains none of them."
        + (
            " Cross: last epoch of a run that diverged; the lines show the runs that are still training."
            if (epochs["diverged"] > 0).any()
            else ""
        ),
        figure,
    )


def _unit(measure: Measure) -> str:
    """Return ` percent`, ` nats`, or nothing for a pure number."""
    return " percent" if measure.is_share else f" {measure.unit}".rstrip()


def _in_unit(measure: Measure) -> str:
    return f" in{_unit(measure)}" if measure.unit else ""


def axis_label(measure: Measure) -> str:
    """Return the label of an axis of values; the ticks of shares have the unit."""
    return measure.noun + (f" ({measure.unit})" if measure.unit and not measure.is_share else "")


def _mean(values: FloatArray) -> FloatArray:
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _run_range(outcomes: Outcomes) -> str:
    n = np.isfinite(outcomes.values).sum(axis=-1)
    return f"{n.max()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
