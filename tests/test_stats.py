"""Estimates and tests against hand-computed cases, SciPy and statsmodels."""

import numpy as np
import pytest
import synthetic_results
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from ablations import intervals, power, stats
from ablations.outcomes import arrange

NAN = np.nan


def test_sign_flip_p_of_a_case_done_by_hand():
    # Signs of (3, 2, 1): |sum| is 6, 4, 2, 0 for two of the eight patterns each.
    assert stats.sign_flip_p(np.array([3.0, 2.0, 1.0])) == 2 / 8
    assert stats.sign_flip_p(np.array([3.0, 2.0, -1.0])) == 4 / 8
    assert stats.sign_flip_p(np.array([1.0, -1.0])) == 1.0
    assert stats.sign_flip_p(np.zeros(4)) == 1.0
    assert np.isnan(stats.sign_flip_p(np.array([NAN])))


@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_sign_flip_p_equals_scipy(n):
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    exact = scipy_stats.permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert stats.sign_flip_p(differences) == pytest.approx(exact.pvalue, abs=1e-12)


def test_sign_flip_p_is_exact_up_to_16_blocks_and_close_beyond():
    rng = np.random.default_rng(0)
    sixteen = rng.normal(0.5, 1, 16)
    signs = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    assert stats.sign_flip_p(sixteen) == np.mean(np.abs(signs @ sixteen) >= abs(sixteen.sum()) - 1e-9)
    forty = rng.normal(0.3, 1, 40)
    assert stats.sign_flip_p(forty) == pytest.approx(scipy_stats.ttest_1samp(forty, 0).pvalue, abs=0.01)
    assert stats.sign_flip_p(forty) == stats.sign_flip_p(forty)
    assert stats.sign_flip_p(np.full(40, 5.0)) == 2**-16


def test_joint_sign_flip_p_of_one_mean_is_the_single_test_and_of_copies_costs_nothing():
    x = np.random.default_rng(1).normal(0.7, 1, 8)
    single = stats.sign_flip_p(x)
    assert stats.joint_sign_flip_p(x[None]) == pytest.approx([single])
    assert stats.joint_sign_flip_p(np.stack([x, x, -x])) == pytest.approx([single] * 3)


def test_joint_sign_flip_p_by_hand():
    # Block signs ++, +-, -+, --: the means are +-(2, 1) and +-(1, 0), the largest 2, 1, 1, 2.
    differences = np.array([[3.0, 1.0], [1.0, 1.0]])
    assert stats.joint_sign_flip_p(differences) == pytest.approx([0.5, 1.0])


def test_joint_sign_flip_p_beyond_16_blocks_agrees_with_the_single_test():
    x = np.random.default_rng(2).normal(0.35, 1, 30)
    assert stats.joint_sign_flip_p(x[None])[0] == pytest.approx(stats.sign_flip_p(x), abs=0.01)


def test_holm_equals_statsmodels_and_leaves_out_what_is_unknown():
    p = [0.01, 0.04, 0.03, 0.5]
    assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert stats.holm(p)[:2] == pytest.approx([0.04, 0.09])
    with_gap = stats.holm([0.01, NAN, 0.04])
    assert with_gap[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(with_gap[1])


def test_t_interval_equals_scipy():
    values = np.array([90.1, 91.4, 92.0, NAN])
    reference = scipy_stats.ttest_1samp(values[:3], 0).confidence_interval(0.95)
    assert intervals.t_interval(values) == pytest.approx((reference.low, reference.high))
    assert np.isnan(intervals.t_interval(np.array([3.0]))).all()


def test_paired_interval_takes_its_spread_from_within_cells_only():
    # Cells far apart, seeds alike: all spread lies between cells and none of it may widen the interval.
    low, high = intervals.paired_interval(np.array([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]))
    assert (low, high) == (5.0, 5.0)


def test_paired_interval_agrees_with_student_for_many_seeds():
    differences = np.random.default_rng(3).normal(1, 2, (1, 200))
    expected = intervals.t_interval(differences[0])
    assert intervals.paired_interval(differences, resamples=40_000) == pytest.approx(expected, abs=0.02)


def test_paired_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(400):
        low, high = intervals.paired_interval(rng.normal(0.3, 1, (4, 3)), resamples=1000, seed=trial)
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_paired_interval_of_one_seed_is_unknown_and_a_lonely_seed_borrows_spread():
    assert np.isnan(intervals.paired_interval(np.array([[1.0], [2.0]]))).all()
    low, high = intervals.paired_interval(np.array([[1.0, 2.0, 3.0], [2.0, NAN, NAN]]))
    assert low < 2 < high


def test_effect_size_by_hand():
    assert stats.effect_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)
    assert np.isnan(stats.effect_size(np.array([1.0, 1.0])))
    assert np.isnan(stats.effect_size(np.array([1.0])))


