"""Finished runs that tests of commands evaluate."""

from pathlib import Path

import pytest

from tests.support.evaluations import SMOKE, digests, succeeds, vitab, working_copy


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four runs of the smoke grid."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    succeeds(vitab(*SMOKE, "--runs", folder))
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained runs, in the folder in which the test works. The test must leave them as they are."""
    runs = working_copy(trained, tmp_path, monkeypatch)
    assert len(digests(runs)) >= 4 * 7
    return runs
