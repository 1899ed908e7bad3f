"""The design of a search: from a file, from the command line and from Python, and every bad input in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablations.config import GRIDS, Grid, Range, RunConfig, TuningDesign, override, parse_spaces, shrink, with_tuning
from ablations.config.grid_files import load_grid
from ablations.config.tuning import LAST_SEED, TUNABLE, parse_space, pruning_warning, shown_value, space_text
from ablations.errors import UsageError

WHOLE = """
axes.position = ["none", "rope"]
[tune]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
weight_decay = [0, 0.05, 0.3]
trials = 16
seeds = 2
epochs = 3
per = "arm"
sampler = "tpe"
prune = "median"
"""
DESIGN = TuningDesign(
    {"learning_rate": Range(1e-4, 1e-2, log=True), "weight_decay": (0.0, 0.05, 0.3)}, 16, 2, "arm", "tpe", "median", 3
)


def read(folder: Path, text: str) -> Grid:
    path = folder / "mine.toml"
    path.write_text(text)
    return load_grid(path)


def test_a_file_and_the_command_line_say_the_same(tmp_path: Path) -> None:
    grid = read(tmp_path, WHOLE)
    assert grid.tuning == DESIGN
    spaces = parse_spaces(["learning_rate=1e-4:1e-2:log", "weight_decay=0, 0.05,0.3,0.3"])
    options = {"trials": 16, "seeds": 2, "epochs": 3, "per": "arm", "sampler": "tpe", "prune": "median"}
    assert with_tuning(replace(grid, tuning=None), spaces, options) == grid
    assert TuningDesign.from_plain(json.loads(json.dumps(DESIGN.to_plain()))) == DESIGN


def test_options_of_the_command_line_change_the_design_of_a_file(tmp_path: Path) -> None:
    grid = read(tmp_path, WHOLE)
    assert with_tuning(grid, {}, {"trials": 3, "seeds": None}).tuning == replace(DESIGN, trials=3)
    more = with_tuning(grid, parse_spaces(["dropout=0:0.2"]), {}).tuning
    assert more is not None
    assert more.space == {**DESIGN.space, "dropout": Range(0.0, 0.2)}


def test_a_design_without_epochs_is_stored_as_before_there_were_any() -> None:
    plain = replace(DESIGN, epochs=None).to_plain()
    assert "epochs" not in plain
    assert TuningDesign.from_plain(plain) == replace(DESIGN, epochs=None)


@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "shortened", "shortened_warmup"),
    [(30, 3.0, 10, 1.0), (15, 1.5, 5, 0.5), (2, 0.5, 1, 0.25), (1, 0.0, 1, 0.0), (4, 3.9, 1, 0.975)],
)
def test_epochs_of_trials_are_in_proportion(
    epochs: int, warmup_epochs: float, shortened: int, shortened_warmup: float
) -> None:
    config = RunConfig(epochs=epochs, warmup_epochs=warmup_epochs, learning_rate=0.004)
    found = replace(DESIGN, epochs=10).shortened(config, RunConfig(epochs=30))
    assert found.warmup_epochs == pytest.approx(shortened_warmup)
    assert found == replace(config, epochs=shortened, warmup_epochs=found.warmup_epochs)
    assert replace(DESIGN, epochs=None).shortened(config, RunConfig(epochs=30)) is config
    found.validate()


def test_trials_are_never_longer_than_the_comparison() -> None:
    design = replace(DESIGN, epochs=10)
    assert design.limited_to(11) is design
    assert design.limited_to(10) == design.limited_to(3) == replace(DESIGN, epochs=None)


def test_trials_of_one_epoch_are_not_pruned() -> None:
    design = replace(DESIGN, epochs=1)
    assert not design.prunes
    assert pruning_warning(design) == (
        "no trial will be pruned: trials have 1 epoch; use more --tune-epochs, or --no-prune"
    )
    assert replace(DESIGN, epochs=2).prunes
    assert pruning_warning(replace(DESIGN, epochs=2)) is None


def test_defaults(tmp_path: Path) -> None:
    tuning = read(tmp_path, "axes.depth = [1, 2]\ntune.ema = {low = 0, high = 0.9}").tuning
    assert tuning == TuningDesign({"ema": Range(0.0, 0.9)}, 12, 1, "setting", "qmc", "none")
    few = with_tuning(GRIDS["smoke"], parse_spaces(["flip=true,false"]), {}).tuning
    assert few is not None
    assert few.trials == 2  # all combinations
    assert GRIDS["rope"].tuning is None


def test_fields_of_every_type_can_be_tuned() -> None:
    assert parse_space("batch_size=16:128:log") == ("batch_size", Range(16, 128, log=True))
    assert parse_space(" flip = true,false ") == ("flip", (True, False))
    base, values = RunConfig(), {bool: "true,false", int: "1:2", float: "0.1:0.2"}
    for field in TUNABLE:
        with_tuning(GRIDS["smoke"], parse_spaces([f"{field}={values[type(getattr(base, field))]}"]), {"trials": 2})


@pytest.mark.parametrize(
    ("design", "rounds"),
    [
        (TuningDesign({}, 12), (12,)),
        (TuningDesign({}, 12, prune="median"), (4, 4, 4)),
        (TuningDesign({}, 12, sampler="tpe"), (4, 4, 4)),
        (TuningDesign({}, 5, prune="median"), (4, 1)),
        (TuningDesign({}, 3, prune="median"), (3,)),
        (TuningDesign({}, 50, sampler="tpe"), (13, 13, 13, 11)),
    ],
)
def test_rounds_follow_from_the_design(design: TuningDesign, rounds: tuple[int, ...]) -> None:
    assert design.rounds == rounds


def test_texts() -> None:
    assert [space_text(space) for space in DESIGN.space.values()] == ["0.0001:0.01:log", "0,0.05,0.3"]
    assert [shown_value(value) for value in (0.0021349, 64, True, 0.0)] == ["0.00213", "64", "True", "0"]


def test_a_smoke_test_has_as_few_trials_as_the_space_allows(tmp_path: Path) -> None:
    tuning = shrink(read(tmp_path, WHOLE)).tuning
    assert tuning == replace(
        DESIGN, trials=3, seeds=1, epochs=None, prune="none"
    )  # one round, of which nothing is pruned


def bad(text: str) -> str:
    return f"axes.position = ['none', 'rope']\n[tune]\n{text}"


LR = "learning_rate = {low = 1e-4, high = 1e-2}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bad("learning_rate = {log = true}"), "[tune] learning_rate must have low and high, got no low and no high"),
        (bad("learning_rate = {low = 1e-4}"), "[tune] learning_rate must have low and high, got no high"),
        (
            bad("weight_decay = {low = 0, high = 0.3, log = true}"),
            "[tune] low of weight_decay must be above 0 with log, got 0",
        ),
        (
            bad("learning_rate = {low = 1e-2, high = 1e-4}"),
            "low of learning_rate must be below high (0.0001), got 0.01",
        ),
        (bad("learning_rate = {low = 1e-2, high = 1e-2}"), "low of learning_rate must be below high (0.01), got 0.01"),
        (bad("learning_rate = {low = 0, high = 1}"), "low of learning_rate must be a number above 0, got 0"),
        (bad("learning_rate = {low = 'a', high = 1}"), "low of learning_rate must be a number above 0, got 'a'"),
        (bad("learning_rate = {low = 1e-4, high = inf}"), "high of learning_rate must be a number above 0, got inf"),
        (bad("batch_size = {low = 8.5, high = 64}"), "low of batch_size must be an integer of at least 1, got 8.5"),
        (
            bad("learning_rate = {low = 1e-4, high = 1e-2, log = 'yes'}"),
            "log of learning_rate must be true or false, got 'yes'",
        ),
        (bad("learning_rate = {min = 1, high = 2}"), "unknown bound of learning_rate 'min'; valid: low, high, log"),
        (bad("learning_rate = 1e-3"), "learning_rate must be { low, high } or a list of values, got 0.001"),
        (bad("learning_rate = [1e-3]"), "learning_rate must have at least two different values, got [0.001]"),
        (bad("learning_rate = [1e-3, 1e-3]"), "learning_rate must have at least two different values"),
        (bad("learning_rate = [1e-3, -1]"), "learning_rate must be a number above 0, got -1"),
        (bad("flip = {low = 0, high = 1}"), "flip must be a list of values, as it has no range"),
        (bad("learning_rat = [1, 2]"), "unknown field 'learning_rat' (did you mean 'learning_rate'?); valid: "),
        (bad("width = [32, 64]"), "width cannot be tuned; fields that can: learning_rate, weight_decay, "),
        (bad("seed = [1, 2]"), "seed cannot be tuned"),
        (bad("data = ['digits', 'cifar10']"), "data cannot be tuned"),
        (bad("trials = 3"), "[tune] must have a field with its space, such as learning_rate = { low = 1e-4, "),
        (bad(LR + "trials = 0"), "[tune] trials must be an integer of at least 1, got 0"),
        (bad(LR + "trials = 2.5"), "trials must be an integer of at least 1, got 2.5"),
        (bad(LR + "trials = true"), "trials must be an integer of at least 1, got True"),
        (bad(LR + "seeds = 0"), "[tune] seeds must be an integer of at least 1, got 0"),
        (bad(LR + "seeds = [1]"), "[tune] seeds must be an integer of at least 1, got [1]"),
        (bad(LR + "epochs = 0"), "[tune] epochs must be an integer of at least 1, got 0"),
        (bad(LR + "epochs = 1.5"), "[tune] epochs must be an integer of at least 1, got 1.5"),
        (
            "axes.epochs = [4, 8]\n[tune]\nepochs = 2\n" + LR,
            "epochs of trials cannot be set where epochs is an axis, got 2",
        ),
        (
            "axes.warmup_epochs = [0.5, 1.0]\n[tune]\nepochs = 2\n" + LR,
            "epochs of trials cannot be set where warmup_epochs is an axis, got 2",
        ),
        (
            bad("epochs = 2\nwarmup_epochs = {low = 0, high = 1}"),
            "epochs of trials cannot be set where warmup_epochs is tuned, got 2",
        ),
        (bad(LR + "per = 'depth'"), "per must be 'setting' or 'arm', got 'depth'"),
        (bad(LR + "sampler = 'grid'"), "sampler must be 'qmc' or 'tpe', got 'grid'"),
        (bad(LR + "prune = true"), "prune must be 'none' or 'median', got True"),
        (
            bad("weight_decay = [0.0, 0.1, 0.2]\n" + LR + "trials = 2"),
            "trials must be at least 3, the number of values of weight_decay, got 2",
        ),
        (
            bad("weight_decay = [0.0, 0.1]\nflip = [true, false]\ntrials = 5"),
            "trials must be at most 4, the number of combinations of values, got 5",
        ),
        (
            "axes.learning_rate = [1e-3, 2e-3]\n[tune]\n" + LR,
            "learning_rate must be in axes or in tune, not in both",
        ),
        ("axes.depth = [1, 2]\nbase.learning_rate = 1e-3\n[tune]\n" + LR, "learning_rate must be in base or in tune"),
        (
            "axes.depth = [1, 2]\nbase.epochs = 4\n[tune]\nwarmup_epochs = {low = 0, high = 4}",
            "warmup_epochs must be below epochs (4), got 4.0",
        ),
        (f"axes.depth = [1, 2]\nseeds = [0, {LAST_SEED}]\n[tune]\n{LR}", "with tuning, whose trials have the others"),
        ("tune = 3\naxes.depth = [1, 2]", "tune must be a table, written [tune], got 3"),
    ],
)
def test_a_bad_table_is_one_line_with_the_file_and_the_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "mine.toml"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spaces", "options", "fixed", "message"),
    [
        (["learning_rate"], {}, (), "--tune must be FIELD=LOW:HIGH, FIELD=LOW:HIGH:log or FIELD=VALUE,VALUE"),
        (["learning_rate="], {}, (), "such as learning_rate=1e-4:1e-2:log, got 'learning_rate='"),
        (["learning_rate=1:2:3"], {}, (), "--tune learning_rate must be LOW:HIGH or LOW:HIGH:log, got '1:2:3'"),
        (["learning_rate=1e-4:1e-2:ln"], {}, (), "--tune learning_rate must be LOW:HIGH or LOW:HIGH:log"),
        (["learning_rate=1e-4:"], {}, (), "learning_rate must be a number above 0, got"),
        (["learning_rate=a,b"], {}, (), "learning_rate must be a number above 0, got"),
        (["weight_decay=0:1:log"], {}, (), "low of weight_decay must be above 0 with log, got 0"),
        (["dropout=0:1"], {}, (), "dropout must be a number of at least 0 and below 1"),
        (["depth=1,2"], {}, (), "depth cannot be tuned"),
        (["ema=0,0.9"] * 2, {}, (), "--tune must be given once for ema, got it twice"),
        (["ema=0:0.9"], {"trials": 0}, (), "--trials must be an integer of at least 1, got 0"),
        (["ema=0:0.9"], {"seeds": 0}, (), "--tune-seeds must be an integer of at least 1, got 0"),
        (["ema=0:0.9"], {"epochs": 0}, (), "--tune-epochs must be an integer of at least 1, got 0"),
        (["ema=0:0.9"], {"sampler": "x"}, (), "--tune-sampler must be 'qmc' or 'tpe', got 'x'"),
        (["ema=0:0.9"], {"per": "x"}, (), "--tune-per must be 'setting' or 'arm', got 'x'"),
        (["ema=0:0.9"], {}, ("ema",), "ema must be set or tuned, not both"),
        ([], {"trials": 3}, (), "--trials requires --tune, such as learning_rate=1e-4:1e-2:log"),
        ([], {"epochs": 1}, (), "--tune-epochs requires --tune"),
        ([], {"prune": "none"}, (), "--prune requires --tune"),
    ],
)
def test_bad_options_are_one_line(spaces: list[str], options: dict[str, Any], fixed: tuple[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        with_tuning(GRIDS["smoke"], parse_spaces(spaces), options, fixed)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tuned_field_is_no_axis_however_it_became_one() -> None:
    tuned = with_tuning(GRIDS["smoke"], parse_spaces(["ema=0:0.9"]), {})
    with pytest.raises(
        UsageError, match="tune ema must not be an axis of the grid: its levels are compared, not tuned"
    ):
        override(tuned, axes={"ema": [0.0, 0.9]}).expand()


def test_a_design_from_python_is_checked_too() -> None:
    grid = replace(GRIDS["smoke"], tuning=TuningDesign({"width": (16, 32)}))
    with pytest.raises(UsageError, match="width cannot be tuned"):
        grid.expand()
    with pytest.raises(UsageError, match=r"ema must be \{ low, high \} or a list of values, got 0.5"):
        replace(grid, tuning=TuningDesign({"ema": 0.5})).expand()  # type: ignore[dict-item]
    assert TuningDesign({"ema": [0.0, 0.5]}) == TuningDesign({"ema": (0.0, 0.5)})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="trials must be an integer of at least 1"):
        replace(grid, tuning=TuningDesign({"ema": Range(0, 0.5)}, trials=0)).expand()
