"""Philox4x32-10 (Salmon et al. 2011) on arrays, as the CUDA kernels draw."""

import numpy as np

DROP_ELEMENTS, DROP_PATHS, AUGMENT, MIX = range(4)
"""What a draw is for: the last word of its address."""


def philox(key: int, *counter: object) -> np.ndarray:
    """Four words (..., 4) uint32 of a 64-bit key and a counter of four words, numbers or arrays."""
    mask = np.uint64(0xFFFFFFFF)
    c = [np.asarray(word, dtype=np.uint64) for word in np.broadcast_arrays(*counter)]
    k = [key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            second >> np.uint64(32) ^ c[1] ^ np.uint64(k[0]),
            second & mask,
            first >> np.uint64(32) ^ c[3] ^ np.uint64(k[1]),
            first & mask,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=-1).astype(np.uint32)
