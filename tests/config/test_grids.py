import dataclasses
from pathlib import Path

import pytest

from ablations.config import RunConfig, check_name, override, parse_axes, parse_settings, shrink, vit_config
from ablations.config import grid_files as grids
from ablations.errors import UsageError
from vit.positions import POSITIONS

MINE = """
name = "width"
question = "Do wider models need positions?"
seeds = [3, 5]

[base]
epochs = 2
classes = ["0", "1"]

[axes]
position = ["rope", "none"]
width = [32, 64]
"""


@pytest.mark.parametrize("name", grids.GRIDS)
def test_built_in_grids_are_valid_and_ask_a_question(name):
    grid = grids.find_grid(name)
    assert grid.name == name
    assert grid.question.endswith("?")
    assert grid.baseline in map(str, grid.levels)
    assert len(grid.expand()) == len(grid.levels) * grid.blocks


def test_the_main_grid_is_large_enough():
    rope = grids.find_grid("rope")
    assert rope.axes["position"] == ("none", "learned", "sinusoidal", "rope")
    assert len(rope.axes["depth"]) >= 2
    assert len(rope.axes["patch"]) >= 2
    assert len(rope.seeds) >= 3


def test_the_grid_of_encodings_has_all_built_in_ones_a_sum_and_enough_seeds():
    grid = grids.find_grid("encodings")
    assert set(grid.axes["position"]) == {*POSITIONS, "rope+learned"}
    assert grid.axes == {"position": tuple(dict.fromkeys(grid.axes["position"]))}
    contrasts = len(grid.levels) - 1
    assert smallest_p(contrasts, len(grid.seeds)) <= 0.05 < smallest_p(contrasts, len(grid.seeds) - 1)
    for config in grid.expand():
        vit_config(config, image_size=8, channels=1, classes=10)  # raises for an invalid one


def smallest_p(contrasts, seeds):
    """Of the first of so many contrasts after Holm, by an exact sign-flip test of as many pairs as seeds."""
    return contrasts * 2 * 0.5**seeds


@pytest.mark.parametrize("name", ["cifar100-20", "cifar100"])
def test_the_grids_of_cifar_100_have_enough_seeds_and_the_same_arms_and_protocols(name):
    grid = grids.find_grid(name)
    contrasts, seeds = len(grid.levels) - 1, len(grid.seeds)
    assert smallest_p(contrasts, seeds) <= 0.05 < smallest_p(contrasts, seeds - 1)
    assert grid.axes == grids.find_grid("cifar100-20").axes
    assert grid.protocols == grids.find_grid("cifar100-20").protocols
    for config in grid.expand():
        vit_config(config, image_size=32, channels=3, classes=config.classes or 100)


def test_fractions_of_cifar_100_share_the_runs_on_all_images_with_the_main_study():
    grid, main = grids.find_grid("cifar100-20-fraction"), grids.find_grid("cifar100-20")
    whole = [config for config in grid.expand() if config.data_fraction == 1.0]
    assert len(whole) == 3 * 6
    assert {*whole} <= {*main.expand()}
    assert grid.tuning == main.tuning
    assert 2 * 0.5 ** len(grid.seeds) <= 0.05 < 2 * 0.5 ** (len(grid.seeds) - 1)


