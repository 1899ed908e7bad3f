"""A small study, run from Python."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import ablations
from ablations.config import GRIDS

SMOKE = replace(GRIDS["smoke"], protocols=("calibration",))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four runs of the smoke grid, measured by a protocol."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    with pytest.warns(UserWarning, match="no difference can reach p = 0.05 with 2 pairs of runs"):
        ablations.run(SMOKE, runs=folder, per_class=5, workers=1, quiet=True)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained runs as `runs` in the folder in which the test works."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"
