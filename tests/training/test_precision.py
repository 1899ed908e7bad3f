"""The precision of products: part of what a run is, chosen by the backend, refused where there is none."""

from dataclasses import replace

import pytest

from ablations.commands.run import rerun_command
from ablations.config import Grid, RunConfig, run_key, standard_position
from ablations.errors import UsageError
from ablations.training import precision
from tests.support.own_encoding import write
from tests.support.small import SlopeByExpressions
from vit import get_ops
from vit.positions import POSITIONS

GRID = Grid("g", "which?", RunConfig(), {"position": ("none", "rope")}, (0,))


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "precisions", lambda backend: ("float32",) if backend == "numpy" else CHIP)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """An encoding with array expressions, which no CUDA kernel computes."""
    monkeypatch.setitem(POSITIONS, "own", type("Own", (SlopeByExpressions,), {}))
    return "own"


CHIP = ("bf16", "tf32", "float32")


class TestKeys:
    def test_float32_has_the_key_that_runs_had_before_the_field(self) -> None:
        assert run_key(RunConfig(), "f" * 16) == "ba5e1af515aca3887b597875926365c1fb08dd2d950cc9f9cefb1b6baac273d9"
        assert "precision" not in RunConfig().canonical()
        assert RunConfig.from_mapping(RunConfig().canonical()) == RunConfig()

    def test_another_precision_is_another_run(self) -> None:
        configs = [replace(RunConfig(), precision=name) for name in ("float32", "tf32", "bf16")]
        assert len({run_key(config, "f") for config in configs}) == 3
        assert [RunConfig.from_mapping(config.canonical()) for config in configs] == configs


@pytest.mark.usefixtures("chip")
class TestChoice:
    def test_the_backend_chooses_where_nobody_says(self) -> None:
        assert precision.choose(GRID, None, "numpy").base.precision == "float32"
        assert precision.choose(GRID, None, "cupy").base.precision == "bf16"

    def test_what_is_said_holds(self) -> None:
        own = replace(GRID, base=replace(GRID.base, precision="tf32"))
        assert precision.choose(GRID, "float32", "cupy").base.precision == "float32"
        assert precision.choose(own, None, "cupy").base.precision == "tf32"
        assert precision.choose(own, "bf16", "cupy").base.precision == "bf16"

    def test_a_grid_may_compare_precisions(self) -> None:
        grid = replace(GRID, axes={"precision": ("float32", "bf16")})
        assert precision.choose(grid, None, "cupy") == grid
        with pytest.raises(UsageError, match="compares precisions"):
            precision.choose(grid, "bf16", "cupy")
        with pytest.raises(UsageError, match="must be float32 with backend numpy, got 'bf16'"):
            precision.choose(grid, None, "numpy")

    def test_an_encoding_of_ones_own_takes_the_fastest_that_it_can(self, own: str) -> None:
        grid = replace(GRID, axes={"position": ("none", own, "rope")})
        assert precision.choose(grid, None, "cupy").base.precision == "tf32"
        assert precision.choose(grid, None, "numpy").base.precision == "float32"
        assert precision.choose(grid, "float32", "cupy").base.precision == "float32"
        alone = replace(GRID, axes={}, base=replace(GRID.base, position=own))
        assert precision.choose(alone, None, "cupy").base.precision == "tf32"

    def test_bf16_asked_for_with_such_an_encoding_is_one_line(self, own: str) -> None:
        message = (
            r"precision must be tf32, float32 with position own, which needs an array expression \(numpy.add\), "
            "got 'bf16'"
        )
        asked = replace(GRID, axes={"position": ("none", own)})
        compared = replace(asked, axes={**asked.axes, "precision": ("float32", "bf16")})
        for grid, given in ((asked, "bf16"), (compared, None)):
            with pytest.raises(UsageError, match=message):
                precision.choose(grid, given, "cupy")
        with pytest.raises(UsageError, match=message):
            precision.check_runs([RunConfig(precision="bf16"), RunConfig(precision="bf16", position=own)], "cupy")
        precision.check_runs([RunConfig(precision="bf16"), RunConfig(precision="tf32", position=own)], "cupy")

    def test_planned_runs_are_checked(self) -> None:
        with pytest.raises(UsageError, match="must be float32 with backend numpy, got 'tf32'"):
            precision.check_runs([RunConfig(), RunConfig(precision="tf32")], "numpy")
        precision.check_runs([RunConfig(), RunConfig(precision="tf32")], "cupy")

    def test_the_rerun_command_says_what_the_machine_chose(self) -> None:
        assert rerun_command(["run", "--grid", "rope"], "bf16") == "vitab run --grid rope --precision bf16"
        assert rerun_command(["run", "--precision", "bf16"], "bf16") == "vitab run --precision bf16"
        assert rerun_command(["run", "--set", "precision=bf16"], "bf16") == "vitab run --set precision=bf16"
        assert rerun_command(["run", "--grid", "rope"], "float32") == "vitab run --grid rope"


def test_an_old_chip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit.backend.cupy_precisions", lambda: ("float32",))
    with pytest.raises(UsageError, match=r"this GPU, whose compute capability is below 8\.0, got 'bf16'"):
        precision.choose(GRID, "bf16", "cupy")


def test_numpy_has_float32_alone() -> None:
    assert get_ops("numpy", precision="float32").dtype == "float32"
    with pytest.raises(ValueError, match="precision must be 'float32' with the numpy backend, got 'bf16'"):
        get_ops("numpy", precision="bf16")


def test_an_exception_of_an_encoding_in_a_file_is_left_to_the_plan(tmp_path):
    path = write(tmp_path / "mine.py", ("        bias, dbias =", "        1 / 0\n        bias, dbias ="))
    assert precision.obstacle(RunConfig(position=standard_position(f"{path}:Mine")), "bf16") is None
