"""The figures of a report, composed of panels, each with the words that go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from ablations import figures
from ablations.analysis import Analysis
from ablations.encoding_pictures import encodings
from ablations.outcomes import FloatArray, Outcomes, level_text, name_level
from ablations.palette import INK, MARKERS, arm_colours, percent_ticks, points_text, style
from ablations.picture import WIDTH, Picture, canvas, listed

if TYPE_CHECKING:
    from ablations.store import Results


def pictures(results: Results, analysis: Analysis) -> list[Picture]:
    """Every figure that the study has data for, in the order of the report."""
    outcomes = analysis.outcomes
    with style():
        drawn = [
            _accuracy(outcomes),
            _contrasts(analysis),
            _ranks(analysis),
            _heatmaps(outcomes),
            _learning(results, outcomes),
            _cost(results, outcomes),
            encodings(results),
        ]
    return [picture for picture in drawn if picture]


def _names(outcomes: Outcomes) -> list[str]:
    return [outcomes.arm_name(arm) for arm in range(len(outcomes.arms))]


def _colours(outcomes: Outcomes) -> dict[str, str]:
    return arm_colours(outcomes.axis, _names(outcomes))


def _panels(outcomes: Outcomes, most: int = 4) -> tuple[int, int]:
    """Rows and columns that give every cell a panel: the last cell axis across, the others down."""
    cells = len(outcomes.cells)
    if len(outcomes.cell_axes) < 2:
        columns = cells if cells <= most else 3
    else:
        columns = len({cell[-1] for cell in outcomes.cells})
    return -(-cells // columns), columns


def _axis_word(axis: str) -> str:
    return axis.replace("_", " ")


def _accuracy(outcomes: Outcomes) -> Picture:
    names, colours = _names(outcomes), _colours(outcomes)
    rows, columns = _panels(outcomes, most=2)
    height = 0.75 + rows * (0.45 + 0.33 * len(names))
    figure, axes = canvas(height, rows, columns, sharex=True, sharey=True, width=max(WIDTH, 2.1 * columns + 1))
    for cell, ax in enumerate(axes.flat):
        if cell >= len(outcomes.cells):
            ax.set_visible(False)
            continue
        figures.accuracy_by_arm(ax, outcomes.accuracy[:, cell], names, colours)
        ax.grid(axis="x")
        ax.set_title(outcomes.cell_name(cell), loc="left")
        ax.tick_params(axis="x", labelbottom=True)
    figure.supxlabel("test accuracy", fontsize=11)
    n = _run_range(outcomes)
    return Picture(
        "accuracy",
        f"Accuracy by {_axis_word(outcomes.axis)}",
        f"Dot plot of test accuracy, one panel a setting, with a row for {listed(names)}; runs in a row: {n}.",
        "Each dot is one run (one seed) on the test set, the bar and the number beside it are the mean of the row, "
        "in percent.",
        figure,
    )


def _contrasts(analysis: Analysis) -> Picture | None:
    outcomes = analysis.looked
    arms = [arm for arm in range(len(outcomes.arms)) if arm != outcomes.baseline]
    pairs = [
        (contrast, outcomes.differences(arm, outcomes.baseline))
        for arm, contrast in zip(arms, analysis.contrasts, strict=True)
        if contrast.n
    ]
    if not pairs:
        return None
    figure, axes = canvas(0.85 + 0.55 * len(pairs))
    ax = axes[0, 0]
    figures.contrast_forest(ax, [p[0] for p in pairs], [p[1] for p in pairs], _colours(outcomes))
    base = outcomes.arm_name(outcomes.baseline)
    ax.set_xlabel(f"difference from {base} (percentage points)")
    interval = any(np.isfinite(contrast.low) for contrast, _ in pairs)
    return Picture(
        "contrasts",
        f"Paired differences from {base}",
        f"Paired differences in accuracy from {base}: "
        + "; ".join(f"{c.subject} {points_text(c.mean)} points" for c, _ in pairs)
        + ".",
        f"Large dot: mean difference from {base} in percentage points, also written at the right"
        + ("; thick line: its 95 % interval" if interval else "")
        + "; small dots: the pairs it is made of, each two runs alike in all but the arm.",
        figure,
    )


def _ranks(analysis: Analysis) -> Picture | None:
    found = analysis.ranks
    if found is None:
        return None
    figure, axes = canvas(1.1 + 0.32 * len(found.arms))
    figures.critical_difference(axes[0, 0], found, _colours(analysis.outcomes))
    order = sorted(zip(found.mean_ranks, found.arms, strict=True))
    return Picture(
        "ranks",
        "Ranks over settings",
        "Mean ranks over settings, best first: " + "; ".join(f"{arm} {rank:.2f}" for rank, arm in order) + ".",
        f"Mean rank over {found.cells} settings, 1 the best. Grey bars join arms whose ranks differ by less than the "
        f"critical difference of {found.critical:.2f}.",
        figure,
    )


def _heatmaps(outcomes: Outcomes) -> Picture | None:
    if not outcomes.cell_axes:
        return None
    means = _mean(outcomes.accuracy)
    finite = means[np.isfinite(means)]
    lowest, highest = float(finite.min()), float(finite.max())
    if lowest == highest:
        lowest, highest = lowest - 1, highest + 1
    tables: list[tuple[str, pd.DataFrame]]
    if len(outcomes.cell_axes) == 1:
        other = outcomes.cell_axes[0]
        frame = pd.DataFrame(means, list(map(level_text, outcomes.arms)), [level_text(c[0]) for c in outcomes.cells])
        tables, down, across = [("", frame)], outcomes.axis, other
    else:
        *first, across = outcomes.cell_axes
        down = ", ".join(first)
        index = list(dict.fromkeys(", ".join(map(level_text, c[:-1])) for c in outcomes.cells))
        columns = list(dict.fromkeys(level_text(c[-1]) for c in outcomes.cells))
        shape = (len(index), len(columns))
        tables = [
            (name, pd.DataFrame(row.reshape(shape), index, columns))
            for name, row in zip(_names(outcomes), means, strict=True)
        ]
    wide = len(tables) if tables[0][1].shape[1] * len(tables) <= 12 else min(2, len(tables))
    rows = -(-len(tables) // wide)
    panel = 0.42 * tables[0][1].shape[0]
    figure, axes = canvas(0.8 + rows * (0.45 + max(panel, 0.8)), rows, wide)
    layout = figure.get_layout_engine()
    figure.set_layout_engine("none")  # each heatmap of seaborn would lay the whole figure out
    for i, (ax, (name, frame)) in enumerate(zip(axes.flat, tables, strict=False)):
        figures.accuracy_heatmap(ax, frame, lowest=lowest, highest=highest)
        ax.set_title(name)
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
    percent_ticks(bar.ax.yaxis, most=4)
    return Picture(
        "heatmap",
        f"{_axis_word(down)} × {_axis_word(across)}".capitalize(),
        f"Heatmaps of mean test accuracy over {_axis_word(down)} and {_axis_word(across)}, "
        f"from {lowest:.1f} to {highest:.1f} percent.",
        "Mean test accuracy in percent; one colour scale for all panels.",
        figure,
    )


def _learning(results: Results, outcomes: Outcomes) -> Picture | None:
    shared = [c for c in (outcomes.axis, *outcomes.cell_axes) if c not in results.epochs.columns]
    epochs = results.epochs.merge(results.runs[["key", *shared]], on="key") if shared else results.epochs
    if epochs.empty:
        return None
    names, colours = _names(outcomes), _colours(outcomes)
    rows, columns = _panels(outcomes)
    figure, axes = canvas(
        0.75 + rows * (1.75 if len(outcomes.cells) > 1 else 2.8),
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
        figures.learning_curves(ax, epochs[here], outcomes.axis, by_name, colours)
        ax.set_title(outcomes.cell_name(cell), loc="left")
    figure.supxlabel("epoch", fontsize=11)
    figure.supylabel("validation accuracy", fontsize=11)
    if len(names) > 1:
        handles = [Line2D([], [], color=colours[name], lw=2.5, label=name) for name in names]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(names), 5), handlelength=1.4)
    return Picture(
        "learning_curves",
        "Learning curves",
        f"Validation accuracy after every epoch for {listed(names)}, one panel a setting.",
        "Line: mean over seeds; band: from the lowest to the highest seed. Validation images are held out of the "
        "training part and differ from the test set.",
        figure,
    )


def _cost(results: Results, outcomes: Outcomes) -> Picture | None:
    column = "flops" if results.runs["flops"].notna().all() else "train_seconds"
    cost_of = dict(zip(results.runs["key"], results.runs[column], strict=True))
    last = list(dict.fromkeys(cell[-1:] for cell in outcomes.cells))
    rest = list(dict.fromkeys(cell[:-1] for cell in outcomes.cells))
    sizes = np.linspace(30, 100, len(rest)) if len(rest) > 1 else np.array([60.0])
    names, colours = _names(outcomes), _colours(outcomes)
    points = []
    for arm, name in enumerate(names):
        for cell, levels in enumerate(outcomes.cells):
            values = outcomes.accuracy[arm, cell]
            known = np.isfinite(values)
            if known.any():
                points.append(
                    {
                        "arm": name,
                        "cost": float(np.mean([cost_of[str(key)] for key in outcomes.keys[arm, cell][known]])),
                        "mean": values[known].mean(),
                        "low": values[known].min(),
                        "high": values[known].max(),
                        "marker": MARKERS[last.index(levels[-1:]) % len(MARKERS)],
                        "size": sizes[rest.index(levels[:-1])],
                    }
                )
    frame = pd.DataFrame(points)
    if frame.empty or not (frame["cost"] > 0).all():
        return None
    frame, side_by_side = _side_by_side(frame)
    figure, axes = canvas(3.6)
    ax = axes[0, 0]
    figures.accuracy_against_cost(ax, frame, colours)
    _cost_axis(ax, frame["cost"], "FLOPs" if column == "flops" else "seconds")
    ax.set_ylabel("test accuracy")
    groups = [[Line2D([], [], marker="o", ls="", ms=8, color=colours[name], label=name) for name in names]]
    if len(last) > 1:
        axis = outcomes.cell_axes[-1]
        groups.append([_mark(name_level(axis, x[0]), MARKERS[i % len(MARKERS)]) for i, x in enumerate(last)])
    if len(rest) > 1:
        texts = [", ".join(map(name_level, outcomes.cell_axes[:-1], levels)) for levels in rest]
        groups.append([_mark(text, "o", size**0.5) for text, size in zip(texts, sizes, strict=True)])
    blank = Line2D([], [], ls="", label=" ")
    handles = [handle for group in groups for handle in (*group, blank)][:-1]
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside right center", handletextpad=0.3, labelspacing=0.45)
    unit = "floating-point operations" if column == "flops" else "seconds"
    return Picture(
        "cost",
        "Accuracy against training cost",
        f"Scatter plot of mean test accuracy against training cost in {unit} for {listed(names)}.",
        f"Marker: mean over seeds; line: from the lowest to the highest seed. Cost: {unit} of one training run, "
        "on a log scale" + ("; markers of one cost are set side by side." if side_by_side else "."),
        figure,
    )


def _side_by_side(points: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Markers of one cell with costs within 5 % of each other, moved apart so that none hides another."""
    cost = points.groupby(["marker", "size"])["cost"]
    arms = points["arm"].nunique()
    alike = bool((cost.transform("max") < 1.05 * cost.transform("min")).all()) and arms > 1
    if not alike:
        return points, False
    centres = np.log(np.unique(cost.transform("mean")))
    step = 0.032 * (centres[-1] - centres[0] + 0.6)
    if centres.size > 1:
        step = min(step, float(np.diff(centres).min()) / (arms + 1))
    place = points["arm"].map({name: i for i, name in enumerate(points["arm"].unique())}) - (arms - 1) / 2
    return points.assign(cost=cost.transform("mean") * np.exp(step * place)), True


