"""Tests of stacks: every run keeps its own lease, files and outcome."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.config import GRIDS, RunConfig, override
from ablations.errors import StorageError, VitabError
from ablations.execution import inline, pool, stacking
from ablations.execution import plan as study
from ablations.execution import worker as workers
from ablations.execution.lease import LeaseManager, last_attempt
from ablations.execution.queue import RunQueue
from ablations.execution.reproduction import _where, reproduce
from ablations.execution.tasks import ExecutionSettings, Finished
from ablations.storage import Store
from ablations.training.stack import Stack
from tests.drills.common import numbers
from tests.execution.test_plan import Log

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"per_class": 8, "epochs": 3, "warmup_epochs": 1.0}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def plan_and_tasks(store, stack, *, seeds=3, axes=None, settings=None):
    axes = axes or {"position": ("none", "rope")}
    grid = override(GRIDS["smoke"], settings=SMALL | (settings or {}), axes=axes, seeds=seeds)
    plan = study.make_plan(grid, study="s")
    store.write_study(plan)
    tasks = study.tasks_of(plan, study.survey(plan, store), store)
    return plan, [replace(task, stack=stack) for task in tasks]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of the plan, each trained alone."""
    store = Store(tmp_path_factory.mktemp("alone"))
    _, tasks = plan_and_tasks(store, 1)
    inline.run_inline(tasks, ExecutionSettings(store.root), Log())
    return store


@pytest.fixture
def sizes(monkeypatch):
    """The seeds of each stack that is trained in this process."""
    found = []
    original = Stack.__init__

    def init(own, members, *rest):
        found.append([member.config.seed for member in members])
        original(own, members, *rest)

    monkeypatch.setattr(Stack, "__init__", init)
    return found


def environment(store, key):
    return json.loads((store.folder(key) / "environment.json").read_text())


def test_which_runs_may_be_one_model():
    base = RunConfig()
    own = {"seed": 3, "learning_rate": 1e-4, "weight_decay": 0.3, "warmup_epochs": 1.0, "label_smoothing": 0.0}
    for name, value in own.items():
        assert stacking.shape(replace(base, **{name: value})) == stacking.shape(base)
    others = {"position": "none", "depth": 4, "epochs": 31, "batch_size": 32, "flip": True, "ema": 0.9, "dropout": 0.1}
    others |= {"clip_norm": 0.0, "validation": 0.2, "init_std": 0.02, "data": "cifar10", "mixup": 0.1}
    for name, value in others.items():
        assert stacking.shape(replace(base, **{name: value})) != stacking.shape(base)
    assert stacking.without_seed(replace(base, seed=3)) == stacking.without_seed(base)
    assert stacking.without_seed(replace(base, learning_rate=1.0)) != stacking.without_seed(base)


def test_a_stack_writes_what_each_run_writes_alone(store, alone, sizes):
    plan, tasks = plan_and_tasks(store, 3)
    log = Log()
    inline.run_inline(tasks, ExecutionSettings(store.root), log)
    assert sizes == [[0, 1, 2], [0, 1, 2]]
    for key in plan.keys:
        assert list(numbers(store, key)) == list(numbers(alone, key))
        assert store.verify(key) == []
        assert (environment(store, key)["stack"], environment(alone, key)["stack"]) == (3, 1)
        assert last_attempt(store.folder(key)) == 1
        assert LeaseManager().is_free(store.folder(key))
        assert not store.snapshot(key).exists()
        rows = store.metrics(key)
        assert [row["epoch"] for row in rows] == [1, 2, 3]
    labels = [f"none, seed {seed}" for seed in range(3)]
    assert log.events[:3] == [("started", label) for label in labels]
    assert log.events[3:12] == [("epoch", label, epoch) for epoch in (1, 2, 3) for label in labels]
    assert log.events[12:15] == [("finished", label) for label in labels]


def test_seeds_of_an_arm_are_stacked_before_other_arms(store, sizes):
    _, tasks = plan_and_tasks(
        store, 4, axes={"position": ("rope",), "learning_rate": (1e-3, 2e-3), "depth": (1, 2)}, seeds=3
    )
    queue = RunQueue(tasks, ExecutionSettings(store.root), Log())
    for size in (4, 2):
        for depth in (1, 2):
            taken = list(queue.claim_stack(os.getpid()))
            assert [task.config.depth for task in taken] == [depth] * size
            rates = [task.config.learning_rate for task in taken]
            assert rates == ([1e-3] * 3 + [2e-3] if size == 4 else [2e-3] * 2)
    assert queue.claim_stack(os.getpid()) == {}


def test_a_run_leased_by_another_process_is_not_stacked_and_waited_for(store, alone, sizes):
    plan, tasks = plan_and_tasks(store, 6)
    theirs = LeaseManager().acquire(store.folder(tasks[2].key))  # none, seed 1
    log = Log()
    ours = threading.Thread(target=inline.run_inline, args=(tasks, ExecutionSettings(store.root), log))
    ours.start()
    deadline = time.monotonic() + 60
    while ("waiting", 1) not in log.events and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sizes == [[0, 2], [0, 1, 2]]
    theirs.release()
    ours.join(timeout=60)
    assert all(list(numbers(store, key)) == list(numbers(alone, key)) for key in plan.keys)
    assert [last_attempt(store.folder(task.key)) for task in tasks] == [1, 1, 2, 1, 1, 1]


