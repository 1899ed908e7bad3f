"""Panels of the figures: functions that draw data on matplotlib axes and return them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from ablations.config.safe_text import shortened
from ablations.reporting.figures.palette import FAINT, INK, Mark, percent_ticks, value_ticks
from ablations.reporting.formatting import number, points_text
from ablations.statistics import ACCURACY, Contrast, FloatArray, Measure, Ranks

MOST_BANDS = 6
"""Most arms whose learning curves have bands."""


def mark_diverged(ax: Axes, x: ArrayLike, y: ArrayLike, colour: str, alpha: float = 1.0) -> None:
    """Draw runs that diverged as crosses in the colour of their arm."""
    ax.scatter(x, y, color=colour, alpha=alpha, marker="x", s=34, lw=1.6, zorder=3)


def values_by_arm(
    ax: Axes,
    values: FloatArray,
    diverged: NDArray[np.bool_],
    names: Sequence[str],
    marks: Mapping[str, Mark],
    *,
    measure: Measure = ACCURACY,
    means: bool = True,
) -> Axes:
    """Draw every run of one cell as a dot, or as a cross if it diverged, and the mean of each arm as a bar.

    `values`: (A, S), may be NaN; `diverged`: (A, S).
    """
    seeds = values.shape[1]
    offsets = np.linspace(-0.2, 0.2, seeds) if seeds > 1 else np.zeros(1)
    for row, (name, own) in enumerate(zip(names, values, strict=True)):
        colour, marker, size = marks[name].colour, marks[name].marker, 26 * marks[name].scale ** 2
        ax.axhline(row, color="#EEEEEE", lw=0.8, zorder=0)
        whole = np.where(diverged[row], np.nan, own)
        ax.scatter(whole, row + offsets, s=size, marker=marker, color=colour, edgecolor="white", lw=0.6, zorder=3)
        mark_diverged(ax, np.where(diverged[row], own, np.nan), row + offsets, colour)
        known = own[np.isfinite(own)]
        if known.size:
            mean = known.mean()
            ax.plot([mean, mean], [row - 0.36, row + 0.36], color=colour, lw=2.2, solid_capstyle="butt", zorder=2)
            text = number(mean, measure.decimals)
        else:
            text = "no run"
        if means:
            ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", ha="left", fontsize=10)
    ax.set_yticks(range(len(names)), list(map(shortened, names)))
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    value_ticks(ax.xaxis, measure, most=3)
    return ax


def contrast_forest(
    ax: Axes,
    contrasts: Sequence[Contrast],
    differences: Sequence[FloatArray],
    diverged: Sequence[NDArray[np.bool_]],
    marks: Mapping[str, Mark],
) -> Axes:
    """Draw paired differences: every block as a faint dot, mean and interval in full colour, zero as a line.

    `differences[i]` has the blocks of `contrasts[i]`, any shape, NaN allowed; a block is drawn as
    a cross where `diverged[i]`.
    """
    ax.axvline(0, color=INK, lw=1, zorder=1)
    for row, (contrast, blocks, crossed) in enumerate(zip(contrasts, differences, diverged, strict=True)):
        mark = marks[contrast.subject]
        colour, size = mark.colour, 8 * mark.scale
        known = np.flatnonzero(np.isfinite(blocks))
        known = known[np.argsort(blocks.ravel()[known])]
        values, crosses = blocks.ravel()[known], crossed.ravel()[known]
        spread = np.zeros(values.size)
        spread[1::2], spread[2::2] = 0.09, -0.09
        heights = row + 0.22 + spread
        ax.scatter(values[~crosses], heights[~crosses], s=18, color=colour, alpha=0.45, lw=0, zorder=2)
        mark_diverged(ax, values[crosses], heights[crosses], colour, alpha=0.7)
        if np.isfinite(contrast.low):
            ax.plot(
                [contrast.low, contrast.high], [row - 0.12] * 2, color=colour, lw=3, solid_capstyle="round", zorder=3
            )
        ax.plot(contrast.mean, row - 0.12, mark.marker, ms=size, color=colour, mec="white", mew=1, zorder=4)
        ax.text(
            1.02,
            row - 0.02,
            points_text(contrast.mean, contrast.measure.decimals),
            transform=ax.get_yaxis_transform(),
            va="center",
            ha="left",
        )
    ax.set_yticks(range(len(contrasts)), [shortened(c.subject) for c in contrasts])
    ax.set_ylim(len(contrasts) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
    ax.grid(axis="x")
    return ax


def critical_difference(ax: Axes, ranks: Ranks, marks: Mapping[str, Mark]) -> Axes:
    """Draw mean ranks, the best arm on top; a grey bar joins arms that do not differ significantly."""
    order = sorted(range(len(ranks.arms)), key=lambda i: ranks.mean_ranks[i])
    for row, arm in enumerate(order):
        name, rank = ranks.arms[arm], ranks.mean_ranks[arm]
        mark = marks[name]
        ax.plot([1, rank], [row, row], color=FAINT, lw=1, zorder=1)
        ax.plot(rank, row, mark.marker, ms=9 * mark.scale, color=mark.colour, mec="white", mew=1, zorder=3)
        ax.text(1.02, row, f"{rank:.2f}", transform=ax.get_yaxis_transform(), va="center", ha="left", fontsize=10)
    names = [ranks.arms[arm] for arm in order]
    for place, group in enumerate(ranks.groups):
        rows = [names.index(name) for name in group]
        x = len(names) + 0.12 + 0.14 * place
        ax.plot([x, x], [min(rows) - 0.25, max(rows) + 0.25], color="#777777", lw=4, solid_capstyle="round")
    ax.set_yticks(range(len(names)), list(map(shortened, names)))
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.set_xlim(0.9, len(names) + 0.2 + 0.14 * max(1, len(ranks.groups)))
    ax.set_xticks(range(1, len(names) + 1))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def means_heatmap(
    ax: Axes, means: pd.DataFrame, *, lowest: float, highest: float, decimals: int = 1, colour_map: str = "crest"
) -> Axes:
    """Draw means as coloured cells; a cell without a run is grey."""
    labels = means.map(lambda value: number(value, decimals) if np.isfinite(value) else "")
    sns.heatmap(
        means,
        ax=ax,
        annot=labels,
        fmt="",
        mask=means.isna(),
        vmin=lowest,
        vmax=highest,
        cmap=colour_map,
        cbar=False,
        linewidths=1.5,
        linecolor="white",
        annot_kws={"fontsize": 10},
    )
    ax.set_facecolor(FAINT)
    ax.tick_params(length=0, labelrotation=0)
    ax.set(xlabel="", ylabel="")
    return ax


def learning_curves(
    ax: Axes, epochs: pd.DataFrame, axis: str, names: Mapping[str, str], marks: Mapping[str, Mark], x: str = "epoch"
) -> Axes:
    """Draw validation accuracy after each epoch: mean over the runs of an arm, band from the lowest to the highest.

    `x` is the column of the horizontal axis: epoch, or the share of the training.

    More arms than `MOST_BANDS` have no bands, which would hide each other.

    `epochs` has the columns `axis`, `x`, key, validation_accuracy (0..1) and diverged (0 if the run did not); `names`
    turns levels into arm names. A cross marks the last epoch of a run that diverged.
    """
    last = epochs[epochs["diverged"] > 0].groupby("key").tail(1)
    curves = (
        epochs.assign(percent=100 * epochs["validation_accuracy"])
        .groupby([axis, x], sort=True)["percent"]
        .agg(["mean", "min", "max"])
    )
    present = set(curves.index.get_level_values(0))
    for i, (level, name) in enumerate(names.items()):
        if level in present:
            curve, mark = curves.xs(level), marks[name]
            every = max(1, len(curve) // 6)
            some = slice(i * every // len(names), None, every)  # at different epochs for each arm
            if len(names) <= MOST_BANDS:
                ax.fill_between(curve.index, curve["min"], curve["max"], color=mark.colour, alpha=0.22, lw=0)
            ax.plot(curve.index, curve["mean"], color=mark.colour, lw=1.8, label=name)
            ended = last[last[axis] == level]
            mark_diverged(ax, ended[x], 100 * ended["validation_accuracy"], mark.colour)
            places, mean = curve.index[some], curve["mean"].iloc[some]
            ax.plot(places, mean, mark.marker, color=mark.colour, ms=5 * mark.scale, mec="white", mew=0.6)
    percent_ticks(ax.yaxis)
    if x == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.margins(x=0.02)
    ax.grid(axis="y")
    return ax


def values_against_cost(ax: Axes, points: pd.DataFrame, marks: Mapping[str, Mark], measure: Measure = ACCURACY) -> Axes:
    """Draw the values of arms by setting, a mark for each with a line from its lowest to its highest run.

    `points` has the columns arm, x, mean, low and high.
    """
    for point in points.to_dict("records"):
        mark = marks[point["arm"]]
        ax.plot([point["x"]] * 2, [point["low"], point["high"]], color=mark.colour, lw=1.4, alpha=0.7, zorder=2)
        ax.plot(
            point["x"], point["mean"], mark.marker, ms=7 * mark.scale, color=mark.colour, mec="white", mew=0.8, zorder=3
        )
    value_ticks(ax.yaxis, measure)
    ax.grid(axis="y")
    return ax
