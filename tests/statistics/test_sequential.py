"""Tests that may be looked at in every round: exact by enumeration, consistent from look to look, and a quick study."""

import itertools
import json

import numpy as np
import pytest

from ablations.config import SequentialDesign
from ablations.statistics import FIXED, MARGIN, GroupSequential
from ablations.statistics import contrasts as stats
from ablations.statistics.power import sign_flip_power
from ablations.statistics.power_forecast import rejections
from ablations.statistics.sequential.sign_flip_orbit import SignFlipOrbit, flipped_sums
from benchmarks.sequential import RESULTS, SOME, Growing, Plain, cases, simulate


def test_a_round_adds_a_quarter_up_to_the_maximum():
    assert SequentialDesign(3, 12).looks == (3, 4, 5, 7, 9, 12)
    assert SequentialDesign(5, 20).looks == (5, 7, 9, 12, 15, 20)  # no last round of one seed
    assert SequentialDesign(1, 2).looks == (1, 2)


@pytest.mark.parametrize(("cells", "tests"), [(1, 1), (1, 3), (2, 3), (4, 3), (16, 9)])
def test_every_share_of_the_level_is_spent_once_and_none_where_nothing_can_be_found(cells, tests):
    design = SequentialDesign(3, 12)
    assert design.spending.sum() == pytest.approx(1)
    np.testing.assert_allclose(design.spending[:2], [(3 / 12) ** 2, (4 / 12) ** 2 - (3 / 12) ** 2])
    shares = design.shares(cells, tests)
    assert shares.sum() == pytest.approx(1)
    first = int(np.flatnonzero(shares)[0])
    assert 2.0 ** (1 - cells * design.looks[first]) <= 0.05 / tests * shares[first]
    assert all(
        2.0 ** (1 - cells * design.looks[i]) > 0.05 / tests * design.spending[: i + 1].sum() for i in range(first)
    )


@pytest.mark.parametrize("n", [1, 2, 5, 11])
def test_flipped_sums_are_those_of_all_signs(n):
    values = np.random.default_rng(n).normal(size=n)
    every = [float(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=n)]
    np.testing.assert_allclose(sorted(flipped_sums(values)), sorted(every), atol=1e-12)
    assert flipped_sums(values)[0] == pytest.approx(values.sum())


def test_beyond_the_bits_the_patterns_are_a_group_with_the_flip_of_all_signs():
    """The sums of unit vectors are the signs themselves; products of two patterns are patterns."""
    signs = np.array([flipped_sums(row, bits=6) for row in np.eye(20)]).T  # (64 patterns, 20 blocks)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    known = {tuple(row) for row in signs}
    assert len(known) == 64
    assert tuple(-np.ones(20)) in known
    rng = np.random.default_rng(0)
    for a, b in rng.integers(64, size=(50, 2)):
        assert tuple(signs[a] * signs[b]) in known
    assert {tuple(row[:6]) for row in signs} == set(itertools.product((-1.0, 1.0), repeat=6))
    assert len({tuple(column) for column in signs.T}) == 20  # no two blocks always flip together


def naive(differences: np.ndarray, looks: list[int], shares: np.ndarray, level: float) -> int:
    """The look that rejects, by the definition: enumerate all signs, and at each look reject the largest sums left."""
    n = len(differences)
    patterns = np.array(list(itertools.product((1, -1), repeat=n)))
    alive = np.ones(len(patterns), dtype=bool)
    for look, (seen, share) in enumerate(zip(looks, shares, strict=True)):
        sums = np.abs(patterns[:, :seen] @ differences[:seen])
        rejected = [
            p
            for p in np.flatnonzero(alive)
            if (alive & (sums >= sums[p] - 1e-9)).sum() <= len(patterns) * level * share
        ]
        if 0 in rejected:  # the first pattern is all ones: the data
            return look
        alive[rejected] = False
    return len(looks)


@pytest.mark.parametrize("seed", range(8))
def test_rejections_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    design = SequentialDesign(2, 10)
    looks, shares = list(design.looks), design.spending
    differences = np.round(rng.normal(0.7, 1, 10), seed % 2 + 1)  # with ties
    sums = np.abs([flipped_sums(np.where(np.arange(10) < seen, differences, 0.0)) for seen in looks])
    orbit = SignFlipOrbit(sums, sums[:, 0], shares)
    path = orbit.path()
    for level in (0.01, 0.03, 0.05, 0.2, 0.5):
        assert orbit.rejected(level)[0] == naive(differences, looks, shares, level)
        assert int(np.argmax(np.append(path <= level * (1 + 1e-9), True))) == orbit.rejected(level)[0]
    assert (np.diff(path) <= 0).all()


