"""Accuracy of each class, and which classes are confused, from the stored predictions on the test set."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

from ablations.evaluation.protocol import Measurement, Metric, Protocol

if TYPE_CHECKING:
    from ablations.config import RunConfig
    from ablations.evaluation.finished_run import FinishedRun

TOP = 5


@dataclass(frozen=True)
class PerClass(Protocol):
    """Balanced accuracy (mean over classes), macro F1, top-5 accuracy, and the lowest accuracy of a class.

    The arrays hold the confusion matrix (classes, classes), whose rows are labels and whose columns are predictions,
    and the names of the classes.
    """

    description: ClassVar[str] = "accuracy of each class, macro F1, top-5 accuracy and confused classes"

    def metrics(self) -> list[Metric]:
        return [
            Metric("balanced-accuracy", "balanced accuracy"),
            Metric("macro-f1", "macro F1 score"),
            Metric("top-5", "top-5 accuracy"),
            Metric("worst-class", "accuracy of the worst class"),
        ]

    def measure(self, run: "FinishedRun") -> Measurement:
        probabilities, labels = run.stored_probabilities, run.labels
        predicted, classes = probabilities.argmax(axis=1), range(probabilities.shape[1])
        matrix = confusion_matrix(labels, predicted, labels=classes)
        present = matrix.sum(axis=1) > 0
        of_class = np.diag(matrix)[present] / matrix.sum(axis=1)[present]
        # Rank by probability; of equal ones the first class counts as predicted, as argmax does.
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
        metrics = {
            "balanced-accuracy": float(of_class.mean()),
            "macro-f1": float(
                f1_score(labels, predicted, labels=np.flatnonzero(present), average="macro", zero_division=0)
            ),
            "worst-class": float(of_class.min()),
        }
        reasons: tuple[str, ...] = ()
        if probabilities.shape[1] > TOP:
            metrics["top-5"] = float((top == labels[:, None]).any(axis=1).mean())
        else:
            reasons = (f"top-5 accuracy needs more than {TOP} classes, got {probabilities.shape[1]}",)
        arrays = {"confusion": matrix, "classes": np.array(run.dataset.class_names)}
        return Measurement(metrics, arrays, reasons)

    def passes(self, config: "RunConfig") -> float:
        return 0.0
