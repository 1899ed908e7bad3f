"""A sheet of sample images of each class, to check that labels and images match."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ablations.config.safe_text import shortened
from ablations.data.dataset import Dataset
from ablations.errors import UsageError
from vit.random import stream

LEAST_PIXELS = 56
GAP, MARGIN, TITLE_HEIGHT = 4, 28, 64
PAPER, INK, PALE = "#ffffff", "#1f2430", "#7a8194"
TEXT_SIZE, TITLE_SIZE = 15, 24


def contact_sheet(dataset: Dataset, *, name: str = "", samples: int | None = None, seed: int = 0) -> Image.Image:
    """Draw random training images, one row per class after its name, in columns if there are many classes.

    Images are enlarged by a whole factor, so that every pixel of the data is a square on the page.

    Args:
        name: In the title, instead of that of the dataset.
        samples: Images a class; None: 12 for few classes, fewer for many. A class that has fewer shows all.
        seed: Chooses the images, from ``stream(seed, "contact-sheet")``.

    Raises:
        UsageError: if ``samples`` is below 1.
    """
    columns = 1 if dataset.classes <= 12 else 2 if dataset.classes <= 40 else 4
    samples = {1: 12, 2: 8, 4: 5}[columns] if samples is None else samples
    if samples < 1:
        raise UsageError(f"samples must be 1 or more images per class, got {samples}")
    chosen = _choose(dataset, samples, seed)
    font, title_font = _font(TEXT_SIZE), _font(TITLE_SIZE)
    names = [shortened(name.replace("_", " ")) for name in dataset.class_names]
    name_width = int(max(font.getlength(name) for name in names)) + 12
    factor = -(-LEAST_PIXELS // dataset.image_size)
    cell = factor * dataset.image_size + GAP
    rows = -(-dataset.classes // columns)
    column_width = name_width + samples * cell
    width = 2 * MARGIN + columns * column_width + (columns - 1) * MARGIN
    validation = f", {dataset.validation_images:,} validation" if dataset.validation_images else ""
    title = f"{shortened(name or dataset.name)}: {dataset.train_part:,} training{validation} and "
    title += f"{len(dataset.test_labels):,} test images"
    detail = f"{dataset.classes} classes, {dataset.image_size} x {dataset.image_size} pixels, "
    detail += f"data {dataset.fingerprint[:12]}"
    width = max(width, 2 * MARGIN + int(max(title_font.getlength(title), font.getlength(detail))) + 1)
    sheet = Image.new("RGB", (width, 2 * MARGIN + TITLE_HEIGHT + rows * cell), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=title_font)
    draw.text((MARGIN, MARGIN + TITLE_SIZE + 8), detail, fill=PALE, font=font)
    for label, name in enumerate(names):
        left = MARGIN + (label // rows) * (column_width + MARGIN)
        top = MARGIN + TITLE_HEIGHT + (label % rows) * cell
        place = (left + name_width - 10, top + (cell - GAP) // 2)
        draw.text(place, name, fill=INK, font=font, anchor="rm")
        for position, index in enumerate(chosen[label]):
            picture = _picture(dataset.train_images[index], factor)
            sheet.paste(picture, (left + name_width + position * cell, top))
    return sheet


def save_contact_sheet(
    dataset: Dataset, path: Path, *, name: str = "", samples: int | None = None, seed: int = 0
) -> None:
    """Write `contact_sheet` as a PNG.

    Raises:
        UsageError: if ``path`` does not end in .png or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out must end in .png, got {path}")
    sheet = contact_sheet(dataset, name=name, samples=samples, seed=seed)
    try:
        sheet.save(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return a font that has the letters of most languages; that of Pillow has no umlauts."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _choose(dataset: Dataset, samples: int, seed: int) -> list[NDArray[np.int64]]:
    """Return indices of up to ``samples`` training images of each class."""
    keys = stream(seed, "contact-sheet").random(len(dataset.train_labels))
    order = np.argsort(keys, kind="stable")
    labels = dataset.train_labels[order]
    return [order[labels == label][:samples] for label in range(dataset.classes)]


def _picture(image: NDArray[np.uint8], factor: int) -> Image.Image:
    pixels = image.repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
