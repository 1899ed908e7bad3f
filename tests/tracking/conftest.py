"""A folder to work in, runs that take no time, a report that takes none, and a tracker named fake."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from ablations.storage import Store
from ablations.tracking import live, registry, study
from tests.support import fake_trackers, fake_trainer
from tests.support.evaluations import succeeds, vitab

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("PROJECT", "ENTITY", "MODE", "DIR", "CACHE_DIR", "DATA_DIR", "BASE_URL", "RUN_GROUP", "NAME", "TAGS")
"""Of trackers, as environment variables."""

SMOKE = ["run", "--grid", "smoke", "--set", "per_class=5", "--workers", "1", "--epochs", "3"]

REAL_REPORT = study.written_report


@contextmanager
def small_report(store: Store, name: str) -> Iterator[Path]:
    folder = store.root.parent / "report of a test"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "tables").mkdir(exist_ok=True)
    figure = "[![Dots [a].](figures/accuracy.png)](figures/accuracy.svg)"
    (folder / "README.md").write_text(f"# {name}\n\nOne **finding**.\n\n{figure}\n")
    (folder / "report.html").write_text(f"<h1>{name}</h1>")
    Image.new("RGB", (3, 2), "red").save(folder / "figures" / "accuracy.png")
    (folder / "tables" / "runs.csv").write_text("key\n1\n")
    yield folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in SETTINGS:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_DIR", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    monkeypatch.setitem(registry.TRACKERS, "fake", "tests.support.fake_trackers:Notebook")
    monkeypatch.setitem(registry.PACKAGES, "fake", ())
    monkeypatch.delenv(fake_trackers.FAULT, raising=False)
    for module in (live, study):
        monkeypatch.setattr(module, "written_report", small_report)
    return tmp_path


@pytest.fixture
def finished(here: Path) -> Path:
    """A folder with the four finished runs of the smoke grid."""
    succeeds(vitab(*SMOKE))
    return here / "runs"
