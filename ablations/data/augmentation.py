"""Random changes of training images, a batch at a time: what each field of a run's recipe means.

Every operation is a pure function ``(images, ..., generator, xp) -> new images``; nothing writes to its arguments.
All draws come from a NumPy generator on the host and depend on the batch's shape and the recipe only: two runs that
differ in nothing but their model see the same pictures, on a CPU as on a GPU (``xp`` is numpy or cupy). Each
operation has a stream of its own, so that switching one on changes no draw of another.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.data.trivial_augment import trivial_augment

if TYPE_CHECKING:
    from ablations.config import RunConfig

Array = Any  # numpy.ndarray or cupy.ndarray
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 1 / 0.3)
OPERATIONS = ("crop", "flip", "trivial_augment", "erase", "mix")


def augment(
    images: Array,
    targets: Array,
    config: RunConfig,
    generator: np.random.Generator,
    mean: Array,
    std: Array,
    xp: ModuleType = np,
) -> tuple[Array, Array]:
    """Apply the recipe to a batch: crop, flip, TrivialAugment, normalise, erase, then MixUp or CutMix.

    With every field at its "off" value the images are only normalised and the targets returned as they are. With
    both MixUp and CutMix on, each batch gets one of them, with even chances.

    Args:
        images: uint8 or float32 (B, h, w, c), 0..255.
        targets: float32 (B, C), rows that sum to one.
        config: Its ``crop_padding``, ``flip``, ``trivial_augment``, ``erase``, ``mixup`` and ``cutmix`` are read.
        generator: A fresh one for each batch, such as ``stream(seed, "augmentation", epoch, step)``.
        mean, std: (c,), in units of 0..1; see `ablations.data.normalisation.statistics`.

    Returns:
        float32 images (B, h, w, c), normalised, and float32 targets (B, C).
    """
    draws = dict(zip(OPERATIONS, generator.spawn(len(OPERATIONS)), strict=True))
    if config.crop_padding:
        images = random_crop(images, config.crop_padding, draws["crop"], xp)
    if config.flip:
        images = random_flip(images, draws["flip"], xp)
    if config.trivial_augment:
        images = trivial_augment(images, draws["trivial_augment"], xp)
    images = normalise(images, mean, std, xp)
    if config.erase:
        images = random_erase(images, config.erase, draws["erase"], xp)
    mix = draws["mix"]
    use_mixup = mix.random() < 0.5 if config.mixup and config.cutmix else bool(config.mixup)
    if use_mixup:
        return mixup(images, targets, config.mixup, mix, xp)
    if config.cutmix:
        return cutmix(images, targets, config.cutmix, mix, xp)
    return images, targets


def normalise(images: Array, mean: Array, std: Array, xp: ModuleType = np) -> Array:
    """Return ``(images / 255 - mean) / std`` per channel, float32 (B, h, w, c)."""
    count, height, width, channels = images.shape
    std = xp.asarray(std, dtype=np.float32)
    scale = xp.tile(1 / (255 * std), width)
    shift = xp.tile(xp.asarray(mean, dtype=np.float32) / std, width)
    rows = images.reshape(count, height, width * channels) * scale
    rows -= shift
    return rows.reshape(images.shape)


def random_crop(images: Array, padding: int, generator: np.random.Generator, xp: ModuleType = np) -> Array:
    """Shift each image by up to ``padding`` pixels along each axis; fill the gap with 0 (black).

    The same as padding every side and cropping back to size at a uniformly random place.
    Source: K. He et al., Deep Residual Learning, arXiv:1512.03385, 2015, section 4.2.
    """
    count, height, width, channels = images.shape
    top, left = generator.integers(0, 2 * padding + 1, size=(2, count))
    padded = xp.zeros((count, height + 2 * padding, width + 2 * padding, channels), dtype=images.dtype)
    padded[:, padding : padding + height, padding : padding + width] = images
    windows = xp.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    return xp.moveaxis(windows, 3, -1)[xp.arange(count), xp.asarray(top), xp.asarray(left)]


def random_flip(images: Array, generator: np.random.Generator, xp: ModuleType = np) -> Array:
    """Mirror each image left to right with probability one half."""
    flipped = xp.asarray(np.flatnonzero(generator.random(len(images)) < 0.5))
    changed = images.copy()
    changed[flipped] = xp.take(images[flipped], xp.arange(images.shape[2])[::-1], axis=2)
    return changed


def random_erase(images: Array, probability: float, generator: np.random.Generator, xp: ModuleType = np) -> Array:
    """Set one rectangle of each image to 0, the mean when normalised, with the given probability.

    The rectangle covers a share of the image uniform in ``ERASED_AREA`` (to the nearest whole pixels within that
    range), with a height to width ratio log-uniform in ``ERASED_ASPECT`` where that fits, anywhere inside.
    Source: Z. Zhong et al., Random Erasing, arXiv:1708.04896, 2017; area as in torchvision and timm.
    """
    count, height, width = images.shape[:3]
    uniform = generator.random((5, count))
    share = ERASED_AREA[0] + uniform[0] * (ERASED_AREA[1] - ERASED_AREA[0])
    rows, columns = _rectangle(share, uniform[1], height, width)
    top = np.floor(uniform[2] * (height - rows + 1)).astype(np.int64)
    left = np.floor(uniform[3] * (width - columns + 1)).astype(np.int64)
    inside_rows = (np.arange(height) >= top[:, None]) & (np.arange(height) < (top + rows)[:, None])
    inside_columns = (np.arange(width) >= left[:, None]) & (np.arange(width) < (left + columns)[:, None])
    erased = np.flatnonzero(uniform[4] < probability)
    inside = xp.asarray(inside_rows[erased, :, None] & inside_columns[erased, None, :])
    where = xp.asarray(erased)
    changed = images.copy()
    changed[where] = xp.where(inside[..., None], 0, images[where])
    return changed


def mixup(
    images: Array, targets: Array, alpha: float, generator: np.random.Generator, xp: ModuleType = np
) -> tuple[Array, Array]:
    """Blend each image and target with another of the batch; one weight ~ Beta(alpha, alpha) per batch.

    Source: H. Zhang et al., mixup, arXiv:1710.09412, 2017.
    """
    share = np.float32(generator.beta(alpha, alpha))
    partner = xp.asarray(generator.permutation(len(images)))
    return _blend(images, images[partner], share), _blend(targets, targets[partner], share)


def cutmix(
    images: Array, targets: Array, alpha: float, generator: np.random.Generator, xp: ModuleType = np
) -> tuple[Array, Array]:
    """Replace a rectangle of each image by that of another; blend targets by the remaining area.

    The rectangle has the image's shape, covers 1 - Beta(alpha, alpha) of it before it is clipped at the edges, and is
    the same for the whole batch.
    Source: S. Yun et al., CutMix, arXiv:1905.04899, 2019, algorithm 1.
    """
    count, height, width = images.shape[:3]
    side = np.sqrt(1 - generator.beta(alpha, alpha))
    centre = generator.random(2)
    top, bottom = _interval(centre[0], side, height)
    left, right = _interval(centre[1], side, width)
    partner = xp.asarray(generator.permutation(count))
    mixed = images.copy()
    mixed[:, top:bottom, left:right] = images[partner, top:bottom, left:right]
    kept = np.float32(1 - (bottom - top) * (right - left) / (height * width))
    return mixed, _blend(targets, targets[partner], kept)


def _blend(first: Array, second: Array, share: np.float32) -> Array:
    """``share * first + (1 - share) * second``, in the memory of ``second``, which must be the caller's own."""
    second *= 1 - share
    second += share * first
    return second


def _interval(centre: float, side: float, length: int) -> tuple[int, int]:
    """Start and stop of ``side * length`` pixels about ``centre * length``, clipped to 0..length."""
    middle, half = int(centre * length), int(side * length) / 2
    return max(int(middle - half), 0), min(int(middle + half), length)


def _rectangle(share: Array, position: Array, height: int, width: int) -> tuple[Array, Array]:
    """Return rows and columns (B,) of rectangles of area about ``share``; ``position`` (0..1) sets the aspect."""
    area = height * width
    low = np.log(np.maximum(ERASED_ASPECT[0], share * height / width))
    high = np.log(np.minimum(ERASED_ASPECT[1], height / (share * width)))
    aspect = np.exp(low + position * (high - low))
    rows = np.clip(np.rint(np.sqrt(share * area * aspect)), 1, height)
    least, most = np.ceil(ERASED_AREA[0] * area / rows), np.floor(ERASED_AREA[1] * area / rows)
    columns = np.clip(np.rint(share * area / rows), least, np.minimum(most, width))
    return rows.astype(np.int64), columns.astype(np.int64)
