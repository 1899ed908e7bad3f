"""Figure of test images that a run is wrong about, with the probabilities of the predicted and of the right class."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ablations.config.safe_text import shortened
from ablations.data import Dataset
from ablations.models.gallery import Mistake
from ablations.reporting.figures.page import Page
from ablations.reporting.figures.palette import INK, POSITION_MARKS, style

LEAST_COLUMNS, COLUMNS = 5, 6
SIDE, MARGIN, TOP = 1.05, 0.25, 1.0
"""Side of a picture, space at the edges of the page, and space for the title, in inches."""
CELL = (1.35, 1.55)
"""Width and height of a picture with its lines."""
WRONG = POSITION_MARKS["rope"].colour


def mistakes_figure(mistakes: Sequence[Mistake], dataset: Dataset, *, title: Sequence[str]) -> Figure:
    """Draw the test images of mistakes, each above the predicted class, in colour, and the right class."""
    columns = min(COLUMNS, max(LEAST_COLUMNS, len(mistakes)))
    rows = -(-len(mistakes) // columns)
    with style():
        page = Page(2 * MARGIN + columns * CELL[0], TOP + rows * CELL[1] + MARGIN / 2)
        page.title(*title)
        page.text(page.width / 2, 0.62, "above: predicted class", color=WRONG, ha="right", fontsize=9)
        page.text(page.width / 2, 0.62, "   below: right class", ha="left", fontsize=9)
        for i, mistake in enumerate(mistakes):
            left, top = MARGIN + i % columns * CELL[0], TOP + i // columns * CELL[1]
            page.picture(left + (CELL[0] - SIDE) / 2, top, SIDE, dataset.test_images[mistake.image])
            lines = (
                (mistake.predicted, mistake.predicted_probability, WRONG),
                (mistake.label, mistake.label_probability, INK),
            )
            for line, (label, probability, colour) in enumerate(lines):
                text = f"{shortened(dataset.class_names[label], 15)}: {100 * probability:.1f} %"
                page.text(left + CELL[0] / 2, top + SIDE + 0.05 + 0.15 * line, text, color=colour, fontsize=8)
    return page.figure
