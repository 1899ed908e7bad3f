"""Pictures in files and arrays: decoded, turned upright, brought to 8 bits and a square of the size of the model.

PNG, JPEG, WebP, BMP, TIFF and GIF are read; of several frames or pages, the first. Values of 16 bits are divided by
257, and floating-point values from 0 to 1 are multiplied by 255, as scikit-image's `img_as_ubyte` does. Values outside
these ranges are refused, because no rule could tell what they mean.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ablations.errors import UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
CROP, PAD, STRETCH = "crop", "pad", "stretch"
RESIZES = {
    CROP: "the largest centred square was cut out",
    PAD: "made square with black margins",
    STRETCH: "stretched to a square",
}
"""Ways to make a picture square, each with what it does to the picture."""


@dataclass(frozen=True)
class Decoded:
    """A picture as an array, and what it was in its file."""

    pixels: NDArray[np.uint8]
    """(image_size, image_size, channels)."""
    width: int
    height: int
    mode: str
    """Pillow's name of the kind of pixels, such as `RGB`, `L`, `I;16` or `CMYK`; of an array, its type and channels."""


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder and its subfolders, by name, without hidden files."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def read_picture(
    source: Path | BinaryIO, image_size: int, channels: int = 3, *, resize: str = CROP, name: str | None = None
) -> NDArray[np.uint8]:
    """Return a picture as uint8 (image_size, image_size, channels), in grey or colour for 1 or 3 channels.

    It is turned upright by its EXIF orientation, transparent parts become white, and it is made square as `resize`
    says: `crop`, `pad` or `stretch` (bicubic). Raises UsageError, with `name` or the path, if it cannot be read.
    """
    try:
        with pillow_warnings():
            return decode(source, image_size, channels, resize).pixels
    except ValueError as error:
        advice = "" if isinstance(error.__cause__, FileNotFoundError) else "; fix or remove it"
        raise UsageError(f"cannot read image {name or source} ({error}){advice}") from error


def decode(
    content: Path | BinaryIO | bytes | NDArray[Any], image_size: int, channels: int, resize: str = CROP
) -> Decoded:
    """Return a picture as `read_picture` does, from a file, its bytes, or an array (h, w) or (h, w, c) of any type.

    To be called within `pillow_warnings`, from any number of threads. Raises ValueError, with the reason, if it cannot
    be read.
    """
    try:
        if isinstance(content, np.ndarray):
            picture, mode = _from_array(content)
            width, height = picture.size
        else:
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as file:
                width, height, mode = *file.size, file.mode
                picture = _eight_bits(ImageOps.exif_transpose(file))
        squared = _square(_flat(picture).convert("L" if channels == 1 else "RGB"), image_size, resize)
        return Decoded(np.asarray(squared).reshape(image_size, image_size, channels), width, height, mode)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("not a PNG, JPEG, WebP, BMP, TIFF or GIF file") from error
    except Exception as error:  # files that are damaged make Pillow raise errors of many kinds
        known = isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError | Warning)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(reason if known else f"{type(error).__name__}: {reason}") from error


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Refuse pictures so large that they may be an attack, and hide what else Pillow warns of: metadata, palettes.

    Filters of warnings are of the process: threads that decode share one such context.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return greyscale of more bits or in floating point with 8 bits; other pictures as they are."""
    if picture.mode.startswith("I"):
        return Image.fromarray(_scaled(np.asarray(picture, dtype=np.float64), 65535))
    if picture.mode == "F":
        return Image.fromarray(_scaled(np.asarray(picture, dtype=np.float64), 1))
    return picture


def _from_array(values: NDArray[Any]) -> tuple[Image.Image, str]:
    """Return an array as a picture with 8 bits, and its type and channels in words."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in (3, 4)):
        raise ValueError(f"an image must be an array (h, w) or (h, w, c) with 1, 3 or 4 channels, got {values.shape}")
    mode = f"{values.dtype.name} x {1 if values.ndim == 2 else values.shape[2]}"
    if values.dtype == np.bool_:
        values = values * np.uint8(255)
    elif values.dtype.kind == "f":
        values = _scaled(values.astype(np.float64), 1)
    elif values.dtype == np.uint16:
        values = _scaled(values.astype(np.float64), 65535)
    elif values.dtype.kind in "iu":
        values = _scaled(values, 255)
    else:
        raise ValueError(f"an image must be an array of numbers, got {values.dtype.name}")
    return Image.fromarray(values), mode


def _scaled(values: NDArray[Any], highest: int) -> NDArray[np.uint8]:
    """Return values from 0 to `highest` as whole numbers from 0 to 255. Raises ValueError for other values."""
    kind = {1: "floating-point pixels", 255: f"pixels of type {values.dtype.name}", 65535: "pixels of more than 8 bits"}
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if not (low >= 0 and high <= highest):  # also for NaN
        raise ValueError(f"{kind[highest]} must be from 0 to {highest}, got {low:g} to {high:g}")
    return (values if highest == 255 else (values / (highest / 255)).round()).astype(np.uint8)


def _flat(picture: Image.Image) -> Image.Image:
    """Return a picture with its transparent parts over white."""
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _square(picture: Image.Image, side: int, resize: str) -> Image.Image:
    if resize == STRETCH:
        return picture.resize((side, side), Image.Resampling.BICUBIC)
    if resize == PAD:
        scale = side / max(picture.size)
        width, height = (max(1, round(scale * length)) for length in picture.size)
        page = Image.new(picture.mode, (side, side))
        page.paste(
            picture.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2)
        )
        return page
    return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
