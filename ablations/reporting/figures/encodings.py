"""Figure of positional encodings: the similarity of patches under each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ablations.config.safe_text import shortened
from ablations.reporting.figures.figure import WIDTH, ReportFigure, canvas
from ablations.reporting.formatting import listed
from ablations.statistics import FloatArray

if TYPE_CHECKING:
    from ablations.storage import Results

_MAP: dict[str, Any] = {"cmap": "mako", "vmax": 1.0, "interpolation": "nearest"}


def cosine_similarity(table: FloatArray) -> FloatArray:
    """Return the cosine similarity of any two rows of (N, D), as (N, N)."""
    unit = table / np.linalg.norm(table, axis=1, keepdims=True).clip(1e-12)
    return np.asarray(unit @ unit.T)


def rope_scores(reach: int, head_width: int, base: float = 100.0) -> FloatArray:
    """Return the score of q = k = ones relative to displacement zero, as (2 reach + 1, 2 reach + 1).

    Row dy + reach, column dx + reach. Each interleaved pair of channels contributes 2 cos(displacement x angle).
    """
    angles = base ** (-4 * np.arange(head_width // 4) / head_width)
    waves = np.cos(np.arange(-reach, reach + 1)[:, None] * angles).sum(axis=1)
    return np.asarray((waves[:, None] + waves[None, :]) / (2 * angles.size))


def similarity_mosaic(ax: Axes, similarity: FloatArray) -> AxesImage:
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
    image = ax.imshow(mosaic, **_MAP, vmin=float(similarity.min()))
    centres = np.arange(grid) * side + (side - gap - 1) / 2
    every = max(1, grid // 4)
    ax.set_xticks(centres[::every], [str(i) for i in range(0, grid, every)])
    ax.set_yticks(centres[::every], [str(i) for i in range(0, grid, every)])
    _frameless(ax)
    ax.set_xlabel("patch column")
    ax.set_ylabel("patch row")
    return image


def displacement_map(ax: Axes, scores: FloatArray) -> AxesImage:
    """Draw scores as a function of displacement, (2 reach + 1, 2 reach + 1), with displacement zero in the middle."""
    reach = scores.shape[0] // 2
    edge = reach + 0.5
    image = ax.imshow(scores, extent=(-edge, edge, edge, -edge), **_MAP, vmin=float(scores.min()))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    _frameless(ax)
    ax.set_xlabel("dx (patches)")
    ax.set_ylabel("dy (patches)")
    return image


def _frameless(ax: Axes) -> None:
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def encodings(results: Results) -> ReportFigure | None:
    """Return the figure, a panel for each encoding that can be drawn; None if positions do not vary."""
    from vit.positions.sinusoidal import sinusoidal_table

    names = list(dict.fromkeys(results.plan.axes.get("position", ())))
    if len(names) < 2:
        return None
    runs = results.runs.sort_values(["patch", "depth", "width", "seed"])
    tables, grid = {}, 0
    for name in names:
        found = _learned(results, runs[runs["position"] == name]) if name not in ("none", "sinusoidal", "rope") else []
        if found:
            tables[name] = found
            grid = max(grid, round(found[0].shape[0] ** 0.5))
    grid = grid or _grid(results, runs) or 8
    width, heads = int(runs["width"].iloc[0]), int(runs["heads"].iloc[0])
    shown: list[tuple[str, str, FloatArray]] = []
    for name in names:
        if name in tables:
            similarity = np.mean([cosine_similarity(table) for table in tables[name]], axis=0)
            shown.append((name, "mosaic", similarity))
        elif name == "sinusoidal" and (runs["position"] == name).any():
            shown.append((name, "mosaic", cosine_similarity(sinusoidal_table(grid, width))))
        elif name == "rope" and (runs["position"] == name).any():
            shown.append((name, "displacement", rope_scores(max(grid - 1, 1), width // heads)))
    if not shown:
        return None
    figure, axes = canvas(3.6, 1, len(shown), width=max(WIDTH, 2.6 * len(shown)))
    for ax, (name, kind, values) in zip(axes[0], shown, strict=True):
        image = (similarity_mosaic if kind == "mosaic" else displacement_map)(ax, values)
        ax.set_title(shortened(name))
        label = "cosine similarity" if kind == "mosaic" else "relative score"
        bar = figure.colorbar(image, ax=ax, location="bottom", aspect=16, pad=0.03, shrink=0.8, label=label)
        bar.locator = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
        bar.formatter = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−"))
        bar.update_ticks()
        bar.outline.set_visible(False)
    words = []
    for name, _, _ in shown:
        if name in tables:
            n = len(tables[name])
            words.append(f"{name}: trained tables of {n} run{'s' * (n > 1)}" + ", averaged" * (n > 1))
        else:
            words.append(f"{name}: from its formula")
    described = "; ".join(words)
    mosaic = any(kind == "mosaic" for _, kind, _ in shown)
    return ReportFigure(
        "encodings",
        "Similarity of patches under each encoding",
        f"Maps of the similarity of patches under the encodings {listed([name for name, _, _ in shown])}.",
        (
            f"Grid of {grid} × {grid} patches. Each tile belongs to one patch, at its position in the "
            "image, and shows the cosine similarity of its encoding with that of every patch. "
            if mosaic
            else ""
        )
        + (
            "Rope: attention score of an all-ones query and an all-ones key that are dx columns and dy rows apart, "
            "relative to the score at zero displacement. "
            if any(kind == "displacement" for _, kind, _ in shown)
            else ""
        )
        + "Each panel has its own colour scale. "
        + f"{described[:1].upper()}{described[1:]}.",
        figure,
        {"encodings_patches_a_side": grid} | {f"encodings_tables_{name}": len(found) for name, found in tables.items()},
    )


def _learned(results: Results, runs: pd.DataFrame) -> list[FloatArray]:
    """Return the tables (N, D) of the runs with the smallest patch and depth that did not diverge."""
    runs = runs[runs["diverged"] == 0]
    if runs.empty:
        return []
    first = runs.iloc[0]
    same = runs[(runs[["patch", "depth", "width", "data"]] == first[["patch", "depth", "width", "data"]]).all(axis=1)]
    tables = []
    for key in same["key"]:
        try:
            table = results.checkpoint(key).get("pos_embed")
        except (OSError, KeyError):
            continue
        if table is not None and round(table.shape[-2] ** 0.5) ** 2 == table.shape[-2]:
            tables.append(np.asarray(table, dtype=float).reshape(table.shape[-2:]))
    return [table for table in tables if table.shape == tables[0].shape]


def _grid(results: Results, runs: pd.DataFrame) -> int:
    """Return the patches per side with the smallest patch, 0 if the size of the images is not known."""
    from ablations.data import DATASETS

    info = DATASETS.get(str(runs["data"].iloc[0]))
    size = info.image_size if info else None
    return size // int(runs["patch"].min()) if size else 0
