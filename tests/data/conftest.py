"""No test finds a data set of the machine; a server for those that fetch."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablations.data.datasets import fashion_mnist
from tests.support.served import Server


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.data.locations.cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("ablations.data.catalog.cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "no-debian")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
