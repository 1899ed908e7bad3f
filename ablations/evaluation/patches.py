"""Images as grids of patches."""

import numpy as np


def to_patches(images: np.ndarray, patch: int) -> np.ndarray:
    """Cut images (n, h, w, channels) into patches (n, N, patch, patch, channels), in row-major order."""
    count, height, width, channels = images.shape
    grid = images.reshape(count, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
    return grid.reshape(count, -1, patch, patch, channels)


def from_patches(patches: np.ndarray) -> np.ndarray:
    """Undo `to_patches` for square images."""
    count, number, patch, _, channels = patches.shape
    grid = round(number**0.5)
    rows = patches.reshape(count, grid, grid, patch, patch, channels).swapaxes(2, 3)
    return rows.reshape(count, grid * patch, grid * patch, channels)
