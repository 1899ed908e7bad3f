"""`vitab bench` compares with PyTorch, or says in one line why it cannot."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

import ablations.machine
from ablations.cli import app

TINY = ["bench", "--width", "8", "--depth", "1", "--patch", "8", "--image", "8", "--batch", "2", "--seconds", "0.01"]


def bench() -> SimpleNamespace:
    result = CliRunner().invoke(app, [*TINY, "--backend", "numpy"])
    assert result.exit_code == 0, result.output
    return SimpleNamespace(lines=result.stdout.splitlines(), note=result.stderr)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a clone's PyTorch model, beside another package named benchmarks that is already imported."""
    monkeypatch.setitem(sys.modules, "benchmarks", ModuleType("benchmarks"))
    monkeypatch.setattr(ablations.machine, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    return tmp_path / "benchmarks" / "torch_peer.py"


def test_the_model_of_this_clone_is_the_peer(clone: Path) -> None:
    clone.write_text("""
import time
class TorchStepper:
    def __init__(self, config, images, targets, compiled):
        assert (config.width, images.shape, targets.shape, compiled) == (8, (2, 8, 8, 3), (2, 10), False)
    def step(self):
        time.sleep(0.001)
""")
    done = bench()
    assert done.note == ""
    assert [line.split()[0] for line in done.lines] == ["vitab", "PyTorch"]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (None, "the folder benchmarks/ was not found (it is part of a git clone)"),
        ("import torch", "PyTorch is not installed"),
        (
            "raise OSError('libcudart.so.13:\\ncannot open')",
            "PyTorch cannot be imported (libcudart.so.13: cannot open)",
        ),
        ("import torch_of_no_use", "PyTorch cannot be imported (No module named 'torch_of_no_use')"),
    ],
)
def test_what_is_missing_is_one_line(
    clone: Path, content: str | None, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        clone.write_text(content)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    done = bench()
    assert done.note == f"no comparison with PyTorch: {note}\n"
    assert [line.split()[0] for line in done.lines] == ["vitab"]
