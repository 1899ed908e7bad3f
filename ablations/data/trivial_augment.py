"""TrivialAugment: one random operation of random strength for each image, all images of an operation at once.

The operations and the range of their strengths are those of the paper's "RA" space, lengths as shares of the image
(10 of 32 pixels), so that they make sense on small pictures. Geometry reads the nearest pixel, and black outside.

Source: S. Mueller, F. Hutter, TrivialAugment, arXiv:2103.10158, 2021; operations as in PIL.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray
TRANSLATION = 10 / 32
SHEAR = 0.3
ROTATION_DEGREES = 30.0
ENHANCEMENT = 0.9
POSTERIZED_BITS = 4


def trivial_augment(images: Array, generator: np.random.Generator, xp: ModuleType = np) -> Array:
    """Apply one random operation of ``OPERATIONS`` to each image, with random strength and sign.

    Args:
        images: (B, h, w, c), 0..255; floats are rounded. Grey images (c = 1) skip ``colour``.

    Returns:
        uint8 (B, h, w, c).
    """
    if images.dtype != np.uint8:
        images = xp.clip(xp.rint(images), 0, 255).astype(np.uint8)
    names = [name for name in OPERATIONS if name != "colour" or images.shape[-1] == 3]
    chosen = generator.integers(len(names), size=len(images))
    strengths = generator.random(len(images)).astype(np.float32)
    signs = generator.choice(np.array([-1, 1], dtype=np.float32), size=len(images))
    changed = images.copy()
    for index, name in enumerate(names):
        drawn = np.flatnonzero(chosen == index)
        if len(drawn):
            where = xp.asarray(drawn)
            changed[where] = OPERATIONS[name](images[where], strengths[drawn], signs[drawn], xp)
    return changed


def identity(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Nothing."""
    return images


