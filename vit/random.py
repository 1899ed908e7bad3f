"""Independent random streams, addressed by a seed, a name and counters."""

import hashlib

import numpy as np


def stream(seed: int, name: str, *counters: int) -> np.random.Generator:
    """A generator for one purpose of one run, such as ``stream(seed, "order", epoch)``.

    Streams carry no state from call to call: the same address gives the same numbers in any order of use, in any
    thread and after a resume, and a stream that one run does not use shifts no other.
    """
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words, *counters])))
