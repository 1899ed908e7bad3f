"""Ranks over settings and main effects, by hand and against SciPy and Demšar's table of critical values."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ablations.statistics import Outcomes, Ranks, arrange, rank_arms
from ablations.statistics import contrasts as stats
from ablations.statistics.ranks import friedman_p
from tests.support import synthetic_results

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
    accuracy = np.random.default_rng(0).normal(80, 1, (4, 30, 2)) + 0.3 * np.arange(4)[:, None, None]
    found = rank_arms(outcomes(accuracy))
    means = accuracy.mean(axis=2)
    assert found.mean_ranks == pytest.approx(scipy_stats.rankdata(-means, axis=0).mean(axis=1))
    assert found.p == pytest.approx(scipy_stats.friedmanchisquare(*means).pvalue, abs=0.01)  # both for many cells
    assert found.cells == 30


@pytest.mark.parametrize(
    ("order", "p"),
    [
        # The tables of exact p values that books print for Friedman's statistic.
        ([[1, 2, 3]] * 3, 0.028),  # k = 3, N = 3: 6.0
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 3, 2]], 0.042),  # k = 3, N = 4: 6.5
        ([[1, 2, 3]] * 4, 0.0046),  # 8.0
        ([[1, 2, 3, 4]] * 2, 0.042),  # k = 4, N = 2: 6.0
        ([[1, 2, 3, 4], [1, 2, 3, 4], [1, 3, 2, 4]], 0.0174),  # k = 4, N = 3: 8.2 (chi-square: 0.042)
    ],
)
def test_friedmans_p_is_that_of_the_exact_tables(order, p):
    assert friedman_p(np.array(order, dtype=float)) == pytest.approx(p, rel=0.02)


def test_friedmans_p_from_random_orders_is_close_to_the_exact_one():
    each = np.array([[1.0, 2.0, 3.0, 4.0]] * 3 + [[2.0, 1.0, 4.0, 3.0]] * 2)
    sums = each[:1]
    for row in each[1:]:
        sums = (sums[:, None] + np.array(list(itertools.permutations(row)))).reshape(-1, 4)
    exact = np.mean((sums**2).sum(axis=1) >= (each.sum(axis=0) ** 2).sum())
    assert friedman_p(each) == pytest.approx(exact, abs=0.001)


@pytest.mark.parametrize(("arms", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_demsars(arms, q):
    accuracy = np.random.default_rng(1).normal(80, 1, (arms, 14, 1))
    assert rank_arms(outcomes(accuracy)).critical == pytest.approx(q * np.sqrt(arms * (arms + 1) / (6 * 14)), rel=1e-3)


def test_ties_share_a_rank_and_equal_arms_are_no_difference():
    found = rank_arms(outcomes([[[1.0], [1.0]], [[1.0], [1.0]], [[1.0], [1.0]]]))
    assert found.mean_ranks == (2.0, 2.0, 2.0)
    assert found.p == 1.0


def test_cells_without_a_whole_seed_do_not_count():
    accuracy = np.random.default_rng(2).normal(80, 1, (3, 3, 2))
    accuracy[0, 0, :] = NAN
    accuracy[1, 1, 0] = NAN
    found = rank_arms(outcomes(accuracy))
    second = scipy_stats.rankdata(-accuracy[:, 1, 1])
    third = scipy_stats.rankdata(-accuracy[:, 2].mean(axis=1))
    assert found.cells == 2
    assert found.mean_ranks == pytest.approx((second + third) / 2)
    accuracy[2, 1, 1] = NAN
    assert rank_arms(outcomes(accuracy)) is None


def test_groups_are_the_arms_within_the_critical_difference():
    found = Ranks(("a", "b", "c", "d"), (3.9, 1.0, 1.9, 3.0), 20, 0.01, 1.05)
    assert found.groups == [("b", "c"), ("d", "a")]
    assert Ranks(("a", "b", "c"), (1.0, 1.9, 2.8), 9, 0.01, 1.0).groups == [("a", "b"), ("b", "c")]
    assert Ranks(("a", "b", "c"), (1.0, 2.0, 3.0), 99, 0.01, 0.5).groups == []


def test_averaged_is_the_mean_over_the_arms_of_the_levels_of_another_axis():
    whole = arrange(
        synthetic_results.make(missing=lambda c: (c.position, c.depth, c.patch, c.seed) == ("rope", 2, 4, 1))
    )
    turned = whole.averaged("patch")
    assert (turned.axis, turned.arms, turned.cell_axes, turned.cells) == ("patch", (2, 4), ("depth",), ((2,), (4,)))
    a, keys = whole.values.reshape(4, 2, 2, 3), whole.keys.reshape(4, 2, 2, 3)  # arms, depths, patches, seeds
    np.testing.assert_array_equal(turned.values, a.mean(axis=0).transpose(1, 0, 2))
    assert np.isnan(turned.values[1, 0, 1])  # one of the four arms is lost
    assert np.isfinite(turned.values).sum() == 11
    assert sorted(turned.keys[1, 1, 2]) == sorted(keys[:, 1, 1, 2])


def test_a_main_effect_counts_the_arms_of_a_seed_once():
    """Runs of one seed and setting share their luck, whatever the arm: 2 depths x 3 seeds are 6 pairs, and not 24."""
    whole = arrange(synthetic_results.make())
    (effect,) = stats.main_effects(whole, "patch")
    a = whole.values.reshape(4, 2, 2, 3)
    assert (effect.subject, effect.reference, effect.n, effect.cells) == ("patch 4", "patch 2", 6, 2)
    assert effect.mean == pytest.approx(a[:, :, 1].mean() - a[:, :, 0].mean())
    assert effect.p == 2 / 2**6
    assert len(effect.runs) == 48


@pytest.mark.slow
def test_shared_luck_alone_is_no_main_effect():
    """Blocks that shift all their arms by one draw: of 200 studies without an effect about 5 % find one."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        accuracy = 80 + rng.normal(size=(1, 2, 8)) + 0.1 * rng.normal(size=(4, 2, 8))
        found += stats.main_effects(outcomes(accuracy), "depth")[0].p_adjusted <= 0.05
    assert found <= 18  # 10 and 2.6 standard errors
