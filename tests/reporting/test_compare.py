"""Two arms, two studies, two trained models."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar

from ablations.config import RunConfig
from ablations.errors import UsageError
from ablations.reporting.compare import comparison_text, trained_models, two_arms, two_studies
from ablations.reporting.measured import find_measured
from ablations.statistics import compare_models
from tests.support import synthetic_evaluations, synthetic_results

RNG = np.random.default_rng(0)


def test_two_models_on_the_same_examples():
    labels = np.arange(200) % 5
    first, second = labels.copy(), labels.copy()
    first[:10] += 1
    second[5:40] += 1  # 5 wrong in the first only, 30 in the second only, 5 in both
    found = compare_models(labels, first, second)
    assert (found.first, found.second, found.difference) == (95.0, 82.5, 12.5)
    assert (found.only_first, found.only_second) == (30, 5)
    reference = mcnemar([[160, 30], [5, 5]], exact=True).pvalue
    assert found.p == pytest.approx(reference) == pytest.approx(scipy_stats.binomtest(5, 35).pvalue)


def test_the_interval_over_examples_equals_scipys_bootstrap():
    labels = np.zeros(500, dtype=int)
    first, second = RNG.random(500) > 0.8, RNG.random(500) > 0.7
    found = compare_models(labels, first.astype(int), second.astype(int))
    difference = 100 * ((~first).astype(float) - (~second).astype(float))
    reference = scipy_stats.bootstrap((difference,), np.mean, method="percentile", rng=np.random.default_rng(1))
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval), abs=0.5)


def test_models_that_agree():
    labels = np.array([0, 1, 1])
    found = compare_models(labels, labels, labels)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_two_arms_of_a_study():
    results = synthetic_results.make()
    outcomes, _ = two_arms(results, "rope", "learned")
    assert (outcomes.arms, outcomes.baseline, outcomes.values.shape) == (("rope", "learned"), 1, (2, 4, 3))
    text = comparison_text(outcomes, (results, results))
    mean = (outcomes.values[0] - outcomes.values[1]).mean()
    assert f"{mean:.1f}" in text.splitlines()[0] or f"{abs(mean):.1f}" in text.splitlines()[0]
    assert "| depth | patch | rope | learned | difference | pairs |" in text
    assert "McNemar" not in text  # there are no predictions
    assert two_arms(results, "patch=4", "patch=2")[0].arms == (4, 2)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("rop", "none", r"^unknown arm 'rop'.*; valid: position=none, position=learned"),
        ("4", "2", "^arm must name one axis, such as depth=4 or patch=4, got '4'$"),
        ("rope", "depth=2", "levels of different axes: position and depth"),
        ("rope", "position=rope", "are the same arm"),
    ],
)
def test_arms_that_cannot_be_compared(first, second, message):
    with pytest.raises(UsageError, match=message):
        two_arms(synthetic_results.make(), first, second)


def test_two_studies_pair_what_they_share():
    axes = {"position": ("none", "rope"), "depth": (2, 4)}
    short = synthetic_results.make(axes, (0, 1, 2), study="short")
    long = synthetic_results.make(
        {"position": ("rope", "learned"), "depth": (2, 4)},
        (1, 2, 3),
        study="long",
        base=RunConfig(epochs=60),
        measure=lambda c: synthetic_results.accuracy(replace(c, epochs=RunConfig().epochs)) + 0.01,
    )
    outcomes, differ = two_studies(long, short)
    assert outcomes.cells == (("rope", 2), ("rope", 4))
    assert outcomes.seeds == (1, 2)
    assert outcomes.values[0] - outcomes.values[1] == pytest.approx(np.ones((2, 2)))
    assert differ == {"epochs": ("60", str(RunConfig().epochs))}
    assert "study long" in comparison_text(outcomes, (long, short))


def test_studies_without_a_pair():
    one = synthetic_results.make({"position": ("none", "rope")}, (0,), study="one")
    two = synthetic_results.make({"position": ("none", "rope")}, (1,), study="two")
    with pytest.raises(UsageError, match="studies one and two have no pair"):
        two_studies(one, two)


class WithPredictions(synthetic_results.FakeResults):
    def predictions(self, key):
        labels = np.arange(40) % 10
        share = self.runs.set_index("key").loc[key, "test_accuracy"]
        return {"labels": labels, "predicted": np.where(np.arange(40) < 40 * share, labels, (labels + 1) % 10)}


def test_trained_models_are_compared_pair_by_pair_and_said_to_be_models():
    results = WithPredictions(**vars(synthetic_results.make({"position": ("none", "rope")}, (0, 1))))
    outcomes, _ = two_arms(results, "rope", "none")
    models = trained_models(outcomes, (results, results))
    assert list(models) == [(0, 0), (0, 1)]
    for (cell, seed), model in models.items():
        expected = np.ceil(40 * outcomes.values[:, cell, seed] / 100) / 0.4
        assert (model.first, model.second) == pytest.approx(tuple(expected))
    text = comparison_text(outcomes, (results, results))
    assert "Comparison of the trained models, not of the methods" in text
    assert "of 2 pairs differ significantly (McNemar's test with Holm's correction)" in text


def test_arms_and_studies_are_compared_by_a_metric():
    results = synthetic_results.make()
    evaluations = synthetic_evaluations.make(results, ("calibration",))
    about = find_measured(evaluations, "rope", "calibration:nll")
    outcomes, tests = two_arms(results, "rope", "learned", about)
    expected = [[about.values[key] for key in keys.ravel()] for keys in outcomes.keys]
    text = comparison_text(outcomes, (results, results), tests)
    difference = np.mean(np.array(expected[0]) - expected[1])
    assert f"its negative log-likelihood is higher by {difference:.3f} nats" in text
    assert text.startswith("**rope** is worse than **learned**")
    assert re.search(r"^\| 2 \| 2 \| 0\.31\d \| 0\.30\d \| \+0\.0\d+ \| 3 \|$", text, re.M)
    both, _ = two_studies(results, synthetic_results.make(study="other"), about, about)
    assert both.measure.noun == "negative log-likelihood"
    assert np.nanmax(np.abs(both.differences(0, 1))) == 0
