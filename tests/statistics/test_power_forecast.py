"""What a plan is said to find out, against the power of its tests."""

import re
from dataclasses import replace

import numpy as np
import pytest

from ablations.config import GRIDS
from ablations.statistics import forecast_power, power

ROPE = GRIDS["rope"]  # three comparisons over 4 cells x 3 seeds


@pytest.mark.parametrize(("blocks", "alpha"), [(6, 0.05), (12, 0.05 / 3), (40, 0.01)])
def test_the_detectable_effect_has_the_power_asked_for(blocks, alpha):
    effect = power.detectable_effect(blocks, alpha)
    assert power.sign_flip_power(effect, blocks, alpha) == pytest.approx(0.8, abs=0.01)
    assert power.detectable_effect(blocks, alpha, 0.2) < effect


def test_no_effect_is_detectable_where_the_smallest_p_is_too_large():
    assert power.detectable_effect(5, 0.05) is None
    assert power.detectable_effect(6, 0.05) is not None


def test_seeds_for_equivalence_do_what_they_promise():
    seeds = power.equivalence_seeds(cells=2, spread=1.0, alpha=0.05)
    rng = np.random.default_rng(0)

    def shown(seeds):
        return np.mean([power.equivalence_p(rng.normal(0, 1, (2, seeds))) <= 0.05 for _ in range(2000)])

    assert shown(seeds) == pytest.approx(0.8, abs=0.03)
    assert shown(seeds - 2) < 0.8
    assert power.equivalence_seeds(1, 100.0, 0.05) == 1000


def test_what_the_default_grid_can_find():
    first, second = forecast_power(ROPE)
    likely, unlikely = map(float, re.findall(r"([\d.]+) points (?:is found )?in", first))
    assert "With 3 seeds a difference" in first
    assert first.endswith("; the smallest possible p after Holm over 3 comparisons is 0.0015.")
    assert power.sign_flip_power(likely, [3] * 4, 0.05 / 3) == pytest.approx(0.8, abs=0.05)
    assert power.sign_flip_power(unlikely, [3] * 4, 0.05 / 3) == pytest.approx(0.2, abs=0.05)
    seeds = int(re.search(r"takes (\d+) seeds", second)[1])
    at = [power.sign_flip_power(0.5, [n] * 4, 0.05 / 3) for n in (seeds - 1, seeds)]
    assert at[0] < 0.8 <= at[1] + 0.01
    twice = float(re.search(r"([\d.]+) points", forecast_power(ROPE, 2.0)[0])[1])
    assert twice == pytest.approx(2 * likely, abs=0.1)


def test_what_too_few_seeds_cannot_find():
    assert forecast_power(replace(ROPE, seeds=(0,)))[0] == (
        "With 1 seed no difference can become significant, however large: the smallest possible p after Holm over 3 "
        "comparisons is 0.38."
    )
    assert forecast_power(replace(ROPE, axes={"position": ("rope",)})) == []
