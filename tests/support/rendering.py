"""Figures of reports are files of one pixel in tests, unless they ask for more: rendering takes half of the time."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from ablations.reporting.figures.figure import ReportFigure

_RENDER = ReportFigure.save


def save_one_pixel(figure: ReportFigure, folder: Path) -> None:
    """Write NAME.png and NAME.svg, whose contents depend on the name alone."""
    red, green, blue, _ = zlib.crc32(figure.name.encode()).to_bytes(4, "big")
    Image.new("RGB", (1, 1), (red, green, blue)).save(folder / f"{figure.name}.png")
    (folder / f"{figure.name}.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>\n', encoding="utf-8")


@contextmanager
def rendered() -> Iterator[None]:
    """Reports written in this context have their figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReportFigure, "save", _RENDER)
        yield
