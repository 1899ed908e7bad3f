"""Figure of the attention of a trained model in one picture: by block and head, and attention rollout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablations.models.attention import rollout, to_patches
from ablations.reporting.figures.page import Page
from ablations.reporting.figures.palette import FAINT, POSITION_MARKS, style
from ablations.statistics import FloatArray
from vit import ViTConfig

SIDE, GAP, MARGIN = 1.3, 0.12, 0.25
"""Side of a panel, space between two maps, and space at the edges of the page, in inches."""
BESIDE = 0.45
"""Space between the picture, the maps and the rollout."""
TOP = 0.95
"""Space for the title and the names of the columns."""
BELOW = 0.75
"""Space below the maps for the bar of their colours."""
BELOW_ROLLOUT = 1.5
COLOURS = sns.blend_palette(["white", POSITION_MARKS["rope"].colour], as_cmap=True)
DARKEST = 0.68
"""Brightness of a map where the picture is black; 1 where it is white."""


def attention_figure(
    picture: np.ndarray, attention: FloatArray, config: ViTConfig, *, run: str, prediction: str
) -> Figure:
    """Draw a uint8 picture (h, w, c), maps of its attention (depth, heads, T, T), and the rollout.

    A row for each block, a column for each head. `run` is a line of the title, `prediction` lines below the picture.
    """
    depth, heads = attention.shape[:2]
    maps, flow = to_patches(attention, config), to_patches(rollout(attention), config)
    right = _column(heads - 1) + SIDE + BESIDE
    with style():
        page = Page(right + SIDE + MARGIN, max(_row(depth) + BELOW, _row(1) + BELOW_ROLLOUT))
        whose = (
            "of the class token to the patches" if config.pool == "cls" else "to the patches, mean over query patches"
        )
        page.title(f"Attention {whose}", run)
        page.picture(MARGIN, TOP, SIDE, picture).set_title("picture")
        page.text(MARGIN + SIDE / 2, _row(1), prediction)
        shared = _scale(0.0, float(maps.max()))
        for block in range(depth):
            for head in range(heads):
                coloured = _coloured(picture, maps[block, head], shared)
                ax = page.picture(_column(head), _row(block), SIDE, coloured)
                if block == 0:
                    ax.set_title(f"head {head + 1}")
                if head == 0:
                    ax.set_ylabel(f"block {block + 1}", labelpad=3)
        _bar(page, _column(0), _row(depth), _column(heads - 1) + SIDE, shared, "share of the attention")
        own = _scale(float(flow.min()), float(flow.max()))
        page.picture(right, TOP, SIDE, _coloured(picture, flow, own)).set_title("rollout")
        _bar(page, right, _row(1), right + SIDE, own, "share")
        page.text(right + SIDE / 2, _row(1) + 0.68, f"{_product(depth)}\nÂ = ½ A + ½ I\nA: mean over heads")
    return page.figure


def _column(head: int) -> float:
    return MARGIN + SIDE + BESIDE + head * (SIDE + GAP)


def _row(block: int) -> float:
    return TOP + block * (SIDE + GAP)


def _scale(lowest: float, highest: float) -> ScalarMappable:
    return ScalarMappable(Normalize(lowest, highest), COLOURS)


def _coloured(picture: np.ndarray, values: FloatArray, scale: ScalarMappable) -> FloatArray:
    """Return values (grid, grid) as colours (h, w, 3), shaded by the picture."""
    patch = picture.shape[0] // values.shape[0]
    colours = scale.to_rgba(values)[..., :3].repeat(patch, axis=0).repeat(patch, axis=1)
    brightness = picture.mean(axis=-1, keepdims=True) / 255
    return np.asarray(colours * (DARKEST + (1 - DARKEST) * brightness))


def _bar(page: Page, left: float, top: float, right: float, scale: ScalarMappable, label: str) -> None:
    """Draw the bar of the colours."""
    bar = page.figure.colorbar(scale, cax=page.axes(left, top, right - left, 0.1), orientation="horizontal")
    if right - left < 2:
        ends = list(map(float, bar.ax.get_xlim()))
        bar.set_ticks(ends, labels=_different(ends))
    else:
        bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
        bar.update_ticks()
    bar.ax.tick_params(labelsize=9)
    bar.set_label(label, labelpad=2)
    bar.outline.set(edgecolor=FAINT, linewidth=0.8)


def _different(values: Sequence[float]) -> list[str]:
    """Return different values as texts with the fewest digits that show a difference, at least three."""
    texts = [[f"{value:.{digits}g}" for value in values] for digits in range(3, 8)]
    return next((shown for shown in texts if len(set(shown)) == len(values)), texts[-1])


def _product(depth: int) -> str:
    """Return the product of the matrices of all blocks, the last first."""
    factors = [f"Â{str(block).translate(_SUBSCRIPTS)}" for block in range(depth, 0, -1)]
    return " ".join(factors if depth <= 6 else [*factors[:2], "…", factors[-1]])


_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
