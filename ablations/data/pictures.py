"""Pictures in files: read, turned upright, cut to a square and resized."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ablations.errors import UsageError

FORMATS = ("PNG", "JPEG")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg"))


def pictures_in(folder: Path) -> list[Path]:
    """Return the PNG and JPEG files in a folder and its subfolders, by name, without hidden files."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def read_picture(
    source: Path | BinaryIO, image_size: int, channels: int = 3, *, name: str | None = None
) -> NDArray[np.uint8]:
    """Return a picture as uint8 (image_size, image_size, channels), in grey or colour for 1 or 3 channels.

    It is turned upright by its EXIF orientation, transparent parts become white, the largest centred square is cut out
    and resized (bicubic). Grey values of 16 bits are divided by 257. Raises UsageError, with `name` or the path, if it
    cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as file:
                picture = ImageOps.exif_transpose(file)
                if picture.mode.startswith("I"):
                    picture = Image.fromarray((np.asarray(picture, dtype=np.float64) / 257).round().astype(np.uint8))
                if picture.mode == "F":
                    raise ValueError("floating-point pixels; save it with 8 or 16 bits per channel")
                if picture.has_transparency_data:
                    picture = picture.convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
                picture = picture.convert("L" if channels == 1 else "RGB")
                fitted = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
                return np.asarray(fitted).reshape(image_size, image_size, channels)
    except UnidentifiedImageError as error:
        raise UsageError(f"cannot read image {name or source} (neither PNG nor JPEG); fix or remove it") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read image {name or source} ({reason}); fix or remove it") from error
