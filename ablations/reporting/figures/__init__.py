"""The figures of a report."""

import os
import sys
from pathlib import Path

from vit.caches import is_writable, writable_cache


def _choose_matplotlib_folder() -> None:
    """Set MPLCONFIGDIR if matplotlib has no writable folder; it would make one for each process and warn at length."""
    if os.environ.get("MPLCONFIGDIR"):
        return
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.home() raises an error if there is none
    if sys.platform == "darwin":
        usual = [home / ".matplotlib"]
    else:
        config, cache = os.environ.get("XDG_CONFIG_HOME"), os.environ.get("XDG_CACHE_HOME")
        usual = [Path(config or home / ".config") / "matplotlib", Path(cache or home / ".cache") / "matplotlib"]
    if not all(map(is_writable, usual)) and (folder := writable_cache()):
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


_choose_matplotlib_folder()  # before the modules of this package import matplotlib