def test_a_grid_from_toml(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    grid = grids.find_grid(str(path))
    assert grid.name == "width"
    assert grid.seeds == (3, 5)
    assert grid.baseline == "none"
    assert list(grid.axes.items()) == [("position", ("rope", "none")), ("width", (32, 64))]
    assert grid.base == RunConfig(epochs=2, warmup_epochs=0.2, classes=("0", "1"))
    assert len(grid.expand()) == 8


def test_a_byte_order_mark_is_no_part_of_a_grid(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    plain = grids.load_grid(path)
    path.write_text(MINE, encoding="utf-8-sig")
    assert grids.load_grid(path) == plain


def test_a_toml_grid_needs_little(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text("axes.depth = [2, 1, 2]")
    grid = grids.load_grid(path)
    assert (grid.name, grid.seeds, grid.baseline) == ("small", (0, 1, 2), "2")
    assert grid.axes == {"depth": (2, 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes.depth = [1,, 2]", "line 1, column"),
        ("grid = 3\naxes.depth = [1]", "unknown field 'grid'; valid: name, question, baseline"),
        ("axes.detph = [1]", r"\[axes\] unknown field 'detph' \(did you mean 'depth'\?\)"),
        ("axes.depth = 2", r"\[axes\] depth must be a list of at least one value, got 2"),
        ("axes.depth = []", "at least one value"),
        ("axes.depth = [1, 'two']", "depth must be an integer of at least 1, got 'two'"),
        ("axes.depth = [0]", "depth must be an integer of at least 1, got 0"),
        ("axes.position = ['rope', 'spiral']", "unknown position 'spiral'.*valid: .*none"),
        ("axes.seed = [1]", "seeds = 3"),
        ("axes = 3", "axes must be a table"),
        ("question = 'x'", "axes must have at least one field"),
        ("base.width = 'big'\naxes.depth = [1]", r"\[base\] width must be"),
        ("base.depth = 2\naxes.depth = [1]", "depth must be in base or in axes, not in both"),
        ("seeds = 0\naxes.depth = [1]", "seeds must be an integer of at least 1"),
        ("seeds = [-1]\naxes.depth = [1]", "seed must be an integer from 0"),
        ("seeds = []\naxes.depth = [1]", "seeds must be"),
        ("name = 'a/b'\naxes.depth = [1]", "name must be"),
        ("question = 3\naxes.depth = [1]", "question must be a non-empty string"),
        ("baseline = 'none'\naxes.position = ['rope', 'learned']", "unknown baseline of position 'none'"),
        ("base.epochs = 2\nbase.warmup_epochs = 2\naxes.depth = [1]", "warmup_epochs must be below epochs"),
        ("base.data = 'digitz'\naxes.depth = [1]", "unknown dataset 'digitz'.*digits"),
    ],
)
def test_a_bad_toml_grid_is_one_line_with_the_file_and_the_field(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        grids.load_grid(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_grid_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the grid file .*missing.toml: No such file"):
        grids.find_grid(str(tmp_path / "missing.toml"))
    with pytest.raises(UsageError, match="cannot read the grid file"):
        grids.load_grid(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(UsageError, match="not UTF-8"):
        grids.load_grid(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("axes", "question"),
    [
        ({"position": ["none", "rope"]}, "What is the effect of position?"),
        (
            {"position": ["none", "rope"], "depth": [2], "label_smoothing": [0, 0.1]},
            "What is the effect of position and label smoothing?",
        ),
        ({"depth": [2, 4], "patch": [2, 4], "width": [32, 64]}, "What is the effect of depth, patch and width?"),
        ({"depth": [2]}, "What is the effect of depth?"),
    ],
)
def test_a_grid_without_a_question_asks_for_the_effect_of_what_varies(axes, question):
    assert grids.grid_from_mapping({"axes": axes}, default_name="mine").question == question


def test_an_unknown_grid():
    with pytest.raises(UsageError, match=r"unknown grid 'rpoe' \(did you mean 'rope'\?\); valid: rope, rope-tuned"):
        grids.find_grid("rpoe")


def test_changes_from_the_command_line():
    rope = grids.find_grid("rope")
    grid = override(rope, axes={"position": ("rope", "learned")}, settings={"depth": 1, "epochs": 2}, seeds=2)
    assert grid.axes == {"position": ("rope", "learned"), "patch": rope.axes["patch"]}
    assert (grid.base.depth, grid.base.epochs, grid.base.warmup_epochs) == (1, 2, 0.2)
    assert grid.seeds == (0, 1)
    assert grid.baseline == "rope"
    assert override(rope) == rope
    with pytest.raises(UsageError, match="seeds must be an integer of at least 1, got 0"):
        override(rope, seeds=0)
    with pytest.raises(UsageError, match="--seeds"):
        override(rope, settings={"seed": 3})
    kept = override(rope, settings={"epochs": 2, "warmup_epochs": 1.0})
    assert kept.base.warmup_epochs == 1.0


def test_settings_and_axes_as_text():
    assert parse_axes({"depth": "1, 2", "patch": None}) == {"depth": (1, 2)}
    assert parse_settings({"data": "digits", "epochs": None}, ["width=96", "data=cifar10"]) == {
        "data": "cifar10",
        "width": 96,
    }
    with pytest.raises(UsageError, match="--set must be FIELD=VALUE"):
        parse_settings({}, ["width"])
    with pytest.raises(UsageError, match="did you mean 'width'"):
        parse_settings({}, ["widht=3"])


def test_smoke_shrinks_any_grid():
    grid = shrink(grids.find_grid("rope"))
    assert grid.name == "rope-smoke"
    assert grid.axes["depth"] == (min(grids.find_grid("rope").axes["depth"]),)
    assert (grid.seeds, grid.base.epochs, grid.base.per_class) == ((0,), 2, 20)
    long = dataclasses.replace(grid, axes={"epochs": (10, 20), "width": (32, 64)})
    assert shrink(long).axes == {"width": (32, 64)}
    for config in shrink(long).expand():
        config.validate()


def test_names_that_are_no_folders():
    for name in ("", ".", "..", "a/b", "-x", "a b", "ü", "x" * 101, 3):
        with pytest.raises(UsageError):
            check_name("--study", name)
    assert check_name("--study", "rope_2.1-x") == "rope_2.1-x"
    assert Path("a", check_name("--study", "b")).parent == Path("a")
