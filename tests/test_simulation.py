"""Studies with known truth: a quick look at what benchmarks/statistics.py measures, and at what it found in full."""

import json

import pytest

from ablations.power import sign_flip_power
from benchmarks.statistics import ARMS, RESULTS, Case, cases, lead_for, simulate, spread

STORED = json.loads(RESULTS.read_text())


def rates(noise):
    return [row for row in STORED if row["noise"] == noise]


def test_a_quick_simulation_holds():
    found = simulate(Case(cells=2, seeds=5, noise="normal", missing=True), studies=150, seed=1)
    assert found.false <= 0.10  # 0.055 and 2.6 standard errors
    assert 0.92 <= found.covered <= 0.99
    assert found.power == pytest.approx(found.promised, abs=0.10)


def test_the_lead_is_one_that_is_promised_to_be_found():
    case = Case(cells=4, seeds=3, noise="skewed", missing=False)
    assert sign_flip_power(lead_for(case) / spread(case), 12, 0.05 / (ARMS - 1)) == pytest.approx(0.8, abs=0.02)


def test_the_stored_simulation_is_whole():
    stored = {(row["cells"], row["seeds"], row["noise"], row["missing"]) for row in STORED}
    assert stored == {(case.cells, case.seeds, case.noise, case.missing) for case in cases()}
    assert all(row["studies"] == 2000 for row in STORED)


@pytest.mark.parametrize("noise", ["normal", "skewed"])
def test_the_stored_simulation_holds(noise):
    for row in rates(noise):
        assert row["false"] <= 0.055, row
        assert row["false_joint"] <= 0.055, row
        assert 0.93 <= round(row["covered"], 3) <= 0.97, row
        most = 0.03 if noise == "normal" else 0.05  # skewed noise is found more often than promised, never less
        assert -0.03 <= row["power"] - row["promised"] <= most, row


def test_what_one_sided_skew_does_is_what_the_documentation_says():
    text = (RESULTS.parent.parent.parent / "docs" / "statistics.md").read_text(encoding="utf-8")
    found = rates("one-sided")
    worst = max(row["false"] for row in found)
    covered = [row["covered"] for row in found]
    assert f"up to {100 * worst:.1f} %" in text
    assert f"{100 * min(covered):.1f} to {100 * max(covered):.1f} %" in text


def test_the_table_of_the_documentation_is_the_stored_one():
    text = (RESULTS.parent.parent.parent / "docs" / "statistics.md").read_text(encoding="utf-8")
    for row in STORED:
        lost = "10 %" if row["missing"] else "none"
        rate = [f"{100 * row[name]:.1f}" for name in ("false", "false_joint", "covered", "power", "promised")]
        line = f"| {row['noise']} | {row['cells']} | {row['seeds']} | {lost} | {' | '.join(rate)} |"
        assert line in text, line
