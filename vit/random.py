"""Independent random streams, identified by a seed, a name and counters."""

import hashlib

import numpy as np


def stream(seed: int, name: str, *counters: int) -> np.random.Generator:
    """Return the generator of one random stream of a run, such as ``stream(seed, "order", epoch)``.

    The same arguments always give the same numbers, for any other streams used before, in any thread, and
    after a resume.
    """
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words, *counters])))
