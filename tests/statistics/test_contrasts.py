"""Estimates and tests against hand-computed cases, SciPy and statsmodels."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from ablations.statistics import arrange, cell_means, intervals, power
from ablations.statistics import contrasts as stats
from ablations.statistics import setting_weights as weighing
from ablations.statistics.estimates import effect_size, probability_of_improvement
from tests.support import synthetic_results

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


def studentised(differences):
    """The estimate over its standard error from the spread of seeds within settings, by the definition."""
    settings = [row[np.isfinite(row)] for row in differences]
    settings = [row for row in settings if row.size]
    spread = [row for row in settings if row.size > 1]
    pooled = sum((row.size - 1) * row.var(ddof=1) for row in spread) / sum(row.size - 1 for row in spread)
    variances = [row.var(ddof=1) / row.size if row.size > 1 else pooled for row in settings]
    return np.mean([row.mean() for row in settings]) / np.sqrt(sum(variances) / len(settings) ** 2)


def signed(shape):
    for signs in itertools.product((1, -1), repeat=int(np.prod(shape))):
        yield np.reshape(signs, shape)


@pytest.mark.parametrize("lost", [[], [(0, 1)], [(1, 0), (1, 2)], [(0, 0), (0, 1), (0, 2)]])
def test_sign_flips_are_of_the_studentised_estimate(lost):
    """Whole studies, a lost run, a setting with one seed left, a setting with none."""
    differences = np.random.default_rng(7).normal([[2.0], [0.0], [0.5]], 1, (3, 3))
    for place in lost:
        differences[place] = NAN
    found = np.abs([studentised(signs * differences) for signs in signed((3, 3))])
    observed = abs(studentised(differences))
    assert stats.sign_flip_p(differences) == np.mean(found >= observed * (1 - 1e-9))


def test_differences_between_settings_are_not_noise():
    """A lead in half of the settings is found more often than by the plain mean (all blocks as one setting)."""
    noise = np.random.default_rng(11).normal(size=(400, 4, 3))
    studies = noise + np.array([[2.4], [2.4], [0.0], [0.0]])
    found = [np.mean([stats.sign_flip_p(test(d)) <= 0.05 for d in studies]) for test in (np.asarray, np.ravel)]
    assert found[0] > found[1] + 0.1
    assert np.mean([stats.sign_flip_p(d) <= 0.05 for d in noise]) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 400)


def test_one_seed_in_each_setting_leaves_the_plain_mean():
    assert stats.sign_flip_p(np.array([[3.0], [2.0], [-1.0]])) == stats.sign_flip_p(np.array([3.0, 2.0, -1.0])) == 4 / 8


def test_differences_without_any_spread():
    same = np.full((2, 3), 1.0)
    assert stats.sign_flip_p(same) == 2 / 2**6
    assert stats.sign_flip_p(np.zeros((2, 3))) == 1
    assert stats.sign_flip_p(same * [[1], [-1]]) == 1  # leads that cancel
    tied = np.array([[0.25, 0.25], [0.5, 0.25]])  # counts of images: ties are common
    found = np.abs([studentised(signs * tied) for signs in signed((2, 2)) if np.ptp(signs * tied, axis=1).any()])
    assert stats.sign_flip_p(tied) == (2 + np.sum(found > 1e3)) / 2**4


def test_the_joint_test_is_that_of_the_largest_statistic():
    rng = np.random.default_rng(3)
    first, second = rng.normal(1.0, 1, (2, 3)), rng.normal(0.2, 1, (2, 3))
    largest = [max(abs(studentised(signs * each)) for each in (first, second)) for signs in signed((2, 3))]
    expected = [np.mean(np.array(largest) >= abs(studentised(each)) * (1 - 1e-9)) for each in (first, second)]
    assert stats.joint_sign_flip_p([first, second]) == pytest.approx(expected)
    with_gap = stats.joint_sign_flip_p([first, np.full((2, 3), NAN)])
    assert with_gap[0] == stats.sign_flip_p(first)
    assert np.isnan(with_gap[1])


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
    assert effect_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)
    assert np.isnan(effect_size(np.array([1.0, 1.0])))
    assert np.isnan(effect_size(np.array([1.0])))


def test_probability_of_improvement_equals_mann_whitney_averaged_over_cells():
    a = np.array([[3.0, 5.0, 5.0], [1.0, 2.0, NAN]])
    b = np.array([[3.0, 4.0, 6.0], [2.0, 0.0, 0.0]])
    u = [
        scipy_stats.mannwhitneyu(x[np.isfinite(x)], y).statistic / (np.isfinite(x).sum() * 3)
        for x, y in zip(a, b, strict=True)
    ]
    assert probability_of_improvement(a, b) == pytest.approx(np.mean(u))


@pytest.mark.parametrize(("n", "expected"), [(0, 1.0), (1, 1.0), (3, 0.25), (12, 2 / 4096)])
def test_smallest_p(n, expected):
    assert power.smallest_p(n) == expected
    if n:
        assert stats.sign_flip_p(np.arange(1.0, n + 1)) == expected


@pytest.mark.parametrize(("effect", "n"), [(0.3, 20), (0.8, 12), (1.5, 4)])
def test_t_power_equals_statsmodels(effect, n):
    found = power.t_power(effect * np.sqrt(n), n - 1, 0.05)
    assert found == pytest.approx(TTestPower().power(effect, n, 0.05), abs=1e-9)


def test_seeds_needed_is_the_first_number_with_enough_power():
    differences = np.random.default_rng(5).normal(0.4, 1, (4, 3))
    effect = abs(differences.mean()) / np.sqrt(differences.var(axis=1, ddof=1).mean())
    needed = power.seeds_needed(differences, alpha=0.05)
    assert needed is not None
    assert (
        power.sign_flip_power(effect, [needed] * 4, 0.05) >= 0.8 > power.sign_flip_power(effect, [needed - 1] * 4, 0.05)
    )


def test_seeds_needed_at_the_edges():
    assert power.seeds_needed(np.array([[5.0, 5.1, 4.9]]), alpha=0.05) == 6  # what a sign-flip test needs at all
    assert power.seeds_needed(np.array([[1.0, -1.0]]), alpha=0.05) is None
    assert power.seeds_needed(np.array([[1.0, NAN]]), alpha=0.05) is None
    assert power.seeds_needed(np.array([[1.0, 1.0], [2.0, 2.0]]), alpha=0.05) is None
    assert power.seeds_needed(np.array([[1000.0, 1000.001]]), alpha=0.05) == 6


def test_equivalence_p_equals_statsmodels():
    x = np.random.default_rng(6).normal(0.1, 0.4, 12)
    assert power.equivalence_p(x) == pytest.approx(DescrStatsW(x).ttost_mean(-0.5, 0.5)[0])
    assert np.isnan(power.equivalence_p(np.zeros(3)))  # counts of images agree by rounding: nothing is known
    assert np.isnan(power.equivalence_p(np.ones(3)))
    assert np.isnan(power.equivalence_p(np.array([0.1])))


def test_contrasts_follow_from_the_blocks():
    outcomes = arrange(synthetic_results.make())
    assert outcomes.values.shape == (4, 4, 3)
    contrast = stats.baseline_contrasts(outcomes)[2]
    blocks = (outcomes.values[3] - outcomes.values[0]).ravel()
    assert (contrast.subject, contrast.reference, contrast.n, contrast.cells) == ("rope", "none", 12, 4)
    assert contrast.mean == pytest.approx(blocks.mean())
    assert contrast.p == stats.sign_flip_p(blocks) == 2 / 2**12
    assert contrast.p_adjusted == pytest.approx(3 * contrast.p)
    assert contrast.low < contrast.mean < contrast.high
    assert len(contrast.runs) == 24
    paired = scipy_stats.ttest_rel(outcomes.values[3].ravel(), outcomes.values[0].ravel())
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
    a = outcomes.values  # cells in the order (2, 2), (2, 4), (4, 2), (4, 4)
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
    table = cell_means(arrange(results)).set_index(["position", "depth", "patch"])
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


def test_the_error_of_settings_with_spreads_of_their_own_by_hand():
    # Variances 2 and 8 of two seeds each: the mean of two means varies by (2 / 2 + 8 / 2) / 4. (0.25 + 1)^2 over
    # (0.25^2 + 1^2) / 3 is 4.41, less 2.
    error, freedom = intervals.estimate_error(np.array([[0.0, 2.0, NAN], [4.0, 8.0, NAN]]))
    assert (error, freedom) == pytest.approx((np.sqrt(1.25), 2))  # at most the two there are
    error, freedom = intervals.estimate_error(np.array([[0.0, 2.0], [4.0, 8.0], [1.0, 1.1]]))
    parts = np.array([2.0, 8.0, 0.005]) / 2 / 9
    assert (error, freedom) == pytest.approx((np.sqrt(parts.sum()), 3 * parts.sum() ** 2 / (parts**2).sum() - 2))


def test_one_setting_with_all_the_spread_has_its_degrees_of_freedom_only():
    differences = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [0.0, 3.0, 6.0]])
    assert intervals.estimate_error(differences) == pytest.approx((np.sqrt(9 / 3 / 9), 2))


def test_a_setting_with_one_block_has_the_spread_of_the_others():
    # Variance 1 from three seeds for both: (1 / 3 + 1 / 1) / 4.
    error, freedom = intervals.estimate_error(np.array([[1.0, 2.0, 3.0], [2.0, NAN, NAN]]))
    assert (error, freedom) == pytest.approx((np.sqrt(1 / 3), 2))


def test_paired_interval_reaches_further_on_the_long_side():
    skewed = np.exp(np.random.default_rng(7).normal(size=(2, 8)))
    low, high = intervals.paired_interval(skewed)
    error, freedom = intervals.estimate_error(skewed)
    half = scipy_stats.t.ppf(0.975, freedom) * error
    assert skewed.mean() - low == pytest.approx(half)
    assert high - skewed.mean() > 1.1 * half


def test_resamples_are_of_the_seeds_within_each_setting():
    # A setting with all the spread: means vary as its seeds do, whatever the quiet one has.
    differences = np.array([[0.0, 0.0, 0.0, 0.0, 0.0], [-2.0, -1.0, 0.0, 1.0, 2.0]])
    both = np.quantile(intervals.studentised_bootstrap(differences), [0.025, 0.5, 0.975])
    alone = np.quantile(intervals.studentised_bootstrap(differences[1:]), [0.025, 0.5, 0.975])
    assert both == pytest.approx(alone, abs=0.25)


def test_a_lost_run_does_not_change_what_is_estimated():
    """A lead of 22 points in one setting and of 1 in the other: 11.5, whichever runs are lost."""
    leads = np.array([[22.0, 22.1, 21.9], [0.9, 1.0, 1.1]])
    whole = weighing.estimate(leads)
    assert whole == leads.mean() == pytest.approx(11.5)
    lost = leads.copy()
    lost[1, 1:] = NAN
    assert np.nanmean(lost) == pytest.approx(16.725)
    assert weighing.estimate(lost) == pytest.approx((22 + 0.9) / 2)
    low, high = intervals.paired_interval(lost)
    assert low + high == pytest.approx(22 + 0.9)
    lost[1] = NAN
    assert weighing.estimate(lost) == pytest.approx(22)  # of the settings that have some
    assert np.isnan(weighing.estimate(lost[1:]))


def test_sign_flips_of_a_setting_with_one_seed_by_hand():
    # t^2 = 16/3, 3/4, 1/12 and 0, twice each: the setting with one seed borrows the variance of the other.
    differences = np.array([[1.0, 3.0], [2.0, NAN]])
    assert stats.sign_flip_p(differences) == 2 / 8
    assert stats.sign_flip_p(np.array([[-1.0, 3.0], [2.0, NAN]])) == 4 / 8
    assert stats.sign_flip_p(np.array([[1.0, 3.0], [-2.0, NAN]])) == 1


def test_equivalence_agrees_with_the_interval():
    """An interval of 95 % within the margin goes with a p of at most 0.025, also where settings differ."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        differences = rng.normal([[0.4], [-0.4]], 0.4, (2, 5))
        low, high = intervals.paired_interval(differences)
        p = power.equivalence_p(differences)
        if low >= -0.5 and high <= 0.5:
            inside += 1
            assert p <= 0.025
    assert inside > 50
    assert np.isnan(power.equivalence_p(np.array([[0.1], [0.2]])))  # as the interval


