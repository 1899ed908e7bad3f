"""Agreement with SciPy, statsmodels and rliable on the cases that tests/golden/make_statistics.py stored."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from ablations.statistics import Outcomes, intervals, power, ranks
from ablations.statistics import contrasts as stats
from ablations.statistics import mcnemar as models
from ablations.statistics.estimates import interquartile_mean, probability_of_improvement

STORED = json.loads((Path(__file__).parents[1] / "golden" / "statistics.json").read_text())


@pytest.fixture(params=STORED["pairs"], ids=lambda case: "x".join(map(str, np.shape(case["subject"]))))
def pair(request):
    return request.param | {name: np.array(request.param[name]) for name in ("subject", "reference")}


def test_permutation_p_is_scipys(pair):
    assert stats.sign_flip_p(pair["subject"] - pair["reference"]) == pytest.approx(pair["scipy_permutation_p"])


def test_intervals_are_scipys(pair):
    differences = (pair["subject"] - pair["reference"]).ravel()
    assert intervals.t_interval(differences) == pytest.approx(pair["scipy_t_interval"])
    low, high = intervals.paired_interval(differences)  # one cell: at least as wide as Student's
    assert low <= pair["scipy_t_interval"][0] + 1e-9
    assert high >= pair["scipy_t_interval"][1] - 1e-9


def test_equivalence_p_is_that_of_statsmodels(pair):
    differences = (pair["subject"] - pair["reference"]).ravel()  # as of one setting
    assert power.equivalence_p(differences) == pytest.approx(pair["statsmodels_tost_p"])


def test_interquartile_mean_and_probability_of_improvement_are_rliables(pair):
    assert interquartile_mean(pair["subject"]) == pytest.approx(pair["rliable_iqm"])
    chance = probability_of_improvement(pair["subject"], pair["reference"])
    assert chance == pytest.approx(pair["rliable_probability_of_improvement"])


def test_holm_is_that_of_statsmodels():
    assert stats.holm(STORED["holm"]["p"]) == pytest.approx(STORED["holm"]["statsmodels"])


@pytest.mark.parametrize("case", STORED["power"])
def test_power_is_that_of_statsmodels(case):
    found = power.t_power(case["effect"] * np.sqrt(case["n"]), case["n"] - 1, case["alpha"])
    assert found == pytest.approx(case["statsmodels"], abs=1e-9)
    assert power.power_under("normal", case["effect"], case["n"], case["alpha"]) == found


def test_mcnemar_is_that_of_statsmodels():
    counts = np.array(STORED["mcnemar"]["table"])
    first = np.repeat([0, 0, 1, 1], counts.ravel())  # right is 0, wrong is 1
    second = np.repeat([0, 1, 0, 1], counts.ravel())
    found = models.compare_models(np.zeros(counts.sum(), dtype=int), first, second)
    assert (found.only_first, found.only_second) == (counts[0, 1], counts[1, 0])
    assert found.p == pytest.approx(STORED["mcnemar"]["statsmodels"])


def test_friedmans_p_is_the_share_of_orders_in_which_scipys_statistic_is_as_large():
    accuracy = np.array(STORED["ranks"]["arms"])[:, :, None]
    cells = tuple((cell,) for cell in range(accuracy.shape[1]))
    keys = np.full(accuracy.shape, "k", dtype="<U64")
    found = ranks.rank_arms(Outcomes("position", ("a", "b", "c", "d"), ("depth",), cells, (0,), 0, accuracy, keys))
    arms = accuracy[:, :, 0]
    observed = friedmanchisquare(*arms)
    assert observed.pvalue == pytest.approx(STORED["ranks"]["scipy_friedman_p"])
    rng = np.random.default_rng(0)
    orders = [friedmanchisquare(*rng.permuted(arms, axis=0)).statistic for _ in range(2000)]
    assert found.p == pytest.approx(np.mean(np.array(orders) >= observed.statistic - 1e-9), abs=0.03)
