"""A figure of a report with its texts, and the canvas that it is drawn on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ablations.reporting.figures.palette import style

WIDTH = 6.6
"""Width of a figure in inches; saved with 200 dots per inch."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure with its file name, heading, alternative text and caption."""

    name: str
    title: str
    alt: str
    caption: str
    figure: Figure
    facts: Mapping[str, object] = field(default_factory=dict)
    """Numbers in the texts that no table contains, by name."""

    def save(self, folder: Path) -> None:
        """Write NAME.png and NAME.svg; the same figure gives the same bytes."""
        with style():
            self.figure.savefig(folder / f"{self.name}.png", dpi=200, metadata={"Software": None})
            self.figure.set_layout_engine("none")
            self.figure.savefig(folder / f"{self.name}.svg", metadata={"Date": None, "Creator": None})


def canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """Return a figure of this height in inches and its axes, (rows, columns); it draws with Agg, without pyplot."""
    figure = Figure(figsize=(options.pop("width", WIDTH), height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.07, h_pad=0.07)  # type: ignore[union-attr,call-arg]
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes
