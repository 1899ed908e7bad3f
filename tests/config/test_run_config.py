import dataclasses
import json
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations.config import FIELDS, Grid, RunConfig, coerce, parse, parse_axes, run_key
from ablations.config.run_config import RULES
from ablations.errors import UsageError

GOOD = RunConfig()


def test_every_field_has_a_rule_and_the_defaults_are_valid():
    assert set(RULES) == set(FIELDS)
    GOOD.validate()


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [
        ("data", "digit", "did you mean 'digits'?"),
        ("position", "ropee", "did you mean 'rope'?"),
        ("pool", "max", "'mean' or 'cls'"),
        ("labels", "medium", "'fine' or 'coarse'"),
        ("labels", "coarse", "cifar100"),
        ("epochs", 0, "at least 1"),
        ("epochs", 2.5, "at least 1"),
        ("epochs", True, "at least 1"),
        ("depth", 0, "at least 1"),
        ("width", -4, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("nan"), "above 0"),
        ("learning_rate", "fast", "above 0"),
        ("weight_decay", -0.1, "at least 0"),
        ("validation", 1.0, "above 0 and below 1"),
        ("data_fraction", 0.0, "above 0"),
        ("dropout", 1.0, "of at least 0 and below 1"),
        ("erase", 1.5, "from 0 to 1"),
        ("flip", 1, "true or false"),
        ("classes", 1, "at least 2"),
        ("classes", ("cat", "cat"), "different"),
        ("per_class", 0, "at least 1"),
        ("seed", -1, "2^32"),
        ("warmup_epochs", 30.0, "below epochs (30)"),
    ],
)
def test_a_bad_value_is_named_with_what_is_valid(field, value, valid):
    with pytest.raises(UsageError) as error:
        dataclasses.replace(GOOD, **{field: value}).validate()
    message = str(error.value)
    assert valid in message
    assert "\n" not in message
    assert (str(value) in message) or (list(value) if isinstance(value, tuple) else value) is not None


def test_from_mapping_is_strict_and_suggests():
    assert RunConfig.from_mapping({"depth": 3, "learning_rate": 1}).learning_rate == 1.0
    assert RunConfig.from_mapping({"classes": ["3", "5"]}).classes == ("3", "5")
    with pytest.raises(UsageError, match=r"unknown field 'detph'.*did you mean 'depth'"):
        RunConfig.from_mapping({"detph": 3})
    with pytest.raises(UsageError, match="depth must be an integer of at least 1, got '3'"):
        RunConfig.from_mapping({"depth": "3"})


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("learning_rate", "1e-3", 1e-3),
        ("depth", " 4", 4),
        ("flip", "True", True),
        ("classes", "20", 20),
        ("classes", "cat, dog", ("cat", "dog")),
        ("classes", "none", None),
        ("per_class", "none", None),
        ("per_class", "5", 5),
        ("position", "rope", "rope"),
    ],
)
def test_values_of_the_command_line(field, text, value):
    assert parse(field, text) == value
    assert type(parse(field, text)) is type(value)


@pytest.mark.parametrize(
    ("field", "text"),
    [("depth", "4.5"), ("depth", "x"), ("learning_rate", "nan"), ("learning_rate", "inf"), ("flip", "yes")],
)
def test_bad_values_of_the_command_line(field, text):
    with pytest.raises(UsageError, match=rf"{field} must be .*{text}"):
        parse(field, text)


def test_the_key_depends_on_every_field_and_on_the_data_only():
    base = run_key(GOOD, "f" * 64)
    assert len(base) == 64
    assert base == run_key(RunConfig(), "f" * 64)
    assert base == run_key(dataclasses.replace(GOOD, learning_rate=2e-3, mlp_ratio=4), "f" * 64)
    others = {"classes": 5, "per_class": 5, "labels": "coarse", "data": "cifar10", "position": "none", "pool": "cls"}
    others |= {"columns": "label=dx", "group_pattern": "^p", "resize": "pad", "image_size": 48, "channels": 1}
    keys = {run_key(GOOD, "e" * 64), base}
    for name, kind in FIELDS.items():
        value = getattr(GOOD, name)
        other = others.get(name, not value if kind is bool else value + 1 if kind in (int, float) else None)
        keys.add(run_key(dataclasses.replace(GOOD, **{name: other}), "f" * 64))
    assert len(keys) == len(FIELDS) + 2


def test_the_key_is_the_same_for_ever():
    """A change here orphans every finished run of every user: raise the format in run_key, and say so."""
    config = RunConfig(
        data="digits",
        labels="fine",
        classes=None,
        per_class=None,
        data_fraction=1.0,
        validation=0.15,
        position="rope",
        depth=2,
        patch=2,
        width=64,
        heads=2,
        mlp_ratio=4.0,
        pool="mean",
        dropout=0.0,
        drop_path=0.0,
        init_std=0.06,
        epochs=10,
        batch_size=64,
        learning_rate=0.001,
        weight_decay=0.05,
        warmup_epochs=3.0,
        label_smoothing=0.1,
        clip_norm=1.0,
        crop_padding=0,
        flip=False,
        erase=0.0,
        mixup=0.0,
        cutmix=0.0,
        trivial_augment=False,
        ema=0.0,
        seed=0,
    )
    assert run_key(config, "0" * 64) == "12b4690f6d764497bb2265eb6237d455e992882252c4245b1d990cb3bc95c7a0"