def test_probability_of_improvement_equals_mann_whitney_averaged_over_cells():
    a = np.array([[3.0, 5.0, 5.0], [1.0, 2.0, NAN]])
    b = np.array([[3.0, 4.0, 6.0], [2.0, 0.0, 0.0]])
    u = [
        scipy_stats.mannwhitneyu(x[np.isfinite(x)], y).statistic / (np.isfinite(x).sum() * 3)
        for x, y in zip(a, b, strict=True)
    ]
    assert stats.probability_of_improvement(a, b) == pytest.approx(np.mean(u))


@pytest.mark.parametrize(("n", "expected"), [(0, 1.0), (1, 1.0), (3, 0.25), (12, 2 / 4096)])
def test_smallest_p(n, expected):
    assert power.smallest_p(n) == expected
    if n:
        assert stats.sign_flip_p(np.arange(1.0, n + 1)) == expected


@pytest.mark.parametrize(("effect", "n"), [(0.3, 20), (0.8, 12), (1.5, 4)])
def test_paired_power_equals_statsmodels(effect, n):
    assert power.paired_power(effect, n, 0.05) == pytest.approx(TTestPower().power(effect, n, 0.05), abs=1e-9)


def test_seeds_needed_is_the_first_number_with_enough_power():
    differences = np.random.default_rng(5).normal(0.4, 1, (4, 3))
    effect = abs(stats.effect_size(differences))
    needed = power.seeds_needed(differences, alpha=0.05)
    assert needed is not None
    assert (
        power.sign_flip_power(effect, 4 * needed, 0.05) >= 0.8 > power.sign_flip_power(effect, 4 * (needed - 1), 0.05)
    )


def test_seeds_needed_at_the_edges():
    assert power.seeds_needed(np.array([[5.0, 5.1, 4.9]]), alpha=0.05) == 6  # what a sign-flip test needs at all
    assert power.seeds_needed(np.array([[1.0, -1.0]]), alpha=0.05) is None
    assert power.seeds_needed(np.array([[1.0, NAN]]), alpha=0.05) is None
    assert power.seeds_needed(np.array([[1000.0, 1000.001]]), alpha=0.05) == 6


def test_equivalence_p_equals_statsmodels():
    x = np.random.default_rng(6).normal(0.1, 0.4, 12)
    assert power.equivalence_p(x) == pytest.approx(DescrStatsW(x).ttost_mean(-0.5, 0.5)[0])
    assert np.isnan(power.equivalence_p(np.zeros(3)))  # counts of images agree by rounding: nothing is known
    assert np.isnan(power.equivalence_p(np.ones(3)))
    assert np.isnan(power.equivalence_p(np.array([0.1])))


def test_contrasts_follow_from_the_blocks():
    outcomes = arrange(synthetic_results.make())
    assert outcomes.accuracy.shape == (4, 4, 3)
    contrast = stats.baseline_contrasts(outcomes)[2]
    blocks = (outcomes.accuracy[3] - outcomes.accuracy[0]).ravel()
    assert (contrast.subject, contrast.reference, contrast.n, contrast.cells) == ("rope", "none", 12, 4)
    assert contrast.mean == pytest.approx(blocks.mean())
    assert contrast.p == stats.sign_flip_p(blocks) == 2 / 2**12
    assert contrast.p_adjusted == pytest.approx(3 * contrast.p)
    assert contrast.low < contrast.mean < contrast.high
    assert len(contrast.runs) == 24
    paired = scipy_stats.ttest_rel(outcomes.accuracy[3].ravel(), outcomes.accuracy[0].ravel())
    assert contrast.effect_size == pytest.approx(paired.statistic / np.sqrt(12))
    assert len(stats.all_contrasts(outcomes)) == 6
    assert all(c.mean >= 0 for c in stats.all_contrasts(outcomes))


