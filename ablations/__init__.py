"""The harness: trains grids of Vision Transformers, stores the runs, analyses them and writes reports.

The names of the Python interface are those of `ablations.api`, which is imported when one of them is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Return a name of the Python interface."""
    if name == "__all__" or not name.startswith("_"):
        interface = import_module("ablations.api")
        if name == "__all__" or name in interface.__all__:
            return getattr(interface, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("ablations.api").__all__})