def translate_x(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Moved sideways by up to ``TRANSLATION`` of the width."""
    return _warp(images, xp, shift_x=sign * strength * TRANSLATION * images.shape[2])


def translate_y(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Moved up or down by up to ``TRANSLATION`` of the height."""
    return _warp(images, xp, shift_y=sign * strength * TRANSLATION * images.shape[1])


def shear_x(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Shift rows in proportion to their distance from the centre, by up to ``SHEAR`` pixels per row."""
    return _warp(images, xp, xy=sign * strength * SHEAR)


def shear_y(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Shift columns in proportion to their distance from the centre, by up to ``SHEAR`` pixels per column."""
    return _warp(images, xp, yx=sign * strength * SHEAR)


def rotate(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Turned about the centre by up to ``ROTATION_DEGREES``."""
    angle = np.deg2rad(sign * strength * ROTATION_DEGREES)
    return _warp(images, xp, xx=np.cos(angle), xy=np.sin(angle), yx=-np.sin(angle), yy=np.cos(angle))


def brightness(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Away from, or towards, black by up to ``ENHANCEMENT``."""
    return _enhance(images, xp.zeros((1, 1, 1, 1), dtype=np.float32), strength, sign, xp)


def contrast(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Away from, or towards, the image's mean grey."""
    mean = xp.rint(_grey(images, xp).mean(axis=(1, 2, 3), keepdims=True))
    return _enhance(images, mean, strength, sign, xp)


def colour(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Away from, or towards, the image in grey; needs 3 channels."""
    return _enhance(images, _grey(images, xp), strength, sign, xp)


def sharpness(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Away from, or towards, the image smoothed with (1 1 1, 1 5 1, 1 1 1) / 13; the border stays as it is."""
    smooth = images.astype(np.float32)
    height, width = images.shape[1:3]
    around = 4 * smooth[:, 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            around = around + images[:, row : row + height - 2, column : column + width - 2]
    smooth[:, 1:-1, 1:-1] = xp.rint(around / 13)
    return _enhance(images, smooth, strength, sign, xp)


def posterize(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Clear the lowest 0 to ``8 - POSTERIZED_BITS`` bits."""
    cleared = np.rint(strength * (8 - POSTERIZED_BITS)).astype(np.int64)
    masks = (0xFF << cleared) & 0xFF
    return images & xp.asarray(masks.astype(np.uint8))[:, None, None, None]


def solarize(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Invert pixels at or above a threshold, which falls from 256 to 0 with the strength."""
    threshold = xp.asarray(256 * (1 - strength))[:, None, None, None]
    return xp.where(images >= threshold, 255 - images, images)


def auto_contrast(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Stretch each channel to 0..255."""
    planes = xp.ascontiguousarray(xp.moveaxis(images, -1, 1))
    low, high = (extreme(axis=(2, 3))[:, None, None, :].astype(np.float32) for extreme in (planes.min, planes.max))
    spread = high - low
    stretched = (images - low) * (255 / xp.maximum(spread, 1))
    return xp.where(spread > 0, xp.floor(stretched + 1e-3), images).astype(np.uint8)


def equalize(images: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """Equalize the histogram of each channel."""
    count, height, width, channels = images.shape
    planes = count * channels
    values = xp.moveaxis(images, -1, 1).reshape(planes, height * width).astype(np.int64)
    places = values + 256 * xp.arange(planes)[:, None]
    histogram = xp.bincount(places.ravel(), minlength=256 * planes).reshape(planes, 256)
    last = xp.take_along_axis(histogram, values.max(axis=1, keepdims=True), axis=1)
    step = (height * width - last) // 255
    before = xp.cumsum(histogram, axis=1) - histogram
    table = xp.clip((step // 2 + before) // xp.maximum(step, 1), 0, 255)
    table = xp.where(step > 0, table, xp.arange(256))
    equal = table.ravel()[places].reshape(count, channels, height, width)
    return xp.moveaxis(equal, 1, -1).astype(np.uint8)


Operation = Callable[[Array, Array, Array, ModuleType], Array]
OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        identity,
        translate_x,
        translate_y,
        shear_x,
        shear_y,
        rotate,
        brightness,
        contrast,
        colour,
        sharpness,
        posterize,
        solarize,
        auto_contrast,
        equalize,
    )
}


def _warp(
    images: Array,
    xp: ModuleType,
    *,
    xx: Array = 1.0,
    xy: Array = 0.0,
    yx: Array = 0.0,
    yy: Array = 1.0,
    shift_x: Array = 0.0,
    shift_y: Array = 0.0,
) -> Array:
    """Sample images at ``(xx x + xy y + shift_x, yx x + yy y + shift_y)`` from the centre; black outside.

    Each coefficient is a number or (B,).
    """
    count, height, width = images.shape[:3]

    def each(coefficient: Array) -> Array:
        full = np.broadcast_to(np.asarray(coefficient, dtype=np.float32), (count,))
        return xp.asarray(full)[:, None, None]

    x = xp.arange(width, dtype=np.float32)[None, None, :] - (width - 1) / 2
    y = xp.arange(height, dtype=np.float32)[None, :, None] - (height - 1) / 2
    column = xp.floor(each(xx) * x + each(xy) * y + each(shift_x) + width / 2).astype(np.int32)
    row = xp.floor(each(yx) * x + each(yy) * y + each(shift_y) + height / 2).astype(np.int32)
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    place = (xp.arange(count, dtype=np.int32)[:, None, None] * height + row) * width + column
    place[outside] = 0
    moved = xp.take(images.reshape(count * height * width, -1), place, axis=0)
    moved[outside] = 0
    return moved


def _grey(images: Array, xp: ModuleType) -> Array:
    """ITU-R 601 luma (B, h, w, 1), float32 of whole numbers."""
    if images.shape[-1] == 1:
        return images.astype(np.float32)
    weights = xp.asarray([0.299, 0.587, 0.114], dtype=np.float32)
    return xp.rint(images.astype(np.float32) @ weights)[..., None]


def _enhance(images: Array, reference: Array, strength: Array, sign: Array, xp: ModuleType) -> Array:
    """``reference + factor * (images - reference)``, factor 1 - ``ENHANCEMENT`` to 1 + ``ENHANCEMENT``, clipped."""
    factor = xp.asarray(1 + sign * strength * np.float32(ENHANCEMENT))[:, None, None, None]
    changed = reference + factor * (images.astype(np.float32) - reference)
    return xp.clip(xp.rint(changed), 0, 255).astype(np.uint8)
