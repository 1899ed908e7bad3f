"""Measures other than test accuracy: unit, direction and decimals, with the same statistics."""

from dataclasses import replace

import numpy as np
import pytest

from ablations.statistics import ACCURACY, DIFFERENT, Measure, Verdict, analyse, arrange, rank_arms, verdict
from tests.support import synthetic_results

LOSS = Measure("calibration:nll", "negative log-likelihood", "nats", higher_is_better=False)
DISTANCE = Measure("attention:distance", "mean attention distance", "pixels", higher_is_better=None)
SHARE = Measure("shuffle:lost-each", "accuracy lost", higher_is_better=False, signed=True)


@pytest.fixture(scope="module")
def results():
    return synthetic_results.make()


def accuracies(results, factor=1.0):
    return {key: factor * share for key, share in zip(results.runs["key"], results.runs["test_accuracy"], strict=True)}


def test_accuracy_as_a_metric_has_the_same_statistics(results):
    own, measured = analyse(results), analyse(results, Measure("other", "accuracy"), accuracies(results))
    assert [replace(c, measure=ACCURACY) for c in measured.contrasts] == own.contrasts
    assert measured.ranks == own.ranks
    np.testing.assert_array_equal(measured.outcomes.values, own.outcomes.values)


def test_lower_is_better(results):
    """The negative of a share: every verdict, lead and rank turns around, differences keep their sign."""
    worse, better = (analyse(results, m, accuracies(results)) for m in (SHARE, replace(SHARE, higher_is_better=True)))
    for low, high in zip(worse.contrasts, better.contrasts, strict=True):
        assert (low.mean, low.p, low.low, low.high) == (high.mean, high.p, high.low, high.high)
        assert (verdict(low), verdict(high)) == (Verdict.WORSE, Verdict.BETTER)
        assert low.wins == low.n - high.wins
        assert low.probability_of_improvement == pytest.approx(1 - high.probability_of_improvement)
    assert worse.ranks.mean_ranks == pytest.approx([5 - rank for rank in better.ranks.mean_ranks])
    assert [(c.subject, c.reference) for c in worse.pairs] == [(c.reference, c.subject) for c in better.pairs]


def test_a_description_is_higher_or_lower_and_never_better(results):
    found = analyse(results, DISTANCE, accuracies(results))
    assert {verdict(c) for c in found.contrasts} == {Verdict.HIGHER}
    assert {verdict(c) for c in analyse(results, DISTANCE, accuracies(results, -1)).contrasts} == {Verdict.LOWER}
    assert {Verdict.HIGHER, Verdict.LOWER} < DIFFERENT
    assert rank_arms(found.outcomes) == rank_arms(arrange(results))


def test_only_shares_are_in_percent_and_can_be_equivalent(results):
    noise = np.random.default_rng(0).normal(0.5, 1e-5, len(results.runs))
    same = dict(zip(results.runs["key"], noise, strict=True))
    share, loss = (analyse(results, m, same).contrasts[0] for m in (SHARE, LOSS))
    assert verdict(share) is Verdict.EQUIVALENT
    assert verdict(loss) is not Verdict.EQUIVALENT
    assert np.isnan(loss.p_equivalence)
    assert share.mean == pytest.approx(100 * loss.mean)


@pytest.mark.parametrize(("value", "decimals"), [(0.0021, 4), (0.052, 4), (0.21, 3), (3.4, 2), (25.0, 1), (1234.0, 0)])
def test_decimals_give_three_digits(results, value, decimals):
    assert arrange(results, None, LOSS, accuracies(results, value)).measure.decimals == decimals
    assert arrange(results, None, SHARE, accuracies(results, value)).measure.decimals == 1


def test_bounds():
    assert (ACCURACY.lowest, ACCURACY.highest, ACCURACY.largest_difference) == (0, 100, 100)
    assert (SHARE.lowest, SHARE.highest, SHARE.largest_difference) == (-100, 100, 200)
    assert (LOSS.lowest, LOSS.largest_difference) == (0, np.inf)


def test_runs_without_a_value_have_no_block(results):
    measured = accuracies(results)
    lost = next(iter(measured))
    outcomes = arrange(results, None, LOSS, {key: value for key, value in measured.items() if key != lost})
    assert (outcomes.keys == "").sum() == np.isnan(outcomes.values).sum() == 1
    assert lost not in outcomes.keys
    measured[lost] = float("nan")
    np.testing.assert_array_equal(arrange(results, None, LOSS, measured).keys, outcomes.keys)
