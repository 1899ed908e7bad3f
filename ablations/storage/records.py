"""The result of a training, before it is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.config import RunConfig

if TYPE_CHECKING:
    from ablations.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class EpochMetrics:
    """What is known after an epoch."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    """Of its last step."""
    train_loss: float
    """Mean over its steps, with label smoothing, dropout and augmentation as trained."""
    validation_loss: float
    """Plain cross-entropy."""
    validation_accuracy: float
    """0 to 1."""
    seconds: float
    """Spent on its training steps; one of R runs in a stack counts 1 / R of the stack's time."""
    images_per_s: float
    """In that time: a run of a stack is trained at the speed of the whole stack, for a part of the time."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A training that has ended."""

    config: RunConfig
    metrics: list[EpochMetrics]
    validation_accuracy: float
    """After the last epoch; 1 / C if the run diverged."""
    parameters: int
    flops: int
    """Of all training steps."""
    train_seconds: float
    seconds: float
    stack: int = 1
    """Runs that were trained as one model when it ended, itself included."""
    diverged: int | None = None
    """Epoch, counted from 1, in which its loss was not finite, which ended it."""
    places: Sequence[dict[str, Any]] = ()
    """Where it was trained, one after another, as its checkpointer knows them."""


@dataclass(frozen=True, kw_only=True)
class RunRecord(TrainingRecord):
    """A finished run: trained to the last epoch, or diverged."""

    predictions: dict[str, np.ndarray]
    """Per test image: labels and predicted (n,) int64, probabilities (n, C) float32."""
    test_accuracy: float
    test_loss: float
    state: dict[str, np.ndarray]
    """The weights that were evaluated: the averaged ones where `ema` is on."""
    preprocessing: "Preprocessing | None" = None
    """What the model needs to be used on pictures; None is stored as in runs of older versions."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord(TrainingRecord):
    """A finished run of a trial: trained to the last epoch, pruned or diverged. It has never seen the test images."""

    pruned: int | None = None
    """Epoch, counted from 1, after which it was ended."""
