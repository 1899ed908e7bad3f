"""Choice of Numba's cache folder for compiled CPU kernels. Modules that compile with `cache=CACHED` import it."""

import os
from pathlib import Path
from typing import Any

import numba

from vit.caches import is_writable, writable_cache


def _choose() -> bool:
    """Set Numba's cache folder, unless the default is writable; return whether there is a writable one.

    Numba uses NUMBA_CACHE_DIR, or else the module's `__pycache__`, and raises an error at import if neither can be
    written. Child processes inherit the setting.
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