def test_power_with_unequal_settings_is_how_often_the_weighted_test_rejects():
    rng = np.random.default_rng(9)
    rejected = []
    for _ in range(3000):
        differences = np.full((3, 4), NAN)
        draw = rng.normal if rng.random() < 0.5 else lambda size: rng.laplace(scale=2**-0.5, size=size)
        for row, count in zip(differences, (4, 3, 2), strict=True):
            row[:count] = 1.2 + draw(size=count)
        rejected.append(stats.sign_flip_p(differences) <= 0.05)
    assert power.sign_flip_power(1.2, (4, 3, 2), 0.05) == pytest.approx(np.mean(rejected), abs=0.025)
    by_setting = [power.sign_flip_power(1.2, counts, 0.05) for counts in ((4, 3, 2), (3, 3, 3), 9)]
    assert by_setting == sorted(by_setting)


@pytest.mark.parametrize(("blocks", "alpha", "effect"), [(6, 0.05, 1.0), (8, 0.05 / 3, 1.0), (10, 0.05, 0.5)])
def test_sign_flip_power_is_how_often_the_test_rejects(blocks, alpha, effect):
    rng = np.random.default_rng(8)
    draws = {"normal": rng.normal(size=(1500, blocks)), "laplace": rng.laplace(scale=2**-0.5, size=(1500, blocks))}
    found = {name: np.mean([stats.sign_flip_p(effect + row) <= alpha for row in each]) for name, each in draws.items()}
    for noise, share in found.items():
        assert power.power_under(noise, effect, blocks, alpha) == pytest.approx(share, abs=0.035)
    assert power.sign_flip_power(effect, blocks, alpha) == pytest.approx(np.mean(list(found.values())), abs=0.025)


def test_tails_do_not_change_the_power_of_many_blocks():
    for effect in (0.1, 0.2, 0.3):
        normal, laplace = (
            power.power_under(noise, effect, power.ALIKE_BLOCKS, 0.05) for noise in ("normal", "laplace")
        )
        assert laplace == pytest.approx(normal, abs=0.01)
    assert power.sign_flip_power(0.2, 101, 0.05) == pytest.approx(power.t_power(0.2 * np.sqrt(101), 100, 0.05))


def test_sign_flip_power_at_its_edges():
    assert power.sign_flip_power(9.0, 5, 0.05) == 0  # 2 / 2^5 > 0.05
    assert power.sign_flip_power(9.0, 6, 0.05) == 1
    assert power.sign_flip_power(0.0, 10, 0.05) == pytest.approx(50 / 1024, abs=0.01)
    assert power.power_under("normal", 0.8, 12, 0.05) == pytest.approx(
        power.t_power(0.8 * np.sqrt(12), 11, 0.05), abs=0.02
    )
