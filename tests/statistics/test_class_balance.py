"""Balanced accuracy and macro F1, against scikit-learn and cases worked out by hand."""

import numpy as np
import pytest
from sklearn import metrics

from ablations.reporting.balance import balanced_frame, majority_warning, sizes_sentence
from ablations.statistics import Outcomes
from ablations.statistics.class_balance import balanced_accuracy, balanced_scores, macro_f1


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, 60, p=[0.6, 0.2, 0.1, 0.1, 0])
    predicted = np.where(rng.random(60) < 0.6, labels, rng.integers(0, 4 + seed % 2, 60))
    with (
        pytest.warns(UserWarning, match="not in y_true") if seed % 2 else np.errstate()
    ):  # a predicted class that does not occur
        assert balanced_accuracy(labels, predicted, 5) == pytest.approx(
            metrics.balanced_accuracy_score(labels, predicted)
        )
    assert macro_f1(labels, predicted, 5) == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))


def outcomes(keys: list[list[list[str]]], diverged: frozenset[str] = frozenset()) -> Outcomes:
    shape = np.array(keys)
    return Outcomes(
        "position",
        ("none", "rope"),
        ("patch",),
        ((2,), (4,)),
        (0, 1),
        0,
        np.where(shape == "", np.nan, 50.0),
        shape,
        diverged,
    )


def prediction(predicted: list[int], labels: tuple[int, ...] = (0, 0, 0, 1)) -> dict[str, np.ndarray]:
    return {
        "labels": np.array(labels),
        "predicted": np.array(predicted),
        "probabilities": np.zeros((len(labels), 2)),
    }


STORED = {
    "always 0": prediction([0, 0, 0, 0]),
    "right": prediction([0, 0, 0, 1]),
    "mixed": prediction([0, 0, 1, 1]),
}


def test_means_over_seeds_without_diverged_runs() -> None:
    keys = [[["always 0", "right"], ["always 0", "always 0"]], [["mixed", ""], ["right", "mixed"]]]
    found = balanced_scores(outcomes(keys, frozenset(["mixed"])), lambda key: STORED.get(key, {}))
    assert [(each.arm, each.setting, each.n) for each in found] == [
        ("none", ("2",), 2),
        ("none", ("4",), 2),
        ("rope", ("4",), 1),
    ]
    first, second, third = found
    assert (first.accuracy, first.balanced_accuracy) == (87.5, 75.0)
    assert first.macro_f1 == pytest.approx(100 * ((6 / 7) / 2 + 1) / 2)
    assert (second.accuracy, second.balanced_accuracy, second.majority) == (75.0, 50.0, 75.0)
    assert (third.accuracy, third.balanced_accuracy, third.macro_f1) == (100.0, 100.0, 100.0)
    assert (first.smallest, first.largest) == (1, 3)
    assert majority_warning(found) == (
        "The accuracy of none, 4 is no higher than that of naming the largest class for every image (75.0 %)"
    )
    assert majority_warning([second]).startswith("The accuracy of all arms is")
    assert majority_warning([third]) == ""
    assert sizes_sentence(found) == "The test set has 1 image of its smallest class and 3 of its largest."
    assert list(balanced_frame(outcomes(keys), found)["largest_class_alone"]) == [75.0] * 3


def test_nothing_for_classes_of_equal_size_or_without_predictions() -> None:
    keys = [[["a", "b"], ["c", "d"]], [["e", "f"], ["g", "h"]]]
    assert balanced_scores(outcomes(keys), lambda key: {}) == []
    assert balanced_scores(outcomes(keys), lambda key: prediction([0, 1, 1], (0, 1, 1))) != []
    assert balanced_scores(outcomes(keys), lambda key: prediction([0] * 5, (0, 0, 1, 1, 1))) == []
