"""`vitab positions`: the list, one encoding in full, and the checks."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ablations.cli import app
from tests.support.own_encoding import write
from vit.positions import POSITIONS, own


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def vitab(*arguments: str, columns: int = 120) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the entry points `fancy`, an encoding, and `broken`."""
    write(tmp_path / "fancy_positions.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("fancy", "fancy_positions:Mine", own.ENTRY_POINTS),
        EntryPoint("broken", "no_such_module:Mine", own.ENTRY_POINTS),
    ]
    monkeypatch.setattr(own, "entry_points", lambda: {point.name: point for point in points})


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_has_every_encoding_and_fits_the_terminal(columns: int) -> None:
    result = vitab("positions", columns=columns)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")][1 : len(POSITIONS) + 1] == [
        *POSITIONS
    ]
    assert max(map(len, lines)) <= columns
    text = " ".join(result.stdout.split())
    assert "acts on tokens; parameters: 1,024; other grids: resize Dosovitskiy et al. 2020" in text
    assert "base=100 (a number above 1): pair i rotates by base^(-4i/K) per patch" in text
    assert "Parameters are those of a model of width 64, 2 heads, depth 2 and 4 x 4 patches." in text


def test_one_encoding_in_full() -> None:
    result = vitab("positions", "rope-mixed")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "x the column and y the row" in text
    assert "base 10 a number above 1 pair i starts at base^(-4i/K) per patch" in text
    assert "128 in a model of width 64" in text
    assert "rope.freqs (2, 2, 2, 16)" in text
    assert "other grids extend: " in text
    assert "interpolate: " in text
    assert "Heo et al. 2024, arXiv 2403.13298" in text
    assert vitab("positions", "show", "rope-mixed").stdout == result.stdout


def test_an_encoding_in_a_file() -> None:
    write(Path("mine.py"))
    result = vitab("positions", "mine.py:Mine(start=2)")
    assert result.exit_code == 0
    assert result.stdout.startswith("mine.py:Mine@")
    assert "Adds -slope_h * start * distance to the scores of patches; slope (H,) is learned." in result.stdout
    assert "start   0.5      above 0  penalty at the start of training" in result.stdout


@pytest.mark.usefixtures("package")
def test_encodings_of_installed_packages_are_listed_shown_and_checked() -> None:
    listed = vitab("positions").stdout
    assert "fancy              learned penalty on distant patches" in listed
    assert "cannot load the entry point broken: ModuleNotFoundError: No module named 'no_such_module'" in listed
    assert vitab("positions", "fancy").stdout.startswith("fancy@")
    assert "fancy: all checks passed" in vitab("positions", "check", "fancy").stdout


def test_a_check_that_passes_and_one_that_fails() -> None:
    write(Path("mine.py"))
    result = vitab("positions", "check", "mine.py:Mine(start=2)", columns=80)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "mine.py:Mine(start=2): all checks passed"
    assert "pass  gradients               equal central differences" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    write(Path("mine.py"), ('gradients["slope"][...] = -(', 'gradients["slope"][...] = ('))
    wrong = vitab("positions", "check", "mine.py:Mine")
    assert wrong.exit_code == 1
    assert "FAIL  gradients               the gradient of slope has the wrong sign" in wrong.stdout
    assert wrong.stdout.splitlines()[-1] == "mine.py:Mine: 1 check failed"


@pytest.mark.parametrize("command", [["positions"], ["positions", "check"]])
@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("ropee", "unknown position 'ropee' (did you mean 'rope'?); valid: none, learned"),
        ("mine.py", "position must be FILE.py:CLASS for an encoding in a file, got 'mine.py'"),
        ("none.py:Mine", "cannot read none.py: there is no such file"),
        ("mine.py:Yours", "mine.py defines no class 'Yours'; its encodings are Mine"),
        ("mine.py:Mine(strat=1)", "options of position mine.py:Mine must be one of start, got 'strat' (did you mean"),
        ("mine.py:Mine(start=0)", "start of position mine.py:Mine must be above 0, got '0'"),
        ("mine.py:Mine(start", "position must be NAME or NAME(OPTION=VALUE, ...)"),
        ("bad.py:Mine", "cannot import bad.py: SyntaxError: "),
        ("", "position must be NAME"),
    ],
)
def test_bad_input_is_one_line(command: list[str], encoding: str, message: str) -> None:
    write(Path("mine.py"))
    Path("bad.py").write_text("def :")
    result = vitab(*command, encoding)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
