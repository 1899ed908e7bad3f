"""The mean and spread that bring pixels to a common scale, from the training images that are used."""

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 1 << 20
"""Bytes of images that are counted at once: few, so that they stay in the processor's cache."""


def statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Per-channel mean and standard deviation (c,) of uint8 images (n, h, w, c), in units of 0..1.

    Computed exactly, by histogram. A channel that never changes gets the deviation 1, to be divided by.
    """
    return mean_and_std(histogram(images))


def histogram(images: NDArray[np.uint8], indices: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return how often each channel has each value, (c, 256), in all images (n, h, w, c) or those with these indices.

    Reads a few images at a time, so that the images may be in a file larger than memory.
    """
    pairs = np.zeros((images.shape[-1], 1 << 16), dtype=np.int64)
    odd = np.zeros((images.shape[-1], 256), dtype=np.int64)
    number = len(images) if indices is None else len(indices)
    size = max(1, BLOCK_BYTES // int(np.prod(images.shape[1:])))
    for start in range(0, number, size):
        rows = slice(start, start + size)
        block = images[rows if indices is None else indices[rows]]
        for channel in range(images.shape[-1]):
            values = block[..., channel].ravel()
            even = values.size - values.size % 2  # two values at a time, as one of 16 bits: half the time
            pairs[channel] += np.bincount(values[:even].view(np.uint16), minlength=1 << 16)
            odd[channel] += np.bincount(values[even:], minlength=256)
    square = pairs.reshape(-1, 256, 256)
    return square.sum(axis=1) + square.sum(axis=2) + odd


def mean_and_std(counts: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return `statistics` of the images with this histogram (c, 256)."""
    values = np.arange(256)
    means, deviations = [], []
    for of_channel in counts:
        total = of_channel.sum()
        mean = (of_channel * values).sum() / total
        deviation = np.sqrt((of_channel * (values - mean) ** 2).sum() / total)
        means.append(mean / 255)
        deviations.append(deviation / 255 if deviation > 0 else 1.0)
    return np.array(means, dtype=np.float32), np.array(deviations, dtype=np.float32)
