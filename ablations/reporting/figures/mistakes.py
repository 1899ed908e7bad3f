"""Figures of test images that runs are wrong about, with the predicted and the right class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ablations.config.safe_text import LONGEST, shortened
from ablations.data import Dataset
from ablations.models.gallery import Mistake
from ablations.reporting.figures.figure import WIDTH, ReportFigure
from ablations.reporting.figures.page import Page
from ablations.reporting.figures.palette import INK, POSITION_MARKS, style
from ablations.reporting.formatting import listed
from ablations.reporting.mistakes import FEW_ARMS, MOST, ArmMistakes, Mistakes, ShownMistake

LEAST_COLUMNS, COLUMNS = 5, 6
SIDE, MARGIN, TOP = 1.05, 0.25, 1.0
"""Side of a picture, space at the edges of the page, and space for the title, in inches."""
CELL = (1.35, 1.55)
"""Width and height of a picture with its lines."""
WRONG = POSITION_MARKS["rope"].colour
MUTED = "#555555"

ARM_CELL, ARM_SIDE = (1.04, 1.25), 0.72
"""Width and height of a picture with its lines, and its side, in the figure of all arms."""
ARM_TITLE, ARM_MARGIN, ARM_TOP = 0.24, 0.18, 0.36
LONGEST_BESIDE = 34
"""Characters of the name of an arm with another one beside it."""
NAME = 15
"""Characters of the name of a class."""


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
                text = f"{shortened(dataset.class_names[label], NAME)}: {100 * probability:.1f} %"
                page.text(left + CELL[0] / 2, top + SIDE + 0.05 + 0.15 * line, text, color=colour, fontsize=8)
    return page.figure


def arms_figure(found: Mistakes) -> ReportFigure:
    """Draw the most confident mistakes of every arm: in a row each, or of many arms two in a row."""
    per_row = 1 if len(found.arms) <= FEW_ARMS else 2
    count = MOST // per_row
    block = ARM_TITLE + ARM_CELL[1]
    with style():
        page = Page(WIDTH, ARM_TOP + -(-len(found.arms) // per_row) * block)
        _draw_key(page)
        for i, arm in enumerate(found.arms):
            left = ARM_MARGIN + i % per_row * count * (ARM_CELL[0] + 0.02)
            longest = LONGEST if per_row == 1 else LONGEST_BESIDE
            _draw_arm(page, left, ARM_TOP + i // per_row * block, arm, found.class_names, longest)
    sure = "; ".join(f"{arm.arm}: {_described(arm, found.class_names)}" for arm in found.arms)
    return ReportFigure(
        "mistakes",
        "Most confident mistakes",
        f"Test images that the runs of {listed([arm.arm for arm in found.arms])} are most confidently wrong about, the "
        f"first of each: {sure}.",
        "Below each test image: the predicted class (coloured), the right class, the probability of the predicted "
        "class in the run that is most confident, and how many of the runs of the arm are wrong about this image.",
        page.figure,
    )


def _draw_key(page: Page) -> None:
    """Say what the lines below a picture are, in their colours."""
    x = page.width - ARM_MARGIN
    for text, colour in (
        ("probability, runs that are wrong", MUTED),
        ("right class", INK),
        ("predicted class", WRONG),
    ):
        page.text(x, 0.1, text, color=colour, fontsize=8, ha="right")
        x -= 0.06 * len(text) + 0.2


def _draw_arm(page: Page, left: float, top: float, arm: ArmMistakes, class_names: Sequence[str], longest: int) -> None:
    page.text(left + 0.02, top, shortened(arm.arm, longest), ha="left", fontsize=10)
    if not arm.shown:
        page.text(left + 0.02, top + ARM_TITLE, "no mistake", ha="left", fontsize=8, color=MUTED)
    for i, one in enumerate(arm.shown):
        lines = (
            (shortened(class_names[one.mistake.predicted], NAME), WRONG),
            (shortened(class_names[one.mistake.label], NAME), INK),
            (f"{_percent(one)}, {one.wrong} of {arm.runs}", MUTED),
        )
        x = left + i * ARM_CELL[0]
        page.picture(x + (ARM_CELL[0] - ARM_SIDE) / 2, top + ARM_TITLE, ARM_SIDE, np.asarray(one.pixels))
        for line, (text, colour) in enumerate(lines):
            height = top + ARM_TITLE + ARM_SIDE + 0.03 + 0.13 * line
            page.text(x + ARM_CELL[0] / 2, height, text, color=colour, fontsize=7)


def _described(arm: ArmMistakes, class_names: Sequence[str]) -> str:
    """Return the first mistake of an arm in words."""
    if not arm.shown:
        return "none"
    first = arm.shown[0]
    predicted, label = (class_names[each] for each in (first.mistake.predicted, first.mistake.label))
    return f"{label} taken for {predicted} ({_percent(first)})"


def _percent(one: ShownMistake) -> str:
    return f"{100 * one.mistake.predicted_probability:.1f} %"
