"""Where Numba caches the compiled CPU kernels. Imported by the modules that compile with `cache=CACHED`."""

import os
from pathlib import Path
from typing import Any

import numba

from vit.caches import is_writable, writable_cache


def _choose() -> bool:
    """Set Numba's cache folder unless it has a writable one; return whether there is one.

    Numba takes NUMBA_CACHE_DIR, else the `__pycache__` of the module, and raises an error at import if there is none.
    Child processes inherit the choice.
    """
    config: Any = numba.config
    given = config.CACHE_DIR
    if (given and is_writable(Path(given).absolute())) or is_writable(Path(__file__).parent / "__pycache__"):
        return True
    folder = writable_cache()
    if folder is None:
        return False
    config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(folder / "numba")
    return True


CACHED = _choose()
"""Whether compiled kernels can be cached on disk."""
