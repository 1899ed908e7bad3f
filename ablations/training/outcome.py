"""The record of a run that has ended: trained to its last epoch, or diverged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.storage import RunRecord
from vit import cost

if TYPE_CHECKING:
    from ablations.training.stack import Stack


def trained_record(stack: Stack, run: int, probabilities: np.ndarray, labels: np.ndarray) -> RunRecord:
    """Return the record of a run after its last epoch; a test loss that is not finite means that it diverged.

    `probabilities` (n, C) and `labels` (n,) are those of the test images.
    """
    loss = cross_entropy(probabilities, labels)
    epochs = stack.config.epochs
    if not math.isfinite(loss):
        return diverged_record(stack, run, epochs, stack.steps, labels)
    member = stack.members[run]
    return RunRecord(
        predictions={"labels": labels, "predicted": probabilities.argmax(axis=1), "probabilities": probabilities},
        test_accuracy=accuracy(probabilities, labels),
        test_loss=loss,
        validation_accuracy=member.metrics[-1].validation_accuracy,
        state=stack.state(run),
        **_facts(stack, run, epochs * stack.steps),
    )


def diverged_record(stack: Stack, run: int, epoch: int, step: int, labels: np.ndarray) -> RunRecord:
    """Return the record of a run whose loss was not finite in step `step` of epoch `epoch`, both counted from 1.

    It counts as a classifier that gives each of C classes the probability 1 / C: accuracy 1 / C, loss log C. Weights
    are those when it ended, with NaN for every value that is not finite.
    """
    member, classes = stack.members[run], stack.dataset.classes
    unfinished = 0.0 if len(member.metrics) == epoch else stack.epoch_seconds(member)
    uniform = np.full((len(labels), classes), 1 / classes, dtype=np.float32)
    return RunRecord(
        predictions={"labels": labels, "predicted": uniform.argmax(axis=1), "probabilities": uniform},
        test_accuracy=1 / classes,
        test_loss=math.log(classes),
        validation_accuracy=1 / classes,
        state={name: np.where(np.isfinite(value), value, np.nan) for name, value in stack.state(run).items()},
        diverged=epoch,
        **_facts(stack, run, (epoch - 1) * stack.steps + step, unfinished),
    )


def _facts(stack: Stack, run: int, steps: int, unfinished: float = 0.0) -> dict[str, Any]:
    """Return what every record has. `steps` is their number, `unfinished` the seconds spent on an unfinished epoch."""
    member, model = stack.members[run], stack.model.config
    return {
        "config": member.config,
        "metrics": member.metrics,
        "parameters": cost.parameters(model),
        "flops": cost.TRAINING_FACTOR * cost.forward_flops(model) * steps * stack.batch_size,
        "train_seconds": sum(metrics.seconds for metrics in member.metrics) + unfinished,
        "seconds": stack.seconds(member),
        "stack": len(stack.members),
        "places": member.places,
    }


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose most probable class, of (n, C), is their label (n,)."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log of the probabilities (n, C) of the labels (n,)."""
    likelihood = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean())
