"""Finished runs that tests of commands evaluate."""

import shutil
from pathlib import Path

import pytest

from tests.support.evaluations import SMOKE, digests, succeeds, vitab


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four runs of the smoke grid."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    succeeds(vitab(*SMOKE, "--runs", folder))
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained runs, in the folder in which the test works. The test must leave them as they are."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "runs")
    assert len(digests(tmp_path / "runs")) >= 4 * 7
    return tmp_path / "runs"