def test_missing_runs_leave_complete_pairs():
    results = synthetic_results.make(missing=lambda c: c.position == "rope" and c.patch == 4 and c.seed == 2)
    outcomes = arrange(results)
    assert [c.n for c in stats.baseline_contrasts(outcomes)] == [12, 12, 10]
    assert [(outcomes.cell_name(c), outcomes.seeds[s], arms) for c, s, arms in outcomes.incomplete_blocks()] == [
        ("depth 2, patch 4", 2, [3]),
        ("depth 4, patch 4", 2, [3]),
    ]
    assert {i.change.n for i in stats.interactions(outcomes, "patch")} == {4}


def test_an_arm_without_runs_has_a_contrast_without_numbers():
    results = synthetic_results.make(missing=lambda c: c.position == "rope")
    contrast = stats.baseline_contrasts(arrange(results))[2]
    assert contrast.n == 0
    assert np.isnan([contrast.mean, contrast.low, contrast.p, contrast.p_adjusted]).all()
    assert contrast.seeds_needed is None


def test_interactions_are_differences_of_differences():
    outcomes = arrange(synthetic_results.make())
    a = outcomes.accuracy  # cells in the order (2, 2), (2, 4), (4, 2), (4, 4)
    lead = a[3] - a[0]
    expected = (lead[[1, 3]] - lead[[0, 2]]).mean()
    found = stats.interactions(outcomes, "patch")[2]
    assert (found.from_level, found.level, found.change.n) == ("2", "4", 6)
    assert found.change.mean == pytest.approx(expected) == pytest.approx(found.lead - found.from_lead)
    assert found.change.p == 2 / 2**6 == found.change.p_adjusted
    assert found.change.low < found.change.mean < found.change.high < 0
    assert len(found.change.runs) == 24


def test_cell_means_match_pandas():
    results = synthetic_results.make()
    table = stats.cell_means(arrange(results)).set_index(["position", "depth", "patch"])
    groups = results.runs.groupby(["position", "depth", "patch"])["test_accuracy"]
    for (position, depth, patch), mean in groups.mean().items():
        row = table.loc[(position, str(depth), str(patch))]
        assert row["mean"] == pytest.approx(100 * mean)
        assert row["n"] == 3


def test_arms_are_the_axis_that_varies():
    base = synthetic_results.RunConfig(position="rope")
    outcomes = arrange(synthetic_results.make({"depth": (1, 2, 4)}, base=base, baseline="rope"))
    assert outcomes.axis == "depth"
    assert [outcomes.arm_name(i) for i in range(3)] == ["depth 1", "depth 2", "depth 4"]
    assert (outcomes.baseline, outcomes.cells) == (0, ((),))
    assert arrange(synthetic_results.make({"depth": (1, 2, 4)}, baseline="4", base=base)).baseline == 2


def test_paired_interval_of_few_pairs_is_students_with_pooled_spread():
    # Deviations +-1 in two cells of two: variance 4 / 2 on 2 degrees of freedom, mean 3.
    half = scipy_stats.t.ppf(0.975, 2) * np.sqrt(2.0 / 4)
    assert intervals.paired_interval(np.array([[0.0, 2.0], [4.0, 6.0]])) == pytest.approx((3 - half, 3 + half))


def test_paired_interval_reaches_further_on_the_long_side():
    skewed = np.exp(np.random.default_rng(7).normal(size=(2, 8)))
    low, high = intervals.paired_interval(skewed)
    mean, spread = skewed.mean(), np.sqrt(skewed.var(axis=1, ddof=1).mean())
    half = scipy_stats.t.ppf(0.975, 14) * spread / 4
    assert mean - low == pytest.approx(half)
    assert high - mean > 1.2 * half


@pytest.mark.parametrize(("blocks", "alpha", "effect"), [(6, 0.05, 1.0), (8, 0.05 / 3, 1.0), (10, 0.05, 0.5)])
def test_sign_flip_power_is_how_often_the_test_rejects(blocks, alpha, effect):
    rng = np.random.default_rng(8)
    rejected = [stats.sign_flip_p(rng.normal(effect, 1, blocks)) <= alpha for _ in range(1500)]
    assert power.sign_flip_power(effect, blocks, alpha) == pytest.approx(np.mean(rejected), abs=0.035)


def test_sign_flip_power_at_its_edges():
    assert power.sign_flip_power(9.0, 5, 0.05) == 0  # 2 / 2^5 > 0.05
    assert power.sign_flip_power(9.0, 6, 0.05) == 1
    assert power.sign_flip_power(0.0, 10, 0.05) == pytest.approx(50 / 1024, abs=0.01)
    assert power.sign_flip_power(0.8, 12, 0.05) == pytest.approx(power.paired_power(0.8, 12, 0.05), abs=0.02)
