"""The mean and spread that bring pixels to a common scale, from the training images that are used."""

import numpy as np
from numpy.typing import NDArray


def statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Per-channel mean and standard deviation (c,) of uint8 images (n, h, w, c), in units of 0..1.

    Computed exactly, by histogram. A channel that never changes gets the deviation 1, to be divided by.
    """
    values = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        histogram = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 4096):
            block = images[start : start + 4096, ..., channel]
            histogram += np.bincount(block.ravel(), minlength=256)
        total = histogram.sum()
        mean = (histogram * values).sum() / total
        deviation = np.sqrt((histogram * (values - mean) ** 2).sum() / total)
        means.append(mean / 255)
        deviations.append(deviation / 255 if deviation > 0 else 1.0)
    return np.array(means, dtype=np.float32), np.array(deviations, dtype=np.float32)
