"""A run that is truncated, by request or by SIGKILL, ends with the bits of one that was not; damage is not trusted."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ablations.config import RunConfig
from ablations.data import load
from ablations.training import checkpoint as snapshot
from ablations.training.checkpoint import Checkpointer, TrainingState
from ablations.training.trainer import train
from tests.training.test_trainer import BASE, EVERYTHING, FEW, STEPS, same_bits

ROOT = Path(__file__).resolve().parents[2]
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
        train(config, FEW, threads=1, checkpointer=Checkpointer(path, WHO, stop=stopping_after(steps)))
    epochs = []
    resumed = train(
        config, FEW, threads=2, checkpointer=Checkpointer(path, WHO), on_epoch=lambda m: epochs.append(m.epoch)
    )
    assert epochs == list(range((steps - 1) // STEPS + 1, 4))  # an epoch that was told of is not told of again
    assert same_bits(resumed, train(config, FEW, threads=1))
    assert [m.epoch for m in resumed.metrics] == [1, 2, 3]
    assert resumed.train_seconds <= resumed.seconds


@pytest.mark.parametrize(
    ("step", "write", "expected"),
    [(7, 0, [49, 98, 147, 196]), (1, 0, [53, 106, 159]), (50, 0, [50, 100, 150]), (90, 0, [90, 180]), (7, 5, [49, 96])],
)
def test_no_more_than_the_interval_lies_between_two_snapshots(tmp_path, monkeypatch, step, write, expected):
    """Also with the step under way and the time to write: 49 and not 56, for 63 would be too late."""
    now, saved = [0.0], []

    def write_file(path, content):
        now[0] += write
        path.write_bytes(content)

    monkeypatch.setattr(snapshot.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(snapshot, "write_file", write_file)
    checkpointer = Checkpointer(tmp_path / "resume.bin", WHO, interval=60.0)
    while now[0] + step < 200 and len(saved) < len(expected):
        now[0] += step
        if checkpointer.is_due():
            saved.append(now[0])
            checkpointer.save(TrainingState({"now": now[0]}, {"a": np.zeros(1)}))
    assert saved == expected
    assert checkpointer.load().progress == {"now": expected[-1]}


def test_a_snapshot_is_taken_before_an_evaluation_that_would_make_it_late(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(snapshot.time, "monotonic", lambda: now[0])
    checkpointer = Checkpointer(interval=60.0)
    for now[0] in range(1, 31):
        assert not checkpointer.is_due()
    now[0] = 31
    assert not checkpointer.is_due(22.9)
    now[0] = 32
    assert checkpointer.is_due(22)


def test_a_run_asks_with_the_time_of_its_evaluation_at_the_end_of_an_epoch(monkeypatch):
    asked = []
    monkeypatch.setattr(Checkpointer, "is_due", lambda checkpointer, steps=1.0: asked.append(steps) is not None)
    train(BASE, FEW, threads=1)
    *asked, before_test = asked
    epochs = [asked[start : start + STEPS] for start in range(0, len(asked), STEPS)]
    assert len(epochs) == BASE.epochs
    assert all(steps == 1 for epoch in epochs for steps in epoch[:-1])
    assert [epoch[-1] for epoch in epochs] == [1 + 40 / 32] * 3
    assert before_test == 1 + len(FEW.test_labels) / 32


def test_a_run_that_is_stopped_before_its_test_goes_on_with_it(tmp_path):
    path, steps = tmp_path / "resume.bin", []
    with pytest.raises(KeyboardInterrupt):
        train(BASE, FEW, threads=1, checkpointer=Checkpointer(path, WHO, stop=stopping_after(3 * STEPS + 1)))
    resumed = train(BASE, FEW, threads=1, checkpointer=Checkpointer(path, WHO), on_epoch=steps.append)
    assert steps == []
    assert same_bits(resumed, train(BASE, FEW, threads=1))


def test_signs_of_life_are_given_while_a_run_evaluates(monkeypatch):
    monkeypatch.setattr("ablations.training.stack.EVALUATED", 1)
    signs = []
    train(BASE, FEW, threads=1, checkpointer=Checkpointer(heartbeat=lambda: signs.append(1)))
    assert len(signs) > BASE.epochs + 1


def test_a_run_that_another_has_writes_no_snapshot(tmp_path):
    checkpointer = Checkpointer(tmp_path / "resume.bin", WHO, holds_lease=lambda: False)
    checkpointer.save(TrainingState({}, {"a": np.zeros(1)}))
    assert list(tmp_path.iterdir()) == []


def test_the_places_of_a_run_are_kept_in_order(tmp_path):
    path, here, there = tmp_path / "resume.bin", {"cpu": "a"}, {"cpu": "b"}
    for place, stop in ((here, 2), (here, 3), (there, 2)):
        with pytest.raises(KeyboardInterrupt):
            train(BASE, FEW, threads=1, checkpointer=Checkpointer(path, WHO, place=place, stop=stopping_after(stop)))
    assert train(BASE, FEW, threads=1, checkpointer=Checkpointer(path, WHO, place=here)).places == [here, there]


def test_a_whole_snapshot_that_says_something_else_is_none(tmp_path):
    for metadata in (None, {"vitab": "[]"}, {"vitab": "{"}, {"vitab": '{"identity": 1}'}, {"other": "x"}):
        body = save({"a": np.zeros(1)}, metadata)
        assert snapshot.from_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body, WHO) is None
    body = b"x"
    assert snapshot.from_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body, WHO) is None


def test_a_damaged_or_foreign_snapshot_is_none(tmp_path):
    path = tmp_path / "resume.bin"
    checkpointer = Checkpointer(path, WHO)
    assert checkpointer.load() is None
    checkpointer.save(TrainingState({"losses": [0.1, 1 / 3]}, {"a": np.arange(5, dtype=np.float32)}))
    good = path.read_bytes()
    loaded = checkpointer.load()
    assert loaded.progress == {"losses": [0.1, 1 / 3]}
    assert np.array_equal(loaded.arrays["a"], np.arange(5, dtype=np.float32))
    assert Checkpointer(path, WHO | {"key": "other"}).load() is None
    rng = np.random.default_rng(0)
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        assert checkpointer.load() is None
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        assert checkpointer.load() is None


def test_a_run_starts_again_when_its_snapshot_is_damaged(tmp_path):
    path = tmp_path / "resume.bin"
    path.write_bytes(b"0" * 64 + b"\n" + b"x" * 100)
    assert same_bits(train(BASE, FEW, threads=1, checkpointer=Checkpointer(path, WHO)), train(BASE, FEW, threads=1))


def test_a_disk_that_takes_no_snapshot_costs_no_run(tmp_path):
    lines = []
    checkpointer = Checkpointer(tmp_path / "missing" / "resume.bin", WHO, interval=0.0, log=lines.append)
    assert same_bits(train(BASE, FEW, threads=1, checkpointer=checkpointer), train(BASE, FEW, threads=1))
    assert lines == ["cannot write checkpoint: No such file or directory"], "once"


def test_a_run_that_ends_without_a_snapshot_says_so(tmp_path):
    lines, stop = [], []
    path = tmp_path / "missing" / "resume.bin"
    checkpointer = Checkpointer(path, WHO, interval=0.0, log=lines.append, stop=lambda: bool(stop))
    checkpointer.save(TrainingState({}, {"a": np.zeros(1)}))
    stop.append(1)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save(TrainingState({}, {"a": np.zeros(1)}))
    assert lines == ["cannot write checkpoint: No such file or directory"] * 2


CHILD = """
import sys
from pathlib import Path
from ablations.config.run_config import RunConfig
from ablations.data import load
from ablations.training.checkpoint import Checkpointer
from ablations.training.trainer import train
config = RunConfig(**{config!r})
train(config, load("digits"), threads=1, checkpointer=Checkpointer(Path(sys.argv[1]), {who!r}, interval=0.0))
"""


@pytest.mark.slow
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
    assert process.wait(timeout=60) == -signal.SIGKILL
    config, digits = RunConfig(**fields), load("digits")
    kept = Checkpointer(path, WHO).load()
    assert kept.progress["optimizer_step"] > 0
    assert len(kept.progress["metrics"]) < 30
    resumed = train(config, digits, threads=1, checkpointer=Checkpointer(path, WHO))
    assert same_bits(resumed, train(config, digits, threads=1))
