"""A small study, run from Python."""

from dataclasses import replace
from pathlib import Path

import pytest

import ablations
from ablations.config import GRIDS
from tests.support.evaluations import working_copy

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
    return working_copy(trained, tmp_path, monkeypatch)