def _cost_axis(ax: Axes, cost: pd.Series[float], unit: str) -> None:
    low, high = float(cost.min()), float(cost.max())
    ax.set_xlim(low / 1.35, high * 1.35)
    steps = [m * 10.0**e for e in range(-3, 24) for m in (1, 2, 5)]
    ticks = [step for step in steps if low / 1.35 <= step <= high * 1.35]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if f"{tick:.0e}"[0] == "1"]
    scale, prefix = 1.0, ""
    if unit == "FLOPs":
        scale, prefix = next(
            (s, p) for s, p in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1.0, "")) if high >= 2 * s or s == 1
        )
    ax.set_xticks(ticks, [f"{tick / scale:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    name = {"T": "tera", "G": "giga", "P": "peta", "E": "exa", "": ""}[prefix]
    ax.set_xlabel(f"training cost of one run ({name}{unit if not name else 'FLOPs'}, log scale)")


def _mark(label: str, marker: str, size: float = 8) -> Line2D:
    return Line2D([], [], marker=marker, ls="", ms=size, color="white", mec=INK, mew=1.2, label=label)


def _mean(accuracy: FloatArray) -> FloatArray:
    known = np.isfinite(accuracy)
    count = known.sum(axis=-1)
    total = np.where(known, accuracy, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _run_range(outcomes: Outcomes) -> str:
    n = np.isfinite(outcomes.accuracy).sum(axis=-1)
    return f"{n.max()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
