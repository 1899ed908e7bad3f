"""The CPU kernels compiled before they are needed, with a word to the user while that takes long."""

import threading
from collections.abc import Callable

import numpy as np

from vit import ViT, ViTConfig, get_ops, one_hot
from vit.engine import AdamWConfig, Engine

PATIENCE = 1.5
"""Seconds: loading compiled kernels takes less, compiling them more."""


def compile_kernels(say: Callable[[], None]) -> None:
    """Train one step of a tiny model, which puts the compiled kernels into Numba's cache.

    Calls `say` (from another thread) when that takes long, which means that they are being compiled.
    """
    notice = threading.Timer(PATIENCE, say)
    notice.start()
    try:
        config = ViTConfig(image_size=4, patch_size=2, channels=1, classes=2, width=8, depth=1, heads=2)
        engine = Engine(ViT(config, get_ops("numpy"), seeds=[0]), AdamWConfig(), batch_size=2, threads=1)
        images = np.zeros((1, 2, 4, 4, 1), dtype=np.float32)
        engine.step(images, one_hot(np.zeros((1, 2), dtype=np.int64), 2).astype(np.float32))
        engine.model.ops.softmax(engine.logits(images))
    finally:
        notice.cancel()
