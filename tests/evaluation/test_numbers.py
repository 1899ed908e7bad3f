"""Options that are lists of numbers: what is valid, and one spelling for each list."""

import pytest

from ablations.errors import UsageError
from ablations.evaluation import protocol


class TestSpelling:
    @pytest.mark.parametrize("factors", ["2/1.5", "1.5/2", "2.0/1.5", " 2 / +1.50 ", "15e-1/0.2e1"])
    def test_factors_are_in_decreasing_order(self, factors: str) -> None:
        made = protocol(f"resolution(factors={factors})")
        assert str(made) == "resolution(factors=2/1.5)"
        assert [metric.name for metric in made.metrics()][::4] == ["accuracy-2x", "accuracy-1.5x"]
        assert protocol(str(made)) == made

    @pytest.mark.parametrize("shares", ["0.5/0.25", ".25/.50", "2.5e-1/0.5"])
    def test_shares_are_in_increasing_order(self, shares: str) -> None:
        assert str(protocol(f"occlusion(shares={shares})")) == "occlusion(shares=0.25/0.5)"

    @pytest.mark.parametrize(
        "text",
        [
            "resolution(factors=0.5/0.75/1.25/1.5/2)",
            "resolution(factors=2.0/1.5/1.25/0.75/0.50)",
            "occlusion(shares=0.9/0.7/0.5/0.3/0.1)",
        ],
    )
    def test_the_default_in_another_spelling_is_left_out(self, text: str) -> None:
        assert str(protocol(text)) == text.partition("(")[0]

    def test_numbers_are_those_in_the_names_of_metrics(self) -> None:
        made = protocol("occlusion(shares=0.33333333333)")
        assert str(made) == "occlusion(shares=0.333333)"
        assert [metric.name for metric in made.metrics()] == ["accuracy", "accuracy-0.333333"]

    def test_bounds_are_valid(self) -> None:
        assert str(protocol("resolution(factors=8/0.1)")) == "resolution(factors=8/0.1)"
        assert str(protocol("occlusion(shares=1)")) == "occlusion(shares=1)"


@pytest.mark.parametrize(
    "factors",
    ["inf", "nan", "1/inf", "1e6", "8.1", "0", "-1", "1e-999", "2/2.0", "1.0000001/1", "2/", "/", "a", "2//1"],
)
def test_bad_numbers_are_one_line(factors: str) -> None:
    with pytest.raises(UsageError) as caught:
        protocol(f"resolution(factors={factors})")
    valid = "different numbers above 0 and at most 8, separated by '/'"
    assert str(caught.value) == f"factors of protocol resolution must be {valid}, got {factors!r}"


@pytest.mark.parametrize("shares", ["1.01", "0.5/1.5", "inf", "0.1/0.10000001"])
def test_shares_are_at_most_one(shares: str) -> None:
    with pytest.raises(UsageError, match="must be different numbers above 0 and at most 1, separated by '/', got '"):
        protocol(f"occlusion(shares={shares})")
