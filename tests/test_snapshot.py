"""A run that is cut short, by request or by SIGKILL, ends with the bits of one that was not; damage is not trusted."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_trainer import BASE, EVERYTHING, FEW, STEPS, same_bits

from ablations import snapshot
from ablations.config import RunConfig
from ablations.data import load
from ablations.snapshot import Keeper, Snapshot
from ablations.trainer import train

ROOT = Path(__file__).resolve().parent.parent
WHO = {"key": "k", "code": "c"}


def stopping_after(steps):
    """A question that is answered with yes from that step on; it is asked twice when it is answered with yes."""
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "with everything"])
@pytest.mark.parametrize("steps", [1, 3, STEPS, STEPS + 1, 3 * STEPS])
def test_a_run_that_is_stopped_goes_on_with_the_same_bits(tmp_path, steps, changes):
    config, path = replace(BASE, **changes), tmp_path / "resume.bin"
    with pytest.raises(KeyboardInterrupt):
        train(config, FEW, threads=1, keeper=Keeper(path, WHO, stop=stopping_after(steps)))
    epochs = []
    resumed = train(config, FEW, threads=2, keeper=Keeper(path, WHO), on_epoch=lambda m: epochs.append(m.epoch))
    assert epochs == list(range((steps - 1) // STEPS + 1, 4))  # an epoch that was told of is not told of again
    assert same_bits(resumed, train(config, FEW, threads=1))
    assert [m.epoch for m in resumed.metrics] == [1, 2, 3]
    assert resumed.train_seconds <= resumed.seconds


def test_a_snapshot_is_taken_by_time(tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(snapshot.time, "monotonic", lambda: now[0])
    keeper = Keeper(tmp_path / "resume.bin", WHO, interval=60.0)
    for now[0] in range(0, 200, 7):
        if keeper.due():
            keeper.save(Snapshot({"now": now[0]}, {"a": np.zeros(1)}))
            saved.append(now[0])
    assert saved == [63, 126, 189]
    assert keeper.load().notes == {"now": 189}


def test_a_damaged_or_foreign_snapshot_is_none(tmp_path):
    path = tmp_path / "resume.bin"
    keeper = Keeper(path, WHO)
    assert keeper.load() is None
    keeper.save(Snapshot({"losses": [0.1, 1 / 3]}, {"a": np.arange(5, dtype=np.float32)}))
    good = path.read_bytes()
    loaded = keeper.load()
    assert loaded.notes == {"losses": [0.1, 1 / 3]}
    assert np.array_equal(loaded.arrays["a"], np.arange(5, dtype=np.float32))
    assert Keeper(path, WHO | {"key": "other"}).load() is None
    rng = np.random.default_rng(0)
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        assert keeper.load() is None
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        assert keeper.load() is None


def test_a_run_starts_again_when_its_snapshot_is_damaged(tmp_path):
    path = tmp_path / "resume.bin"
    path.write_bytes(b"0" * 64 + b"\n" + b"x" * 100)
    assert same_bits(train(BASE, FEW, threads=1, keeper=Keeper(path, WHO)), train(BASE, FEW, threads=1))


def test_a_disk_that_takes_no_snapshot_costs_no_run(tmp_path):
    keeper = Keeper(tmp_path / "missing" / "resume.bin", WHO, interval=0.0)
    assert same_bits(train(BASE, FEW, threads=1, keeper=keeper), train(BASE, FEW, threads=1))


CHILD = """
import sys
from pathlib import Path
from ablations.config import RunConfig
from ablations.data import load
from ablations.snapshot import Keeper
from ablations.trainer import train
config = RunConfig(**{config!r})
train(config, load("digits"), threads=1, keeper=Keeper(Path(sys.argv[1]), {who!r}, interval=0.0))
"""


def test_a_killed_process_loses_nothing_of_the_result(tmp_path):
    fields = {"patch": 4, "depth": 1, "width": 16, "epochs": 30, "ema": 0.9, "dropout": 0.1}
    path = tmp_path / "resume.bin"
    code = CHILD.format(config=fields, who=WHO)
    process = subprocess.Popen([sys.executable, "-c", code, path], env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
    config, digits = RunConfig(**fields), load("digits")
    kept = Keeper(path, WHO).load()
    assert kept.notes["optimizer_step"] > 0
    assert len(kept.notes["metrics"]) < 30
    resumed = train(config, digits, threads=1, keeper=Keeper(path, WHO))
    assert same_bits(resumed, train(config, digits, threads=1))
