"""Trained models in use: evaluate, classify, look inside, export. Knows nothing of training or reports."""

from ablations.models.find import find_run
from ablations.models.trained import TrainedModel, label_of

__all__ = ["TrainedModel", "find_run", "label_of"]