@given(
    depth=st.integers(1, 50),
    rate=st.floats(1e-6, 1, allow_nan=False),
    classes=st.none() | st.integers(2, 99) | st.lists(st.text(), min_size=2, max_size=4, unique=True).map(tuple),
    flip=st.booleans(),
)
def test_a_config_survives_json(depth, rate, classes, flip):
    config = RunConfig(depth=depth, learning_rate=rate, classes=classes, flip=flip)
    assert RunConfig.from_mapping(json.loads(json.dumps(config.canonical()))) == config


def test_coerce_refuses_a_bool_for_a_number():
    with pytest.raises(UsageError, match="depth must be"):
        coerce("depth", True)


def test_a_grid_has_each_run_once_and_a_whole_block_first():
    grid = Grid("g", "?", GOOD, {"position": ("none", "rope"), "patch": (2, 4, 2), "width": (32, 64)}, (0, 1))
    runs = grid.expand()
    assert len(runs) == 2 * 2 * 2 * 2
    assert [(r.position, r.patch, r.width, r.seed) for r in runs[:5]] == [
        ("none", 2, 32, 0),
        ("rope", 2, 32, 0),
        ("none", 4, 32, 0),
        ("rope", 4, 32, 0),
        ("none", 2, 64, 0),
    ]
    assert [r.seed for r in runs] == [0] * 8 + [1] * 8


def test_what_a_grid_compares():
    base = Grid("g", "?", GOOD, {"position": ("rope",), "depth": (1, 2, 4), "patch": (2, 4)}, (0, 1, 2))
    assert (base.compared, base.levels, base.blocks) == ("depth", (1, 2, 4), 6)
    wider = dataclasses.replace(base, axes={**base.axes, "position": ("none", "rope")})
    assert (wider.compared, wider.levels, wider.blocks) == ("position", ("none", "rope"), 18)
    single = dataclasses.replace(base, axes={})
    assert (single.compared, single.levels, single.blocks) == ("position", ("rope",), 3)


class TestPositions:
    """Options of an encoding are part of its name; an option at its default is left out, and the key is as before."""

    KEYS: ClassVar = {
        "none": "5b899856e4a81532bbc5ec0f9e6012040e0b5679312ede8157727b9c9eec21da",
        "learned": "1804f1a91ae644a9f93be6d94c0bda669175320ccc86b48d11b74ee2b4ae9f4b",
        "sinusoidal": "6d632d28f8759e5c921ca16a00426a81f3650fe5dedba814a29a0ec28b925305",
        "rope": "ba5e1af515aca3887b597875926365c1fb08dd2d950cc9f9cefb1b6baac273d9",
    }
    """Of runs that were made before encodings had options."""

    @pytest.mark.parametrize("name", KEYS)
    def test_keys_are_those_of_older_runs(self, name: str) -> None:
        assert run_key(RunConfig(position=name), "f" * 16) == self.KEYS[name]

    @pytest.mark.parametrize("text", ["rope(base=100)", " rope( coordinates=index, base=1e2 ) "])
    def test_a_default_is_left_out(self, text: str) -> None:
        config = RunConfig.from_mapping({"position": text})
        assert config == RunConfig.from_mapping({"position": "rope"})
        assert parse("position", text) == "rope"

    def test_an_option_is_another_run(self) -> None:
        texts = ("rope", "rope(base=10)", "rope(base=1000)", "rope+learned", "rope(base=10)+learned")
        configs = [RunConfig.from_mapping({"position": text}) for text in texts]
        assert len({run_key(config, "f" * 16) for config in configs}) == 5
        assert [RunConfig.from_mapping(config.canonical()) for config in configs] == configs
        assert [config.position for config in configs] == list(texts)

    def test_commas_in_brackets_do_not_separate(self) -> None:
        axes = parse_axes({"position": "none,rope(base=10,coordinates=centred), learned+rope(base=10)"})
        assert axes == {"position": ("none", "rope(base=10,coordinates=centred)", "rope(base=10)+learned")}

    def test_another_spelling_in_python_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"in its standard spelling, .rope., got .rope.base=100.."):
            RunConfig(position="rope(base=100)").validate()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("ropee(base=10)", "unknown position 'ropee' .did you mean 'rope'"),
            ("rope(base=-1)", "base of position rope must be a number above 1, got '-1'"),
            ("rope(bse=10)", "options of position rope must be one of base, coordinates, got 'bse' .did you mean base"),
            ("rope+none", "position must not add 'none'"),
            ("missing.py:Mine", "cannot read missing.py: there is no such file"),
        ],
    )
    def test_a_wrong_one_is_one_line(self, text: str, message: str) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            parse("position", text)
        assert "\n" not in str(caught.value)
