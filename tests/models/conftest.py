"""Small trained models: a study of digits, one with a class token, and one of colour pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.storage import Store
from tests.support.evaluations import succeeds, vitab, working_copy

TINY = [
    *("--grid", "rope", "--epochs", "1", "--patch", "4", "--workers", "1"),
    *("--set", "width=16", "--set", "warmup_epochs=0", "--set", "learning_rate=0.01"),
]
ARMS = ["--study", "arms", "--position", "none,rope", "--depth", "1,2", "--seeds", "2", "--set", "per_class=5"]
TOKEN = ["--study", "token", "--position", "rope(base=10)", "--depth", "2", "--seeds", "1", "--set", "pool=cls"]
COLOUR = ["--study", "colour", "--position", "learned", "--depth", "1", "--seeds", "1", "--data", "folder"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set like CIFAR: two classes of 32 x 32 pictures in colour, one bluer than the other."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for name, blue in (("sea", 160), ("field", 90)):
        for i in range(30):
            pixels = rng.normal([100, 120, blue], 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A folder of runs with the studies token, colour and, planned last, arms."""
    folder = tmp_path_factory.mktemp("models") / "runs"
    succeeds(vitab("run", *TINY, *TOKEN, "--set", "per_class=20", "--runs", folder))
    succeeds(vitab("run", *TINY, *COLOUR, "--data-dir", pictures, "--runs", folder))
    succeeds(vitab("run", *TINY, *ARMS, "--runs", folder))
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained runs as `runs` in the folder in which the test works."""
    return working_copy(trained, tmp_path, monkeypatch)


@pytest.fixture
def store(runs: Path) -> Store:
    return Store(runs)
