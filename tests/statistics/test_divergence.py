"""How often arms diverge: hand-computed counts, exact intervals and tests from SciPy and statsmodels."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from ablations.config import SequentialDesign
from ablations.statistics import Analysis, analyse, arrange, diverged_keys
from ablations.statistics.divergence import divergences
from tests.support import synthetic_results

AXES = {"position": ("none", "learned", "rope"), "patch": (2, 4)}


def wild(config):
    """rope diverges in 5 of 12 runs, none in 1, in the same pair as one of these."""
    return (config.position, config.patch, config.seed) in {
        *(("rope", 2, seed) for seed in (0, 1, 2)),
        *(("rope", 4, seed) for seed in (0, 5)),
        ("none", 2, 0),
    }


def study(**changes):
    return synthetic_results.make(AXES, range(6), survives=lambda config: not wild(config), **changes)


def test_without_a_diverged_run_there_is_nothing_to_say():
    analysis = Analysis(arrange(synthetic_results.make(AXES)))
    assert analysis.divergences == analysis.contrasts_without_diverged == []


def test_shares_intervals_and_tests_are_exact():
    results = study()
    none, learned, rope = divergences(arrange(results))
    assert [(d.diverged, d.runs) for d in (none, learned, rope)] == [(1, 12), (0, 12), (5, 12)]
    assert rope.share == pytest.approx(100 * 5 / 12)
    for found in (none, learned, rope):
        expected = proportion_confint(found.diverged, found.runs, method="beta")
        assert (found.low, found.high) == pytest.approx([100 * end for end in expected])
    assert (rope.pairs, rope.only_arm, rope.only_baseline) == (12, 4, 0)
    assert rope.p == pytest.approx(mcnemar([[1, 4], [0, 7]], exact=True).pvalue) == pytest.approx(2 / 2**4)
    assert (learned.only_arm, learned.only_baseline, learned.p) == (0, 1, 1.0)
    assert rope.p_adjusted == pytest.approx(2 * rope.p)
    assert np.isnan([none.p, none.p_adjusted]).all()
    assert len(rope.keys) == 12
    assert len(diverged_keys(results)) == 6


def test_lost_runs_are_no_diverged_runs():
    lost = {("rope", 4, 0), ("none", 2, 1)}
    results = study(missing=lambda config: (config.position, config.patch, config.seed) in lost)
    none, _, rope = divergences(arrange(results))
    assert (none.diverged, none.runs, rope.diverged, rope.runs) == (1, 11, 4, 11)
    assert (rope.pairs, rope.only_arm, rope.only_baseline) == (10, 2, 0)


def test_the_contrasts_with_and_without_diverged_runs():
    analysis = Analysis(arrange(study()))
    accuracy = analysis.outcomes.values
    np.testing.assert_allclose(accuracy[analysis.outcomes.has_diverged], 10.0)
    _, rope = analysis.contrasts
    assert rope.n == 12
    assert rope.mean == pytest.approx((accuracy[2] - accuracy[0]).mean())
    _, without = analysis.contrasts_without_diverged
    left = [np.setdiff1d(range(6), gone) for gone in ([0, 1, 2], [0, 5])]
    assert without.n == 7
    assert without.mean == pytest.approx(np.mean([(accuracy[2, g] - accuracy[0, g])[left[g]].mean() for g in (0, 1)]))
    assert not set(without.runs) & diverged_keys(study())


def test_a_study_that_grows_counts_up_to_the_last_complete_round():
    results = synthetic_results.make(
        {"position": ("none", "rope")},
        range(6),
        design=SequentialDesign(3, 12),  # analyses after 3, 4, 5, 7, ... seeds
        survives=lambda config: config.position == "none" or config.seed < 4,
    )
    none, rope = analyse(results).divergences
    assert (none.runs, rope.diverged, rope.runs, rope.pairs) == (5, 1, 5, 5)


def test_main_effects_take_a_mean_over_a_diverged_run_for_diverged():
    averaged = arrange(study()).averaged("patch")
    assert averaged.has_diverged[:, 0].tolist() == [
        [True, True, True, False, False, False],
        [True, False, False, False, False, True],
    ]


def test_intervals_of_differences_end_where_no_difference_is_possible():
    results = synthetic_results.make(
        {"position": ("none", "rope")}, range(6), survives=lambda c: c.position == "none" or c.seed not in (1, 4)
    )
    (contrast,) = Analysis(arrange(results)).contrasts
    assert contrast.low == -100.0 < contrast.mean < contrast.high < 100.0
    d = np.array(arrange(results).values[1, 0] - arrange(results).values[0, 0])
    assert contrast.high >= d.mean() + scipy_stats.t.ppf(0.975, 5) * scipy_stats.sem(d) - 1e-9
