"""Panels of the figures of positional encodings: functions that draw one map each, and the bar of its colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ablations.reporting.figures.palette import FAINT, shades
from ablations.statistics import FloatArray

_MAP: dict[str, Any] = {"cmap": "mako", "interpolation": "nearest"}
_SIGNED: dict[str, Any] = {"cmap": "vlag", "interpolation": "nearest"}


def cosine_similarity(table: FloatArray) -> FloatArray:
    """Return the cosine similarity of any two rows of (N, D), as (N, N)."""
    unit = table / np.linalg.norm(table, axis=1, keepdims=True).clip(1e-12)
    return np.asarray(unit @ unit.T)


def similarity_mosaic(ax: Axes, similarity: FloatArray) -> ScalarMappable:
    """Draw a tile per patch, at its place in the image, with the similarity of every patch. `similarity` is (N, N)."""
    grid = round(similarity.shape[0] ** 0.5)
    zoom = max(1, 96 // grid**2)
    gap = max(1, round(0.1 * grid * zoom))
    side = grid * zoom + gap
    mosaic = np.full((grid * side - gap, grid * side - gap), np.nan)
    for patch, tile in enumerate(similarity.reshape(-1, grid, grid)):
        row, column = divmod(patch, grid)
        big = np.kron(tile, np.ones((zoom, zoom)))
        mosaic[row * side : row * side + grid * zoom, column * side : column * side + grid * zoom] = big
    image = ax.imshow(mosaic, **_MAP, vmin=float(similarity.min()), vmax=1.0)
    centres = np.arange(grid) * side + (side - gap - 1) / 2
    every = max(1, grid // 4)
    ax.set_xticks(centres[::every], [str(i) for i in range(0, grid, every)])
    ax.set_yticks(centres[::every], [str(i) for i in range(0, grid, every)])
    _frameless(ax)
    ax.set_xlabel("patch column")
    ax.set_ylabel("patch row")
    return image


def displacement_map(ax: Axes, values: FloatArray, *, largest: float | None = None) -> ScalarMappable:
    """Draw values over displacement, (2 reach + 1, 2 reach + 1), with displacement zero in the middle.

    With `largest`, colours are symmetric about 0, from -largest to largest.
    """
    reach = values.shape[0] // 2
    edge = reach + 0.5
    if largest is None:
        colours = {**_MAP, "vmin": float(values.min()), "vmax": float(values.max())}
    else:
        colours = {**_SIGNED, "vmin": -largest, "vmax": largest}
    image = ax.imshow(values, extent=(-edge, edge, edge, -edge), **colours)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_major_formatter(_NUMBER)
    _frameless(ax)
    ax.set_xlabel("dx (patches)")
    ax.set_ylabel("dy (patches)")
    return image


def frequency_plane(ax: Axes, start: FloatArray, trained: FloatArray) -> ScalarMappable:
    """Draw 2-D frequencies (2, blocks, any shape), as circles before training and arrows to the trained values.

    Each block has its colour.
    """
    blocks = start.shape[1]
    start, trained = (each.reshape(2, blocks, -1) for each in (start, trained))
    colours = shades(blocks)
    reach = 1.08 * float(max(np.abs(start).max(), np.abs(trained).max()))
    ax.axhline(0, color=FAINT, lw=0.8, zorder=0)
    ax.axvline(0, color=FAINT, lw=0.8, zorder=0)
    for block, colour in enumerate(colours):
        before, after = start[:, block], trained[:, block]
        ax.scatter(before[0], before[1], s=7, facecolor="white", edgecolor=colour, lw=0.7, zorder=2)
        arrows: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.009, "headwidth": 4.5}
        ax.quiver(*before, *(after - before), color=colour, minlength=0, zorder=3, **arrows)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(reach, -reach)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(_NUMBER)
    _frameless(ax)
    ax.set_xlabel("fx (rad per patch)")
    ax.set_ylabel("fy")
    return ScalarMappable(BoundaryNorm(np.arange(blocks + 1) + 0.5, blocks), ListedColormap(colours))


def colour_bar(figure: Figure, ax: Axes, image: ScalarMappable, label: str, shrink: float) -> Colorbar:
    """Draw the bar of the colours below a panel."""
    bar = figure.colorbar(image, ax=ax, location="bottom", aspect=16, pad=0.03, shrink=shrink, label=label)
    integer = isinstance(image.norm, BoundaryNorm)
    bar.locator = MaxNLocator(4, integer=True) if integer else MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
    bar.formatter = _NUMBER
    bar.update_ticks()
    bar.minorticks_off()
    bar.outline.set_visible(False)
    return bar


def _number(value: float, _: object = None) -> str:
    return f"{value:g}".replace("-", "−")


_NUMBER = FuncFormatter(_number)


def _frameless(ax: Axes) -> None:
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
