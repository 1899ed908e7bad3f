"""A figure that is laid out by hand, in inches from its upper left corner."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ablations.config.safe_text import LONGEST, shortened
from ablations.reporting.figures.palette import INK

CHARACTERS = 12
"""Characters of a title in an inch."""


class Page:
    """A figure of this width and height in inches; it draws with Agg, without pyplot."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return new axes with their upper left corner there."""
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def picture(self, left: float, top: float, side: float, pixels: np.ndarray) -> Axes:
        """Draw a square picture (h, w, 1 or 3), uint8 or from 0 to 1, without frame and ticks; return its axes."""
        ax = self.axes(left, top, side, side)
        shown = pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels
        ax.imshow(shown, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
        return ax

    def title(self, *lines: str) -> None:
        """Write lines at the top, each wrapped to two at most."""
        fits = int(CHARACTERS * (self.width - 0.3))
        wrapped = [part for line in lines for part in wrap(shortened(line, 2 * fits - LONGEST), fits)]
        self.text(self.width / 2, 0.15, "\n".join(wrapped))

    def text(self, x: float, top: float, text: str, **options: Any) -> None:
        """Write lines, centred at `x`, with their upper edge at `top`."""
        options = {"color": INK, "fontsize": 11, "ha": "center", **options}
        self.figure.text(x / self.width, 1 - top / self.height, text, va="top", **options)
