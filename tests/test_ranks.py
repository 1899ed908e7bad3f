"""Ranks over settings and main effects, by hand and against SciPy and Demšar's table of critical values."""

import numpy as np
import pytest
import synthetic_results
from scipy import stats as scipy_stats

from ablations import stats
from ablations.outcomes import Outcomes, arrange
from ablations.ranks import Ranks, ranks

NAN = np.nan


def outcomes(accuracy) -> Outcomes:
    accuracy = np.asarray(accuracy, dtype=float)
    arms, cells, seeds = accuracy.shape
    names = tuple(f"arm{i}" for i in range(arms))
    keys = np.full(accuracy.shape, "k", dtype="<U64")
    return Outcomes(
        "position", names, ("depth",), tuple((i,) for i in range(cells)), tuple(range(seeds)), 0, accuracy, keys
    )


def test_mean_ranks_and_friedman():
    accuracy = np.random.default_rng(0).normal(80, 1, (4, 6, 2)) + np.arange(4)[:, None, None]
    found = ranks(outcomes(accuracy))
    means = accuracy.mean(axis=2)
    assert found.mean_ranks == pytest.approx(scipy_stats.rankdata(-means, axis=0).mean(axis=1))
    assert found.p == pytest.approx(scipy_stats.friedmanchisquare(*means).pvalue)
    assert found.cells == 6


@pytest.mark.parametrize(("arms", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_demsars(arms, q):
    accuracy = np.random.default_rng(1).normal(80, 1, (arms, 14, 1))
    assert ranks(outcomes(accuracy)).critical == pytest.approx(q * np.sqrt(arms * (arms + 1) / (6 * 14)), rel=1e-3)


def test_ties_share_a_rank_and_equal_arms_are_no_difference():
    found = ranks(outcomes([[[1.0], [1.0]], [[1.0], [1.0]], [[1.0], [1.0]]]))
    assert found.mean_ranks == (2.0, 2.0, 2.0)
    assert found.p == 1.0


def test_cells_without_a_whole_seed_do_not_count():
    accuracy = np.random.default_rng(2).normal(80, 1, (3, 3, 2))
    accuracy[0, 0, :] = NAN
    accuracy[1, 1, 0] = NAN
    found = ranks(outcomes(accuracy))
    second = scipy_stats.rankdata(-accuracy[:, 1, 1])
    third = scipy_stats.rankdata(-accuracy[:, 2].mean(axis=1))
    assert found.cells == 2
    assert found.mean_ranks == pytest.approx((second + third) / 2)
    accuracy[2, 1, 1] = NAN
    assert ranks(outcomes(accuracy)) is None


def test_groups_are_the_arms_within_the_critical_difference():
    found = Ranks(("a", "b", "c", "d"), (3.9, 1.0, 1.9, 3.0), 20, 0.01, 1.05)
    assert found.groups == [("b", "c"), ("d", "a")]
    assert Ranks(("a", "b", "c"), (1.0, 1.9, 2.8), 9, 0.01, 1.0).groups == [("a", "b"), ("b", "c")]
    assert Ranks(("a", "b", "c"), (1.0, 2.0, 3.0), 99, 0.01, 0.5).groups == []


def test_along_compares_the_levels_of_another_axis():
    results = synthetic_results.make()
    whole = arrange(results)
    turned, direct = whole.along("patch"), arrange(results, "patch")
    assert (turned.axis, turned.arms, turned.cell_axes) == ("patch", (2, 4), ("position", "depth"))
    assert turned.cells == direct.cells
    assert np.array_equal(turned.accuracy, direct.accuracy)
    assert np.array_equal(turned.keys, direct.keys)


def test_a_main_effect_is_the_mean_over_all_else():
    whole = arrange(synthetic_results.make())
    (effect,) = stats.baseline_contrasts(whole.along("patch"))
    a = whole.accuracy.reshape(4, 2, 2, 3)
    assert (effect.subject, effect.reference, effect.n) == ("patch 4", "patch 2", 24)
    assert effect.mean == pytest.approx(a[:, :, 1].mean() - a[:, :, 0].mean())
