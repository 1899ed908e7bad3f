"""The record of a run that has ended: trained to its last epoch, pruned, or diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablations.storage import RunRecord, TrialRecord


def trained_record(
    probabilities: np.ndarray, labels: np.ndarray, state: Mapping[str, np.ndarray], **facts: Any
) -> RunRecord:
    """Return the record of a run after its last epoch.

    `probabilities` (n, C) and `labels` (n,) are those of the test images, `state` the weights; `facts` are the other
    fields.
    """
    return RunRecord(
        predictions={"labels": labels, "predicted": probabilities.argmax(axis=1), "probabilities": probabilities},
        test_accuracy=accuracy(probabilities, labels),
        test_loss=cross_entropy(probabilities, labels),
        validation_accuracy=facts["metrics"][-1].validation_accuracy,
        state=dict(state),
        **facts,
    )


def diverged_record(
    epoch: int, classes: int, labels: np.ndarray, state: Mapping[str, np.ndarray], **facts: Any
) -> RunRecord:
    """Return the record of a run whose loss was not finite in this epoch, counted from 1.

    It counts as a classifier that gives each of C classes the probability 1 / C: accuracy 1 / C, loss log C. Weights
    are those when it ended, with NaN for every value that is not finite.
    """
    uniform = np.full((len(labels), classes), 1 / classes, dtype=np.float32)
    return RunRecord(
        predictions={"labels": labels, "predicted": uniform.argmax(axis=1), "probabilities": uniform},
        test_accuracy=1 / classes,
        test_loss=math.log(classes),
        validation_accuracy=1 / classes,
        state={name: np.where(np.isfinite(value), value, np.nan) for name, value in state.items()},
        diverged=epoch,
        **facts,
    )


def is_pruned(thresholds: Sequence[float], accuracies: Sequence[float]) -> bool:
    """Return whether a run of a trial ends now, given its validation accuracy after each epoch so far.

    It does if the best of them is below the threshold of the last of these epochs; without thresholds it never does.
    """
    return bool(thresholds) and max(accuracies) < thresholds[len(accuracies) - 1]


def trial_record(epochs: int, **facts: Any) -> TrialRecord:
    """Return the record of a run of a trial after an epoch, the last of `epochs` unless it is pruned."""
    last = facts["metrics"][-1]
    pruned = last.epoch if last.epoch < epochs else None
    return TrialRecord(validation_accuracy=last.validation_accuracy, pruned=pruned, **facts)


def diverged_trial_record(epoch: int, classes: int, **facts: Any) -> TrialRecord:
    """Return the record of a run of a trial whose loss was not finite in this epoch, as `diverged_record`."""
    return TrialRecord(validation_accuracy=1 / classes, diverged=epoch, **facts)


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose most probable class, of (n, C), is their label (n,)."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log of the probabilities (n, C) of the labels (n,)."""
    likelihood = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean())
