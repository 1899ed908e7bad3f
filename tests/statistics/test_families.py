"""Families over several measures, means of arms, and pairs of confused classes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from ablations.statistics import (
    Measure,
    Outcomes,
    analyse,
    arrange,
    compare_confusions,
    holm,
    joined_family,
    means_of_arms,
    paired_interval,
)
from ablations.statistics.confusions import joint_sum_p, paired_matrices
from ablations.statistics.permutation import joint_sign_flip_p
from tests.support import synthetic_results

LOSS = Measure("a:loss", "loss", "nats", higher_is_better=False)
SHARE = Measure("a:share", "share")


@pytest.fixture(scope="module")
def results():
    return synthetic_results.make()


def measured(results, factor=1.0, missing=lambda row: False):
    rows = results.runs.to_dict("records")
    return {row["key"]: factor * row["test_accuracy"] for row in rows if not missing(row)}


def test_the_measures_of_an_arm_are_tested_jointly(results):
    noise = np.random.default_rng(0)
    noisy = {key: value + 5 * noise.standard_normal() for key, value in measured(results).items()}
    analyses = [analyse(results, LOSS, noisy), analyse(results, SHARE, measured(results))]
    own = [contrast for analysis in analyses for contrast in analysis.contrasts]
    family = joined_family(analyses)
    assert [c.measure.name for c in family] == ["a:loss"] * 3 + ["a:share"] * 3
    base = analyses[0].outcomes.baseline
    for i, arm in enumerate((1, 2, 3)):
        differences = [analysis.outcomes.differences(arm, base) for analysis in analyses]
        joint = np.minimum(3 * joint_sign_flip_p(differences), 1)
        np.testing.assert_array_equal([family[i].p_adjusted, family[3 + i].p_adjusted], joint)
        assert (joint >= np.minimum([3 * own[i].p, 3 * own[3 + i].p], 1)).all()
    assert {c.correction for c in family} == {"adjusted"}
    assert {c.family for c in family} == {6}
    assert [c.p_adjusted_smallest for c in family] == pytest.approx([3 * c.p_smallest for c in own])
    assert [c.mean for c in family] == [c.mean for c in own]
    assert {c.seeds_needed for c in family} == {None}
    assert np.isnan([c.p_equivalence for c in family[:3]]).all()
    assert np.isfinite([c.p_equivalence for c in family[3:]]).all()


def test_many_measures_do_not_hide_a_clear_difference(results):
    """With Holm's correction over 300 contrasts and 12 blocks the smallest possible p is 0.15."""
    analyses = [analyse(results, replace(SHARE, name=f"a:{i}"), measured(results)) for i in range(100)]
    family = joined_family(analyses)
    assert {c.family for c in family} == {300}
    assert min(holm([c.p for c in family])) > 0.05
    clear = [c for c in family if c.subject == "rope"]
    assert [c.p_adjusted for c in clear] == pytest.approx([3 * c.p_smallest for c in clear])
    assert clear[0].p_adjusted < 0.002


@pytest.mark.parametrize("skewed", [False, True])
def test_the_joint_test_of_measures_has_its_level(skewed):
    """Three arms of 9 seeds, 12 measures: none differs, or half of them in one arm."""
    rng = np.random.default_rng(2)
    draw = rng.standard_exponential if skewed else rng.standard_normal
    false = {"none": 0, "half": 0}
    for _ in range(studies := 500):
        common = draw((4, 9, 1))  # of the measures of a run
        values = 0.7 * common + draw((4, 9, 12))
        for truth in false:
            shift = np.zeros((4, 1, 12))
            shift[1, :, :6] = 20.0 * (truth == "half")
            differences = np.moveaxis((values + shift)[1:] - values[0], 2, 1)  # (arms, measures, seeds)
            p = np.array([3 * joint_sign_flip_p(list(each[:, None])) for each in differences])
            null = np.ones((3, 12), dtype=bool)
            null[0, :6] = truth == "none"
            false[truth] += (p[null] <= 0.05).any()
    assert false["none"] / studies == pytest.approx(0.04, abs=0.025)
    assert false["half"] / studies < 0.065


def test_contrasts_without_pairs_do_not_count(results):
    lost = measured(results, missing=lambda row: row["position"] == "rope")
    family = joined_family([analyse(results, SHARE, lost)])
    assert [c.n for c in family] == [12, 12, 0]
    assert {c.family for c in family} == {2}


