"""Intervals over other test images, against statsmodels and hand-computed cases."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from ablations.statistics import Analysis, arrange
from ablations.statistics.other_images import image_interval, image_variance
from benchmarks import other_images as simulation
from tests.support import synthetic_results

IMAGES = 40


def differences(seeds=5, images=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(seeds, 1)) + 3 * rng.normal(size=images) + rng.normal(size=(seeds, images))


def test_the_variance_of_images_is_that_of_the_analysis_of_variance():
    own = differences()
    seeds, images = own.shape
    seed, image = (index.ravel() for index in np.indices(own.shape))
    frame = pd.DataFrame({"d": own.ravel(), "seed": seed, "image": image})
    table = anova_lm(ols("d ~ C(seed) + C(image)", frame).fit())
    squares = table["mean_sq"]
    expected = (squares["C(image)"] - squares["Residual"]) / (seeds * images)
    assert image_variance([own]) == pytest.approx(expected)


def test_settings_share_the_images():
    first, second = differences(seed=1), differences(seeds=3, seed=2)
    n = first.shape[1]
    both = sum(
        np.var(own - own.mean(axis=0) - own.mean(axis=1, keepdims=True))
        * own.size
        / ((len(own) - 1) * (n - 1))
        / (4 * len(own) * n)
        for own in (first, second)
    )
    means = (first.mean(axis=0) + second.mean(axis=0)) / 2
    assert image_variance([first, second]) == pytest.approx(means.var(ddof=1) / n - both)


def test_a_setting_with_one_seed_has_no_interaction_to_subtract():
    own = differences(seeds=1)
    assert image_variance([own]) == pytest.approx(own[0].var(ddof=1) / own.shape[1])


def test_images_that_make_no_difference_widen_nothing():
    own = np.array([[1.0] * 12, [3.0] * 12])
    assert image_variance([own]) == 0
    assert image_interval(2.0, -1.0, 6.0, [own]) == (-1.0, 6.0)
    assert np.isnan(image_variance([own[:, :1]]))


def test_the_interval_squares_and_adds_each_side():
    own = differences()
    t = scipy_stats.t.ppf(0.975, own.shape[1] - 1)
    low, high = image_interval(0.5, -1.0, 3.0, [own])
    added = t**2 * image_variance([own])
    assert (low, high) == pytest.approx((0.5 - np.sqrt(1.5**2 + added), 0.5 + np.sqrt(2.5**2 + added)))


def study(labels=lambda key: np.arange(IMAGES) % 4, **changes):
    results = synthetic_results.make({"position": ("none", "rope"), "patch": (2, 4)}, range(4), **changes)

    def predictions(key):
        rng, own = np.random.default_rng(int(key[:8], 16)), labels(key)
        predicted = np.where(rng.random(IMAGES) < 0.8, own, (own + 1) % 4)
        return {"labels": own, "predicted": predicted, "probabilities": np.full((IMAGES, 4), 0.25, np.float32)}

    return Analysis(arrange(results), predictions=predictions), predictions


def test_contrasts_of_a_study_with_a_lost_and_a_diverged_run():
    analysis, predictions = study(
        missing=lambda c: (c.position, c.patch, c.seed) == ("rope", 2, 3),
        survives=lambda c: (c.position, c.patch, c.seed) != ("rope", 4, 0),
    )
    (found,) = analysis.other_images
    outcomes = analysis.outcomes

    def correct(arm, cell, seed):
        key = str(outcomes.keys[arm, cell, seed])
        own = predictions(key)
        return np.full(IMAGES, 0.25) if key in outcomes.diverged else (own["labels"] == own["predicted"]).astype(float)

    settings = [
        100 * np.array([correct(1, cell, seed) - correct(0, cell, seed) for seed in seeds])
        for cell, seeds in ((0, range(3)), (1, range(4)))
    ]
    (contrast,) = analysis.contrasts
    assert (found.subject, found.reference, found.images) == ("rope", "none", IMAGES)
    assert (found.seeds_low, found.seeds_high) == (contrast.low, contrast.high)
    low, high = image_interval(contrast.mean, contrast.low, contrast.high, settings)
    assert (found.low, found.high) == pytest.approx((max(low, -100), min(high, 100)))
    assert found.error == pytest.approx(np.sqrt(image_variance(settings)))
    assert found.low <= found.seeds_low < found.mean < found.seeds_high <= found.high


def test_runs_on_other_test_sets_or_without_predictions_have_none():
    labels = iter(range(100))
    assert study(labels=lambda key: np.arange(IMAGES) % 4 + next(labels) % 2)[0].other_images == []
    assert Analysis(study()[0].outcomes).other_images == []


def test_the_simulated_truth_is_the_difference_over_all_seeds_and_images():
    case = simulation.Case(settings=2, seeds=3, images=400, arms="far")
    means = [
        np.mean([own.mean() for own in simulation.study(case, np.random.default_rng(seed))]) for seed in range(400)
    ]
    assert np.mean(means) == pytest.approx(simulation.truth(case)[0], abs=4 * np.std(means) / 20)


def test_intervals_cover_other_images_that_intervals_over_seeds_do_not():
    rates = simulation.rates(simulation.Case(settings=2, seeds=8, images=397, arms="far"), studies=150)
    assert rates["over_seeds"] < 85 < 90 < rates["over_both"]
    assert rates["wider"] > 1.5