def test_no_level_is_exceeded_over_all_signs_of_any_differences():
    """Exactness itself: of all 2^n equally likely data sets, at most a share alpha is ever rejected."""
    design = SequentialDesign(2, 8)
    sizes = np.random.default_rng(0).exponential(size=8)
    tests = GroupSequential(design, contrasts=1)
    for level in (0.05, 0.1, 0.3):
        rejected = [
            tests.orbit((np.array(signs) * sizes)[None]).rejected(level)[0] < len(design.looks)
            for signs in itertools.product((1, -1), repeat=8)
        ]
        assert np.mean(rejected) <= level
        assert np.mean(rejected) >= level - 0.04  # and little is wasted


def test_one_look_is_the_sign_flip_test():
    differences = np.random.default_rng(0).normal(1, 1, (2, 5))
    tests = GroupSequential(SequentialDesign(5, 20), contrasts=1)
    share = tests.design.shares(2, 1)[0]
    assert tests.p(differences) == pytest.approx(stats.sign_flip_p(differences) / share)
    assert tests.smallest(differences) == pytest.approx(FIXED.smallest(differences) / share)


@pytest.mark.parametrize("cells", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_what_an_earlier_look_said_stands(cells):
    """The path up to a look does not depend on what came later, within and beyond the bits of the group."""
    design = SequentialDesign(3, 12)
    differences = np.random.default_rng(5).normal(0.5, 1, (cells, 12))
    differences[0, 5] = np.nan
    tests = GroupSequential(design, contrasts=3)
    whole, equal = tests.path(differences), tests.equivalence_path(differences)
    for look, seeds in enumerate(design.looks):
        np.testing.assert_allclose(tests.path(differences[:, :seeds]), whole[: look + 1], rtol=2e-3)
        np.testing.assert_allclose(tests.equivalence_path(differences[:, :seeds]), equal[: look + 1], rtol=2e-3)


def test_every_look_has_the_statistic_of_the_blocks_so_far():
    """Also with lost runs: the patterns of a look are those of a single test of its blocks."""
    design = SequentialDesign(3, 6)
    differences = np.random.default_rng(6).normal(0.8, 1, (2, 6))
    differences[0, [0, 2, 5]] = np.nan
    statistics = np.abs(GroupSequential(design, contrasts=1).statistics(differences))
    for look, seeds in enumerate(design.looks):
        row = statistics[look]
        assert np.mean(row >= row[0] * (1 - 1e-9)) == pytest.approx(stats.sign_flip_p(differences[:, :seeds]))


def test_equivalence_and_its_absence():
    rng = np.random.default_rng(0)
    tests = GroupSequential(SequentialDesign(3, 12), contrasts=3)
    near, far = rng.normal(0, 0.2, (4, 12)), rng.normal(MARGIN + 0.2, 0.2, (4, 12))
    assert tests.equivalence(near) < 1e-3
    assert tests.equivalence(far) > 0.5
    assert np.isnan(tests.equivalence(np.zeros((4, 12))))  # equal differences say nothing of the spread


def test_the_joint_test_of_one_mean_is_the_test_itself_and_of_several_is_no_smaller():
    rng = np.random.default_rng(3)
    tests = GroupSequential(SequentialDesign(3, 6), contrasts=1)
    first, second = rng.normal(0.6, 1, (2, 6)), rng.normal(0.1, 1, (2, 6))
    assert tests.joint([first])[0] == pytest.approx(tests.p(first), rel=2e-3)
    both = tests.joint([first, second, np.full((2, 6), np.nan)])
    assert both[0] >= tests.p(first) * 0.999
    assert both[1] >= tests.p(second) * 0.999
    assert np.isnan(both[2])


def test_intervals_are_wider_than_those_of_one_look_and_hold_the_mean():
    differences = np.random.default_rng(1).normal(1, 1, (4, 12))
    low, high = GroupSequential(SequentialDesign(3, 12), contrasts=3).interval(differences)
    fixed = FIXED.interval(differences)
    assert low < fixed[0] < differences.mean() < fixed[1] < high


def test_nothing_to_look_at():
    tests = GroupSequential(SequentialDesign(3, 12), contrasts=3)
    empty = np.full((4, 12), np.nan)
    assert np.isnan([tests.p(empty), tests.equivalence(empty), *tests.interval(empty), *tests.joint([empty])]).all()
    assert tests.smallest(empty) == 1


def test_power_in_rounds_is_below_that_of_the_maximum_and_above_that_of_the_first_round():
    design = SequentialDesign(3, 12)
    power, seeds = rejections(0.6, design, cells=4, tests=3, studies=100)
    assert sign_flip_power(0.6, 12, 0.05 / 3) < power < sign_flip_power(0.6, 48, 0.05 / 3)
    assert 3 < seeds < 12
    assert rejections(3.0, design, cells=4, tests=3, studies=20) == (1.0, 3.0)


@pytest.mark.slow
def test_a_quick_simulation_of_growing_studies_holds():
    found = simulate(Growing(2, 3, 12, "normal"), studies=40, seed=1)
    assert found.false <= 0.15  # 0.05 and 2.9 standard errors
    assert found.false_equivalent <= 0.15
    assert found.covered >= 0.93
    assert found.power >= found.fixed - 0.2
    assert found.seeds_twice < found.seeds < 12


STORED = json.loads((RESULTS / "sequential.json").read_text())
PROCEDURES_STORED = json.loads((RESULTS / "sequential_procedures.json").read_text())
DOCUMENTATION = (RESULTS.parent.parent / "docs" / "statistics.md").read_text(encoding="utf-8")


def percent(row, *names):
    return [f"{100 * row[name]:.1f}" for name in names]


def test_the_stored_simulation_is_whole_and_holds_its_level():
    assert [Growing(*(row[name] for name in Growing.__annotations__)) for row in STORED] == cases()
    for row in STORED:
        assert row["studies"] == 1000
        if row["noise"] != "one-sided":
            assert row["false"] <= 0.055, row
            assert row["false_equivalent"] <= 0.055, row
        assert row["covered"] >= 0.93, row
        assert row["fixed"] - 0.08 <= row["power"] <= row["fixed"], row
        assert row["seeds_twice"] < 0.65 * row["maximum"], row


def test_the_documentation_has_the_stored_figures():
    for row in STORED:
        rates = [*percent(row, "false", "false_equivalent", "covered", "power", "fixed"), f"{row['seeds']:.1f}"]
        rates += [*percent(row, "power_twice"), f"{row['seeds_twice']:.1f}"]
        line = f"| {row['noise']} | {row['cells']} | {row['first']} to {row['maximum']} | {' | '.join(rates)} |"
        assert line in DOCUMENTATION, line
    for row in PROCEDURES_STORED:
        seeds = f"{row['seeds']:.1f} | {row['seeds_twice']:.1f}"
        line = f"| {row['procedure']} | {' | '.join(percent(row, 'false', 'power'))} | {seeds} |"
        assert line in DOCUMENTATION, line
    highest = max(row["false"] for row in STORED if row["noise"] != "one-sided")
    assert f"false positives reach at most {100 * highest:.1f} %" in DOCUMENTATION


def test_the_documentation_has_the_figures_on_skew():
    stored = json.loads((RESULTS / "skew.json").read_text())
    for row in stored["tests"]:
        assert " / ".join(percent(row, "false", "power")) in DOCUMENTATION, row
    for row in stored["power"]:
        lost = "10 %" if row["missing"] else "none"
        rates = " | ".join(percent(row, "power", "normal", "promised", "geary", "residuals"))
        assert f"| {row['noise']} | {row['cells']} | {row['seeds']} | {lost} | {rates} |" in DOCUMENTATION, row


def test_no_procedure_that_holds_has_both_more_power_and_fewer_seeds():
    for kind in {(row["cells"], row["first"], row["noise"]) for row in PROCEDURES_STORED}:
        rows = {r["procedure"]: r for r in PROCEDURES_STORED if (r["cells"], r["first"], r["noise"]) == kind}
        ours = rows.pop("spending 2")
        for name, row in rows.items():
            assert row["power"] < ours["power"] + 0.01 or row["seeds_twice"] > ours["seeds_twice"], name


def test_the_comparison_with_the_plain_mean_is_documented():
    rows = json.loads((RESULTS / "sequential_plain.json").read_text())
    assert [Growing(*(row[name] for name in Growing.__annotations__)) for row in rows] == list(SOME)
    kinds = ("false", "even", "uneven", "cancelling")
    for row in rows:
        rates = percent(row, *(f"{kind}{test}" for kind in kinds for test in ("", "_plain")))
        start = f"| {row['noise']} | {row['cells']} | {row['first']} to {row['maximum']} |"
        assert f"{start} {' | '.join(rates)} |" in DOCUMENTATION
        assert max(row["false"], row["false_plain"]) <= 0.05 + 2 * (0.05 * 0.95 / row["studies"]) ** 0.5
        assert row["uneven"] > row["uneven_plain"]


def test_the_plain_sequential_test_does_not_studentise():
    plan, differences = SequentialDesign(2, 4), np.random.default_rng(0).normal(1, 1, (3, 4))
    plain = Plain(plan, 1).statistics(differences)
    assert plain[-1][0] == pytest.approx(differences.mean())
    assert GroupSequential(plan, 1).statistics(differences)[-1][0] != pytest.approx(differences.mean())
