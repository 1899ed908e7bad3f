"""The harness: trains grids of Vision Transformers, stores the runs, analyses them and writes reports."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.api import (
        Grid,
        Range,
        RunConfig,
        Study,
        TrainedModel,
        TuningDesign,
        UsageError,
        VitabError,
        load_epochs,
        load_evaluations,
        load_model,
        load_predictions,
        load_runs,
        run,
        study,
    )

__all__ = [
    "Grid",
    "Range",
    "RunConfig",
    "Study",
    "TrainedModel",
    "TuningDesign",
    "UsageError",
    "VitabError",
    "load_epochs",
    "load_evaluations",
    "load_model",
    "load_predictions",
    "load_runs",
    "run",
    "study",
]


def __getattr__(name: str) -> Any:
    """Return a name of the Python interface, which is imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("ablations.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