def test_a_diverging_run_ends_alone(store, alone):
    axes = {"position": ("none",), "learning_rate": (1e30, 2e-3)}
    _, tasks = plan_and_tasks(store, 6, axes=axes)
    log = Log()
    inline.run_inline(tasks, ExecutionSettings(store.root), log)
    wild = [task for task in tasks if task.config.learning_rate == 1e30]
    for task in tasks:
        if task in wild:
            result = store.result(task.key)
            assert (result["diverged"], result["test_accuracy"]) == (1, 0.1)
            assert not store.snapshot(task.key).exists()
        else:
            assert "diverged" not in store.result(task.key)
            assert environment(store, task.key)["stack"] == 6
        assert LeaseManager().is_free(store.folder(task.key))
    ended = [event[1] for event in log.events if event[0] == "finished"]
    assert len(ended) == len(tasks)
    assert set(ended[: len(wild)]) == {task.label for task in wild}


@pytest.mark.parametrize("event", ["epoch", "finished"])
def test_unwritable_output_fails_no_run_of_a_stack(store, event):
    def full(*_):
        raise OSError(28, "No space left on device")

    _, tasks = plan_and_tasks(store, 3, axes={"position": ("none",)})
    log = Log()
    setattr(log, event, full)
    with pytest.raises(StorageError, match="cannot write the output: No space left on device"):
        inline.run_inline(tasks, ExecutionSettings(store.root), log)
    assert store.done(tasks[0].key) is (event == "finished")
    assert [store.failed_attempt(task.key) for task in tasks] == [0, 0, 0]
    assert all(LeaseManager().is_free(store.folder(task.key)) for task in tasks)


@pytest.mark.parametrize("batch_size", [16, 1000], ids=["in a step", "at validation"])
def test_unwritable_output_of_a_diverged_run_fails_no_run_of_its_stack(store, batch_size):
    def full(*_):
        raise OSError(28, "No space left on device")

    axes = {"position": ("none",), "learning_rate": (1e30, 2e-3), "batch_size": (batch_size,)}
    _, tasks = plan_and_tasks(store, 4, axes=axes)
    log = Log()
    log.finished = full
    with pytest.raises(StorageError, match="cannot write the output: No space left on device"):
        inline.run_inline(tasks, ExecutionSettings(store.root), log)
    assert [store.failed_attempt(task.key) for task in tasks] == [0] * len(tasks)
    assert all(LeaseManager().is_free(store.folder(task.key)) for task in tasks)


def test_an_error_in_shared_code_fails_all_runs(store, monkeypatch):
    def broken(*_):
        raise RuntimeError("no device")

    monkeypatch.setattr(Stack, "train_epoch", broken)
    _, tasks = plan_and_tasks(store, 3, axes={"position": ("none",)})
    log = Log()
    inline.run_inline(tasks, ExecutionSettings(store.root), log)
    assert [event[2] for event in log.events if event[0] == "failed"] == ["RuntimeError: no device"] * 3


def test_a_run_that_is_taken_over_is_left_to_the_other_and_not_written(store, monkeypatch):
    plan, tasks = plan_and_tasks(store, 3, axes={"position": ("none",)})
    lost = tasks[1].key

    class Takes(Log):
        def epoch(self, task, metrics):
            super().epoch(task, metrics)
            if task.key == lost and metrics.epoch == 2:
                (store.folder(lost) / "attempt-0002.json").write_text("{}")

    log = Takes()
    queue = RunQueue(tasks, ExecutionSettings(store.root), log)
    outcomes = {}
    stacking.execute_stack(
        list(queue.claim_stack(os.getpid()).items()),
        ExecutionSettings(store.root),
        workers.train_and_store,
        epoch=log.epoch,
        on_end=lambda task, outcome: outcomes.setdefault(task.key, outcome),
        stop=lambda: False,
    )
    assert outcomes.pop(lost) is None
    assert not store.done(lost)
    assert store.failure(lost) is None
    assert all(isinstance(outcome, Finished) for outcome in outcomes.values())
    assert [store.done(key) for key in plan.keys] == [True, False, True]


def test_a_stack_that_is_stopped_is_resumed_in_another(store, alone, sizes):
    plan, tasks = plan_and_tasks(store, 3)
    log = Log()
    with pytest.raises(KeyboardInterrupt):
        inline.run_inline(tasks, ExecutionSettings(store.root), log, stop=lambda: len(log.events) > 5)
    held = [task for task in tasks if store.snapshot(task.key).exists()]
    assert [task.label for task in held] == [f"none, seed {seed}" for seed in range(3)]
    assert all(LeaseManager().is_free(store.folder(task.key)) for task in tasks)
    again = Log()
    inline.run_inline([replace(task, stack=2) for task in tasks], ExecutionSettings(store.root), again)
    assert sizes == [[0, 1, 2], [0, 1], [0, 1], [2], [2]]
    assert ("epoch", "none, seed 0", 1) not in again.events
    assert all(list(numbers(store, key)) == list(numbers(alone, key)) for key in plan.keys)
    assert [environment(store, key)["stack"] for key in plan.keys] == [2, 2, 2, 2, 1, 1]