def test_means_are_those_of_settings(results):
    outcomes = arrange(results)
    for arm, mean in enumerate(means_of_arms(outcomes)):
        assert mean.mean == pytest.approx(outcomes.values[arm].mean())
        low, high = paired_interval(outcomes.values[arm])
        assert (mean.low, mean.high) == (low, min(high, 100))
        assert (mean.cells, mean.n) == (4, 12)


def test_means_use_blocks_in_which_every_measured_arm_was_measured(results):
    def lost(row):
        return row["position"] == "learned" or (row["position"] == "rope" and row["patch"] == 4)

    outcomes = arrange(results, None, SHARE, measured(results, missing=lost))
    none, learned, _, rope = means_of_arms(outcomes)
    patch_2 = [cell for cell, levels in enumerate(outcomes.cells) if levels[1] == 2]
    assert none.mean == pytest.approx(outcomes.values[0][patch_2].mean())
    assert (rope.cells, rope.n) == (2, 6)
    assert np.isnan(learned.mean)
    assert learned.n == 0


def outcomes_of(arms, blocks):
    keys = np.array([[[f"{arm} {block}" for block in range(blocks)]] for arm in range(arms)], dtype="<U64")
    names = tuple("abcdef"[:arms])
    return Outcomes("position", names, (), ((),), tuple(range(blocks)), 0, np.full(keys.shape, 50.0), keys)


def test_joint_p_of_sums_counts_all_sign_patterns():
    d = np.random.default_rng(0).integers(-3, 4, (6, 5)).astype(float)
    patterns = [np.abs(np.array(signs) @ d).max() for signs in product((1, -1), repeat=6)]
    expected = [np.mean(np.array(patterns) >= abs(total) - 1e-9) for total in d.sum(axis=0)]
    np.testing.assert_allclose(joint_sum_p(d), expected)


def test_joint_p_has_its_level():
    rng = np.random.default_rng(1)
    found = [joint_sum_p(rng.poisson(2, (8, 20)) - rng.poisson(2, (8, 20)).astype(float)).min() for _ in range(400)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.025)


def test_pairs_of_classes_that_are_confused_less_often():
    outcomes = outcomes_of(3, 8)
    matrices = np.zeros((3, 8, 4, 4))
    matrices[:, :, 0, 1], matrices[:, :, 1, 0] = 4, 2
    matrices[2, :, 0, 1] = 1
    matrices[:, :, 2, 3] = np.random.default_rng(0).integers(0, 3, (3, 8))
    by_key = dict(zip(outcomes.keys.ravel(), matrices.reshape(-1, 4, 4), strict=True))
    first, *others = compare_confusions(outcomes, by_key.get)
    assert (first.arm, first.baseline, first.first, first.second) == ("c", "a", 0, 1)
    assert (first.images, first.images_baseline, first.difference, first.n) == (3, 6, -3, 8)
    assert first.p == pytest.approx(2 * 2 / 2**8)  # two arms; both ends of the signs
    assert len(others) == 3
    assert all(each.p > 0.05 for each in others)


def test_an_arm_is_compared_in_its_own_blocks():
    """Seeds that a third arm lacks are not lost to the others."""
    outcomes = outcomes_of(3, 4)
    by_key = {key: np.eye(2, dtype=int) * (1 + i) for i, key in enumerate(outcomes.keys.ravel())}
    assert paired_matrices(outcomes, 1, by_key.get).shape == (2, 4, 2, 2)
    del by_key["1 2"]
    np.testing.assert_array_equal(paired_matrices(outcomes, 1, by_key.get)[0, :, 0, 0], [5, 6, 8])
    np.testing.assert_array_equal(paired_matrices(outcomes, 1, by_key.get)[1, :, 0, 0], [1, 2, 4])
    assert paired_matrices(outcomes, 2, by_key.get).shape == (2, 4, 2, 2)


def test_runs_with_different_classes_are_not_compared():
    outcomes = outcomes_of(2, 3)
    by_key = dict.fromkeys(outcomes.keys.ravel(), np.ones((2, 2), dtype=int))
    assert len(compare_confusions(outcomes, by_key.get)) == 1
    by_key["1 1"] = np.ones((3, 3), dtype=int)
    assert compare_confusions(outcomes, by_key.get) == []
