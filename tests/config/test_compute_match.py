"""Epochs by which the arms of a grid share the compute of the baseline arm: values by hand."""

import json

import pytest

from ablations.config import ComputeMatch, Grid, RelativeCost, RunConfig, match_epochs, override, shrink
from ablations.config.grid_files import load_grid
from ablations.errors import UsageError

AXES = {"position": ("none", "rope", "cpe"), "patch": (2, 4)}
COSTS = {("none", 2): 1.0, ("rope", 2): 1.5, ("cpe", 2): 2.6, ("none", 4): 1.0, ("rope", 4): 0.8, ("cpe", 4): 1.1}


def grid(**changes):
    base = RunConfig(epochs=10, warmup_epochs=1.0)
    return Grid(
        **{"name": "g", "question": "?", "base": base, "axes": AXES, "seeds": (3, 5), "match": "flops"} | changes
    )


def costs(pairs):
    assert [baseline.position for _, baseline in pairs] == ["none"] * len(pairs)
    assert all((arm.patch, arm.seed) == (baseline.patch, 3) for arm, baseline in pairs)
    return [RelativeCost(COSTS[arm.position, arm.patch]) for arm, _ in pairs]


def match(grid):
    return match_epochs(grid, grid.expand(), costs)


def test_epochs_shares_and_warm_up_by_hand():
    found = match(grid())
    assert {levels: found.epochs_of(levels) for levels in found.costs} == {
        ("none", 2): 10,
        ("rope", 2): 7,  # 10 / 1.5 = 6.67
        ("cpe", 2): 4,  # 10 / 2.6 = 3.85
        ("none", 4): 10,
        ("rope", 4): 13,  # 10 / 0.8 = 12.5
        ("cpe", 4): 9,  # 10 / 1.1 = 9.09
    }
    assert found.share_of(("rope", 2)) == pytest.approx(1.05)
    assert found.share_of(("cpe", 4)) == pytest.approx(0.99)
    assert found.describe_epochs() == "10 for none, 7 to 13 for rope, 4 to 9 for cpe"
    assert found.describe_shares() == "99 % to 105 %"
    runs = [found.matched(config) for config in grid().expand()]
    assert {(c.position, c.patch): c.epochs for c in runs} == {k: found.epochs_of(k) for k in found.costs}
    assert next(c.warmup_epochs for c in runs if (c.position, c.patch) == ("rope", 2)) == pytest.approx(0.7)
    assert {c for c in runs if c.position == "none"} <= {*grid().expand()}  # the baseline keeps its runs


def test_the_reference_is_the_baseline_of_the_compared_axis():
    asked = grid(axes={"depth": (1, 2)}, baseline="2")
    found = match_epochs(asked, asked.expand(), lambda pairs: [RelativeCost(arm.depth / 2) for arm, _ in pairs])
    assert [found.epochs_of((depth,)) for depth in (1, 2)] == [20, 10]
    assert (found.compared, found.baseline) == ("depth", "2")


def test_a_match_survives_json():
    asked = grid(axes={"position": ("none", "rope"), "classes": (None, ("0", "1"))}, match="seconds")
    found = match_epochs(asked, asked.expand(), lambda pairs: [RelativeCost(1.25, 1.2, 1.3, "a machine")] * len(pairs))
    assert ComputeMatch.from_plain(json.loads(json.dumps(found.to_plain()))) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {"position": ("none", "rope"), "epochs": (10, 20)}}, "epochs cannot be an axis with match 'flops'"),
        ({"axes": {"position": ("none",)}}, "match 'flops' needs two levels to compare"),
        (
            {"base": RunConfig(epochs=2, warmup_epochs=0.2)},
            "epochs must give every arm the compute of at least one epoch, got 2 for the baseline none, which gives "
            "cpe, patch 2 0.77; use more epochs or another baseline",
        ),
    ],
)
def test_what_cannot_be_matched(changes, message):
    with pytest.raises(UsageError, match=message):
        match(grid(**changes))


def test_a_grid_file_names_the_match(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('match = "seconds"\naxes.position = ["none", "rope"]')
    assert load_grid(path).match == "seconds"
    assert override(load_grid(path), seeds=5).match == "seconds"
    assert shrink(load_grid(path)).match is None  # two epochs are too few to be divided
    for given, shown in (('"flop"', "'flop'"), ("1", "1"), ("true", "True")):
        path.write_text(f'match = {given}\naxes.position = ["none", "rope"]')
        with pytest.raises(UsageError, match=f"mine.toml: match must be 'flops' or 'seconds', got {shown}"):
            load_grid(path)
