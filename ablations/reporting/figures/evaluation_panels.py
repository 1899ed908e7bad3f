"""Panels of the figures of evaluations: functions that draw data on matplotlib axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ablations.config.safe_text import shortened
from ablations.reporting.figures.palette import INK, Mark
from ablations.statistics import FloatArray, Mean

Point = tuple[float, float, float]
"""A mean with the ends of its interval, NaN if there is none."""


def means_by_metric(ax: Axes, rows: Sequence[Sequence[Mean]], labels: Sequence[str], marks: Mapping[str, Mark]) -> Axes:
    """Draw the means of the arms with their intervals, a row for each metric, the first on top."""
    arms = len(marks)
    offsets = np.linspace(-0.3, 0.3, arms) if arms > 1 else np.zeros(1)
    for row, means in enumerate(rows):
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color="#F6F6F6", lw=0, zorder=0)
        for mean, mark, offset in zip(means, marks.values(), offsets, strict=True):
            y = row + offset
            if np.isfinite(mean.low):
                ax.plot([mean.low, mean.high], [y, y], color=mark.colour, lw=2, solid_capstyle="round", zorder=2)
            if np.isfinite(mean.mean):
                ax.plot(mean.mean, y, mark.marker, ms=7 * mark.scale, color=mark.colour, mec="white", mew=0.8, zorder=3)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    return ax


def curve(ax: Axes, x: Sequence[float], points: Sequence[Point], mark: Mark, *, band: bool, name: str) -> Axes:
    """Draw a line through means, with a band of their intervals; points without a mean are left out."""
    known = [(at, point) for at, point in zip(x, points, strict=True) if np.isfinite(point[0])]
    places = [at for at, _ in known]
    means, lows, highs = (np.array([point[i] for _, point in known]) for i in range(3))
    if band and np.isfinite(lows).any():
        ax.fill_between(places, lows, highs, color=mark.colour, alpha=0.15, lw=0)
    ax.plot(places, means, color=mark.colour, lw=1.8, label=name, zorder=2)
    ax.plot(places, means, mark.marker, ms=5.5 * mark.scale, color=mark.colour, mec="white", mew=0.6, zorder=3)
    return ax


def reliability(ax: Axes, confidence: FloatArray, accuracy: FloatArray, mark: Mark) -> Axes:
    """Draw the accuracy of bins against their confidence, both in percent, with the line of equality."""
    start = min(float(confidence.min()), float(accuracy.min()))
    ax.plot([0, 100], [0, 100], color=INK, lw=0.9, ls=":", zorder=1)
    ax.plot(confidence, accuracy, color=mark.colour, lw=1.4, alpha=0.6, zorder=2)
    ax.plot(confidence, accuracy, mark.marker, ms=5 * mark.scale, color=mark.colour, mec="white", mew=0.6, zorder=3)
    low = min(start - 4, *ax.get_xlim()) if ax.has_data() and ax.get_xlim()[0] > 0 else start - 4
    ax.set_xlim(max(low, -2), 102)
    ax.set_ylim(max(low, -2), 102)
    return ax


def confusion_rates(matrices: Sequence[NDArray[np.integer]]) -> FloatArray | None:
    """Return the percentage of each class (rows) that is predicted as each other class, 0 on the diagonal."""
    if not matrices or len({matrix.shape for matrix in matrices}) != 1:
        return None
    total = np.sum(matrices, axis=0).astype(float)
    rates: FloatArray = 100 * total / np.maximum(total.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(rates, 0)
    return rates


def confusion(
    figure: Figure, ax: Axes, rates: FloatArray, classes: Sequence[str], label: str, *, signed: bool = False
) -> Axes:
    """Draw a confusion matrix without its diagonal, with the names of up to 20 classes.

    `signed` has blue for negative and red for positive values.
    """
    shown = np.where(np.eye(len(rates), dtype=bool), np.nan, rates)
    most = max(float(np.nanmax(np.abs(shown))), 1e-9) if len(rates) > 1 else 1.0
    image = ax.imshow(shown, cmap="RdBu_r" if signed else "Blues", vmin=-most if signed else 0, vmax=most)
    bar = figure.colorbar(image, ax=ax, shrink=0.75, pad=0.03, label=label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    ax.set_facecolor("#EEEEEE")
    if len(rates) <= 20:
        names = [shortened(name.replace("_", " "), 14) for name in classes]
        turned = 90 if max(map(len, names)) > 2 else 0
        ax.set_xticks(range(len(rates)), names, rotation=turned)
        ax.set_yticks(range(len(rates)), names)
        ax.tick_params(labelsize=8 if len(rates) > 12 else 10)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def heads(ax: Axes, by_arm: Sequence[Sequence[FloatArray]], marks: Sequence[Mark]) -> Axes:
    """Draw a marker for each head of each run over its block, the arms beside each other.

    `by_arm` has arrays (depth, heads), one for each run of the arm.
    """
    depth = max((len(values) for runs in by_arm for values in runs), default=0)
    for block in range(1, depth, 2):
        ax.axvspan(block + 0.5, block + 1.5, color="#F6F6F6", lw=0, zorder=0)
    places = (np.arange(len(by_arm)) + 0.5) / len(by_arm) - 0.5
    for runs, mark, place in zip(by_arm, marks, places, strict=True):
        if not runs:
            continue
        x = [np.repeat(np.arange(1, len(values) + 1) + 0.85 * place, values.shape[1]) for values in runs]
        y = [values.ravel() for values in runs]
        style: dict[str, Any] = {
            "marker": mark.marker,
            "color": mark.colour,
            "alpha": 0.7,
            "edgecolor": "white",
            "lw": 0.4,
        }
        ax.scatter(np.concatenate(x), np.concatenate(y), s=16 * mark.scale**2, zorder=2, **style)
    ax.set_xticks(range(1, depth + 1))
    ax.set_xlim(0.5, max(depth, 1) + 0.5)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y")
    return ax
