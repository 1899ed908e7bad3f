"""What every test process has in common: its share of the cores, and an environment without a terminal's settings."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablations.machine.cpu import available_cores
from ablations.reporting.figures.figure import ReportFigure
from tests.support.rendering import save_one_pixel

TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""Variables that change what Rich prints."""

for name in TERMINAL:
    os.environ.pop(name, None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes side by side use the cores


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes of `-n auto`: with psutil installed it would be the number of physical cores."""
    return available_cores()


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Files of this process are not flushed to the disk: that takes longest of all, and only a power cut shows it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_rendering() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReportFigure, "save", save_one_pixel)
        yield


@pytest.fixture(autouse=True, scope="session")
def _decoded_pictures_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pictures that tests decode are not kept in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("decoded")
        patch.setattr("ablations.data.locations.decoded_folder", lambda: folder)
        yield


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which commands of the test work; they may set the handler of SIGTERM."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)
