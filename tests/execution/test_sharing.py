"""Processes that share a folder of runs, children that die or hang, and requests to stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ablations.config import GRIDS, override
from ablations.data import load
from ablations.data.loading import dataset_for
from ablations.errors import StorageError, TakenOverError
from ablations.execution import inline as this_process
from ablations.execution import plan as study
from ablations.execution import pool as children
from ablations.execution import worker as workers
from ablations.execution.lease import LeaseManager, last_attempt
from ablations.execution.queue import RunQueue
from ablations.execution.reproduction import reproduce
from ablations.execution.tasks import ExecutionSettings, RunHooks
from ablations.storage import FILES, Store
from ablations.storage import provenance as environment
from tests.execution.test_plan import Log
from tests.support import fake_trainer
from tests.support.archives import pictures

ROOT = Path(__file__).resolve().parents[2]
NONE = override(GRIDS["smoke"], settings={"per_class": 5}, axes={"position": ("none",)})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def plan_and_tasks(store, seeds):
    plan = study.make_plan(override(NONE, seeds=seeds), study="s")
    store.write_study(plan)
    return plan, study.tasks_of(plan, study.survey(plan, store), store)


def finish(store, task):
    fake = pytest.MonkeyPatch()
    with fake.context() as patch:
        patch.setattr("ablations.training.trainer.train", fake_trainer.train)
        workers.train_and_store(task, ExecutionSettings(store.root), RunHooks(lambda metrics: None))


def test_a_killed_child_is_replaced_and_its_run_tried_again_and_a_hung_one_is_ended(store):
    _, tasks = plan_and_tasks(store, 3)
    log = Log()
    setting = ExecutionSettings(store.root, patience=6.0)
    children.run_in_pool(tasks, setting, log, workers=2, job=fake_trainer.job_that_dies_once)
    hung = "its process gave no sign of life for 6 s and was ended"
    assert ("again", "none, seed 0", "its process was ended by SIGKILL, perhaps for want of memory") in log.events
    assert ("again", "none, seed 1", hung) in log.events
    over = sorted(event for event in log.events if event[0] in ("finished", "failed"))
    assert over == [("failed", "none, seed 1", hung), ("finished", "none, seed 0"), ("finished", "none, seed 2")]
    assert [last_attempt(store.folder(task.key)) for task in tasks] == [2, 2, 1]
    assert store.failed_attempt(tasks[1].key) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_children_are_asked_to_stop(store, count):
    _, tasks = plan_and_tasks(store, 3)
    log = Log()
    with pytest.raises(KeyboardInterrupt):
        children.run_in_pool(
            tasks,
            ExecutionSettings(store.root),
            log,
            workers=count,
            job=fake_trainer.job_that_asks,
            stop=lambda: any(event[0] == "epoch" for event in log.events),
        )
    assert 1 <= len([event for event in log.events if event[0] == "started"]) <= count
    assert all(LeaseManager().free(store.folder(task.key)) for task in tasks)


def test_a_run_of_another_process_is_left_to_it_and_reported(store, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    _, tasks = plan_and_tasks(store, 3)
    theirs = [LeaseManager().take(store.folder(task.key)) for task in tasks[:2]]
    log = Log()
    ours = threading.Thread(target=this_process.run_inline, args=(tasks, ExecutionSettings(store.root), log))
    ours.start()
    deadline = time.monotonic() + 30
    while ("waiting", 2) not in log.events and time.monotonic() < deadline:
        time.sleep(0.01)
    finish(store, tasks[0])
    store.fail(tasks[1].key, tasks[1].config, "no luck", attempt=theirs[1].number)
    ours.join(timeout=30)
    assert [event for event in log.events if event[0] != "epoch"] == [
        ("started", "none, seed 2"),
        ("finished", "none, seed 2"),
        ("waiting", 2),
        ("elsewhere", "none, seed 0"),
        ("failed", "none, seed 1", "no luck (in another process)"),
    ]


def test_signs_of_life_are_given_while_pictures_are_read(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
    signs = []
    watch = RunHooks(lambda metrics: None, alive=lambda: signs.append(1))
    config = replace(NONE.base, data="folder", per_class=None)
    dataset_for(config, tmp_path, watch.alive)
    assert len(signs) == 6
    dataset_for(config, tmp_path, watch.alive)
    assert len(signs) == 6


def test_a_run_that_was_taken_over_is_not_written(store):
    _, (task,) = plan_and_tasks(store, 1)

    def job(task, setting, watch):
        (store.folder(task.key) / "attempt-0002.json").write_text("{}")
        assert not watch.held()
        raise TakenOverError

    attempt = LeaseManager().take(store.folder(task.key))
    arguments = {"epoch": lambda metrics: None, "stop": lambda: False}
    assert workers.execute_run(task, attempt, ExecutionSettings(store.root), job, **arguments) is None

    def failing(task, setting, watch):
        raise ValueError("no longer ours to tell")

    assert workers.execute_run(task, attempt, ExecutionSettings(store.root), failing, **arguments) is None
    assert store.failure(task.key) is None

    def slow(task, setting, watch):
        while not watch.stop():
            time.sleep(0.01)
        raise KeyboardInterrupt

    setting = ExecutionSettings(store.root, beat=0.01)
    assert workers.execute_run(task, attempt, setting, slow, **arguments) is None


def test_a_full_disk_loses_no_snapshot(store, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    _, (task,) = plan_and_tasks(store, 1)
    attempt = LeaseManager().take(store.folder(task.key))
    store.snapshot(task.key).write_bytes(b"half a run")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ablations.storage.store.write_file", full)
    with pytest.raises(workers.StorageError, match="No space left"):
        workers.execute_run(
            task,
            attempt,
            ExecutionSettings(store.root),
            workers.train_and_store,
            epoch=lambda m: None,
            stop=lambda: False,
        )
    assert store.snapshot(task.key).read_bytes() == b"half a run"


@pytest.mark.parametrize("error", [MemoryError("512 MB"), OSError(5, "Input/output error", "images.bin")])
def test_what_is_no_fault_of_the_run_is_tried_once_more_and_costs_no_snapshot(store, error):
    _, (task,) = plan_and_tasks(store, 1)
    log, times = Log(), [0]

    def job(task, setting, watch):
        times[0] += 1
        store.snapshot(task.key).write_bytes(b"half a run")
        raise error

    this_process.run_inline([task], ExecutionSettings(store.root), log, job)
    reason = f"{type(error).__name__}: {error}"
    assert log.events == [
        ("started", "none, seed 0"),
        ("again", "none, seed 0", reason),
        ("started", "none, seed 0"),
        ("failed", "none, seed 0", reason),
    ]
    assert (times, store.failure(task.key)) == ([2], reason)
    assert store.snapshot(task.key).read_bytes() == b"half a run"


def test_a_child_that_ran_out_of_memory_gets_no_other_run(store):
    _, tasks = plan_and_tasks(store, 2)
    log = Log()
    children.run_in_pool(
        tasks, ExecutionSettings(store.root), log, workers=1, job=fake_trainer.job_that_runs_out_of_memory_once
    )
    assert log.events == [
        ("started", "none, seed 0"),
        ("again", "none, seed 0", "MemoryError"),
        ("started", "none, seed 1"),
        ("finished", "none, seed 1"),
        ("started", "none, seed 0"),
        ("finished", "none, seed 0"),
    ]
    first, second = ((store.root / f"pid.{seed}").read_text() for seed in (0, 1))
    assert first != second
    assert (store.root / "pid.0.again").read_text() == second


@pytest.mark.parametrize("event", ["epoch", "note"])
def test_an_output_that_cannot_be_written_is_no_failure_of_the_run(store, event):
    def full(*_):
        raise OSError(28, "No space left on device")

    def job(task, setting, watch):
        watch.say("no checkpoint could be written: No space left on device")
        watch.epoch(fake_trainer.EpochMetrics(1, 1e-3, 2.0, 1.5, 0.5, 0.25, 1000.0))

    _, (task,) = plan_and_tasks(store, 1)
    log = Log()
    setattr(log, event, full)
    store.folder(task.key).mkdir(parents=True)
    store.snapshot(task.key).write_bytes(b"half a run")
    with pytest.raises(StorageError, match="the output could not be written: No space left on device"):
        this_process.run_inline([task], ExecutionSettings(store.root), log, job)
    assert store.failed_attempt(task.key) == 0
    assert store.snapshot(task.key).read_bytes() == b"half a run"
    assert LeaseManager().free(store.folder(task.key))


def test_whoever_was_asleep_while_writing_does_not_change_what_the_next_owner_has_finished(store, monkeypatch):
    """It falls asleep before each file in turn; meanwhile another takes over and finishes, with another environment."""
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    from ablations.storage import store as stores

    real = stores.write_file
    for asleep_before in (*FILES, "DONE.json"):
        shutil.rmtree(store.root, ignore_errors=True)
        _, (task,) = plan_and_tasks(store, 1)
        folder = store.folder(task.key)
        theirs = []

        def write_file(path, content, check, folder=folder, asleep_before=asleep_before, task=task, theirs=theirs):
            if path.name == asleep_before and not theirs:
                (folder / "attempt-0002.json").write_text("{}")  # as one that took over the run
                (folder / "attempt-0001.json").unlink()
                theirs.append(())
                workers.train_and_store(task, ExecutionSettings(store.root), RunHooks(lambda metrics: None))
                theirs[0] = {path: path.read_bytes() for path in folder.iterdir()}
            return real(path, content, check)

        monkeypatch.setattr(stores, "write_file", write_file)
        attempt = LeaseManager().take(folder)
        assert execute_run(task, attempt, store) is None
        monkeypatch.setattr(stores, "write_file", real)
        assert store.verify(task.key) == []
        assert all(path.read_bytes() == content for path, content in theirs[0].items())


def execute_run(task, attempt, store, job=workers.train_and_store):
    return workers.execute_run(
        task, attempt, ExecutionSettings(store.root), job, epoch=lambda metrics: None, stop=lambda: False
    )


def test_a_run_of_two_places_is_reproduced_by_its_accuracy_and_not_by_its_bits(store, monkeypatch):
    _, (task,) = plan_and_tasks(store, 1)
    here, there = environment.place("numpy"), {"cpu": "another"}
    setting = ExecutionSettings(store.root)
    store.folder(task.key).mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(environment, "place", lambda backend: there)
        with pytest.raises(KeyboardInterrupt):
            workers.train_and_store(task, setting, RunHooks(lambda metrics: None, lambda: True))
    workers.train_and_store(task, setting, RunHooks(lambda metrics: None))
    assert store.environment(task.key)["places"] == [there, here]
    again = reproduce(store, task.key, data_dir=None, backend="numpy", threads=1)
    assert (again.same_place, again.good) == (False, True)
    (store.folder(task.key) / "DONE.json").unlink()
    workers.train_and_store(task, setting, RunHooks(lambda metrics: None))
    assert "places" not in store.environment(task.key)
    assert reproduce(store, task.key, data_dir=None, backend="numpy", threads=1).same_place


def test_a_run_records_its_dataset(store, monkeypatch, tmp_path):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    _, (task,) = plan_and_tasks(store, 1)
    workers.train_and_store(task, ExecutionSettings(store.root), RunHooks(lambda metrics: None))
    assert store.environment(task.key)["dataset"] == {
        "name": "digits",
        "train_images": 50,
        "test_images": 397,
        "classes": 10,
        "image_size": 8,
    }


def test_the_dataset_of_a_folder_is_named_after_it_without_its_path(tmp_path, monkeypatch):
    pictures(tmp_path / "flowers", {"rose": 10, "tulip": 5})
    named = {"name": "flowers", "train_images": 12, "test_images": 3, "classes": 2, "image_size": 32}
    dataset = load("folder", data_dir=tmp_path / "flowers")
    monkeypatch.chdir(tmp_path / "flowers")
    for place in (tmp_path / "flowers", Path(), tmp_path / "flowers" / "rose" / ".."):
        assert workers.describe_dataset(dataset, place) == named


def test_a_run_whose_attempts_fall_silent_fails_in_the_end(store):
    _, (task,) = plan_and_tasks(store, 1)
    log = Log()
    waiting = RunQueue([task], ExecutionSettings(store.root, expiry=0.0), log)
    for number in (1, 2, 3, 4):
        while waiting.next() is None:
            pass
        attempt = waiting.claim(task, os.getpid())
        if number < 4:
            assert attempt.number == number
            attempt.note(machine="another")
            waiting.put_back(task)
    assert attempt is None
    reason = "3 attempts in a row gave no sign of life, and none came to the end of an epoch"
    assert log.events == [("failed", task.label, reason)]
    assert (store.failure(task.key), store.failed_attempt(task.key)) == (reason, 4)


def test_children_of_a_process_that_was_halted_are_not_taken_for_hung(store, monkeypatch):
    _, tasks = plan_and_tasks(store, 1)
    log, halted = Log(), []
    real = children.wait

    def wait(connections, timeout):
        if log.events and not halted:
            halted.append(time.sleep(5))  # longer than the patience, as after SIGSTOP and SIGCONT
        return real(connections, timeout=timeout)

    monkeypatch.setattr(children, "wait", wait)
    children.run_in_pool(
        tasks, ExecutionSettings(store.root, patience=4.0), log, workers=1, job=fake_trainer.job_that_is_silent
    )
    assert halted
    assert log.events == [("started", "none, seed 0"), ("finished", "none, seed 0")]


def vitab(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "ablations.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_two_programs_share_a_grid_and_train_each_run_once(tmp_path):
    command = ("run", "--grid", "smoke", "--seeds", "3", "--epochs", "20", "--workers")
    programs = [vitab(*command, workers, cwd=tmp_path) for workers in ("1", "2")]
    outputs = [program.communicate(timeout=120) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], outputs
    store = Store(tmp_path / "runs")
    keys = store.read_study("smoke").keys
    assert [last_attempt(store.folder(key)) for key in keys] == [1] * 6
    assert all(store.verify(key) == [] for key in keys)
    trained = sum(line.startswith("[") and "another" not in line for out, _ in outputs for line in out.splitlines())
    assert trained == 6


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("presses", [1, 2])
def test_a_grid_that_is_interrupted_or_cut_off_ends_with_the_same_bits(tmp_path, workers, presses):
    command = ("run", "--grid", "smoke", "--position", "rope", "--seeds", "2", "--epochs", "400", "--workers", workers)
    store = Store(tmp_path / "runs")
    first = vitab(*command, "--checkpoint", "0.1", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(store.root.glob(f"*/{store.snapshot('x').name}")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(presses):
        first.send_signal(signal.SIGINT)
        time.sleep(0.001)
    _, err = first.communicate(timeout=30)
    assert first.returncode == 130, err
    assert "the same command resumes" in err
    assert "Traceback" not in err
    keys = store.read_study("smoke").keys
    if presses == 1:
        assert any(store.snapshot(key).exists() or store.done(key) for key in keys)
    second = vitab(*command, cwd=tmp_path)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    undisturbed = vitab(*command, "--runs", "whole", cwd=tmp_path)
    assert undisturbed.wait(timeout=120) == 0
    undisturbed.communicate()
    whole = Store(tmp_path / "whole")
    for key in keys:
        assert not store.snapshot(key).exists()
        for name in ("predictions.npz", "checkpoint.safetensors", "config.json"):
            assert (store.folder(key) / name).read_bytes() == (whole.folder(key) / name).read_bytes()
        assert json.loads((store.folder(key) / "DONE.json").read_text())["key"] == key