def test_a_full_disk_ends_a_stack_with_one_line_and_loses_no_checkpoint(store, monkeypatch):
    _, tasks = plan_and_tasks(store, 3, axes={"position": ("none",)})
    log = Log()
    with pytest.raises(KeyboardInterrupt):
        inline.run_inline(tasks, ExecutionSettings(store.root), log, stop=lambda: len(log.events) > 5)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ablations.storage.store.write_file", full)
        with pytest.raises(StorageError, match="No space left"):
            inline.run_inline(tasks, ExecutionSettings(store.root), Log())
    assert all(store.snapshot(task.key).exists() for task in tasks)
    assert all(store.failure(task.key) is None for task in tasks)


@pytest.mark.slow
def test_worker_processes_share_stacks_evenly(store, alone):
    plan, tasks = plan_and_tasks(store, 6)
    pool.run_in_pool(tasks, ExecutionSettings(store.root), Log(), workers=2)
    assert all(list(numbers(store, key)) == list(numbers(alone, key)) for key in plan.keys)
    assert [environment(store, key)["stack"] for key in plan.keys] == [3] * 6  # three each, not six and none


@pytest.mark.slow
def test_the_runs_of_a_killed_worker_process_are_retried_alone(store, alone):
    plan, tasks = plan_and_tasks(store, 3, axes={"position": ("none",)}, settings={"epochs": 3})
    killed = []

    class Kills(Log):
        def epoch(self, task, metrics):
            super().epoch(task, metrics)
            if not killed:
                owner = json.loads((store.folder(task.key) / "attempt-0001.json").read_text())
                killed.append(owner["pid"])
                os.kill(owner["pid"], signal.SIGKILL)

    log = Kills()
    pool.run_in_pool(tasks, ExecutionSettings(store.root), log, workers=1)
    assert [event[1] for event in log.events if event[0] == "retrying"] == [task.label for task in tasks]
    assert [last_attempt(store.folder(key)) for key in plan.keys] == [2] * 3
    assert [environment(store, key)["stack"] for key in plan.keys] == [1] * 3
    assert all(list(numbers(store, key)) == list(numbers(alone, key)) for key in plan.keys)


def test_an_error_before_training_fails_that_run_alone(store, monkeypatch):
    _, tasks = plan_and_tasks(store, 3, axes={"position": ("none",)})
    original = workers.checkpointer_for

    def checkpointer_for(task, *rest):
        if task.config.seed == 1:
            raise VitabError("no checkpointer")
        return original(task, *rest)

    monkeypatch.setattr(stacking, "checkpointer_for", checkpointer_for)
    log = Log()
    inline.run_inline(tasks, ExecutionSettings(store.root), log)
    assert [event[1:] for event in log.events if event[0] == "failed"] == [("none, seed 1", "no checkpointer")]
    assert [store.done(task.key) for task in tasks] == [True, False, True]


def test_when_the_same_bits_are_expected(store):
    """On a CPU a run of a stack has the same bits alone; on a GPU they may depend on the stack."""
    plan, tasks = plan_and_tasks(store, 2, axes={"position": ("rope",)}, seeds=2)
    inline.run_inline(tasks, ExecutionSettings(store.root), Log())
    again = reproduce(store, plan.keys[1], data_dir=None, backend="numpy", threads=1)
    assert (again.same_place, again.same_bits) == (True, True)
    for backend, same in (("numpy", True), ("cupy", False)):
        here, there = ({"backend": backend, "stack": size} for size in (1, 4))
        assert (_where(here) == _where(there)) is same
    assert _where({"backend": "cupy"}) == _where({"backend": "cupy", "stack": 1})


def vitab(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "ablations.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


INTERRUPTED = ("run", "--grid", "smoke", "--position", "rope", "--seeds", "4", "--epochs", "100")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The runs of `INTERRUPTED`, trained without an interruption by one process."""
    folder = tmp_path_factory.mktemp("whole")
    undisturbed = vitab(*INTERRUPTED, "--workers", "1", cwd=folder)
    _, err = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, err
    return Store(folder / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("count", ["1", "2"])
def test_a_grid_of_stacks_that_is_interrupted_ends_with_the_same_bits(tmp_path, whole, count):
    command = (*INTERRUPTED, "--workers", count)
    store = Store(tmp_path / "runs")
    first = vitab(*command, "--stack", "4", "--checkpoint", "0.1", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(store.root.glob(f"*/{store.snapshot('x').name}")) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert err.splitlines()[-1].endswith("run the same command again to resume")
    keys = store.read_study("smoke").keys
    kept = [store.snapshot(key).exists() for key in keys]
    assert all(kept) if count == "1" else any(kept)
    second = vitab(*command, "--stack", "3", cwd=tmp_path)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    for seed in range(4):
        assert f"rope, seed {seed}: test " in out
    for key in keys:
        assert list(numbers(store, key)) == list(numbers(whole, key))
