"""The Python interface: run studies, and load what they found and trained. Exported by `ablations`."""

from ablations.api.loading import load_epochs, load_evaluations, load_model, load_predictions, load_runs
from ablations.api.running import run
from ablations.api.studies import Study, study
from ablations.config import Grid, Range, RunConfig, TuningDesign
from ablations.errors import UsageError, VitabError
from ablations.models import TrainedModel

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
