"""Tests of processes that share a folder of runs, of crashes and hangs, and of requests to stop."""

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

from ablations.config import GRIDS, RunConfig, override
from ablations.data import load
from ablations.data.description import describe_dataset
from ablations.data.loading import dataset_for
from ablations.errors import StorageError, TakenOverError
from ablations.execution import inline, pool
from ablations.execution import plan as study
from ablations.execution import worker as workers
from ablations.execution.lease import LeaseManager, last_attempt
from ablations.execution.queue import RunQueue
from ablations.execution.reproduction import reproduce
from ablations.execution.tasks import ExecutionSettings, RunHooks
from ablations.storage import FILES, Store, TrialStore
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


@pytest.mark.slow
@pytest.mark.serial
def test_killed_and_hung_worker_processes_are_replaced_and_their_runs_retried(store):
    _, tasks = plan_and_tasks(store, 3)
    log = Log()
    settings = ExecutionSettings(store.root, hang_timeout=6.0)
    pool.run_in_pool(tasks, settings, log, workers=2, job=fake_trainer.job_that_dies_once)
    hung = "its worker process did not respond for 6 s and was killed"
    assert (
        "retrying",
        "none, seed 0",
        "its worker process was killed by SIGKILL (possibly out of memory)",
    ) in log.events
    assert ("retrying", "none, seed 1", hung) in log.events
    over = sorted(event for event in log.events if event[0] in ("finished", "failed"))
    assert over == [("failed", "none, seed 1", hung), ("finished", "none, seed 0"), ("finished", "none, seed 2")]
    assert [last_attempt(store.folder(task.key)) for task in tasks] == [2, 2, 1]
    assert store.failed_attempt(tasks[1].key) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_worker_processes_are_asked_to_stop(store, count):
    _, tasks = plan_and_tasks(store, 3)
    log = Log()
    with pytest.raises(KeyboardInterrupt):
        pool.run_in_pool(
            tasks,
            ExecutionSettings(store.root),
            log,
            workers=count,
            job=fake_trainer.job_that_asks,
            stop=lambda: any(event[0] == "epoch" for event in log.events),
        )
    assert 1 <= len([event for event in log.events if event[0] == "started"]) <= count
    assert all(LeaseManager().is_free(store.folder(task.key)) for task in tasks)


def test_a_run_of_another_process_is_left_to_it_and_reported(store, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    _, tasks = plan_and_tasks(store, 3)
    theirs = [LeaseManager().acquire(store.folder(task.key)) for task in tasks[:2]]
    log = Log()
    ours = threading.Thread(target=inline.run_inline, args=(tasks, ExecutionSettings(store.root), log))
    ours.start()
    deadline = time.monotonic() + 60
    while ("waiting", 2) not in log.events and time.monotonic() < deadline:
        time.sleep(0.01)
    finish(store, tasks[0])
    store.fail(tasks[1].key, tasks[1].config, "no luck", attempt=theirs[1].number)
    ours.join(timeout=60)
    assert [event for event in log.events if event[0] != "epoch"] == [
        ("started", "none, seed 2"),
        ("finished", "none, seed 2"),
        ("waiting", 2),
        ("finished_elsewhere", "none, seed 0"),
        ("failed", "none, seed 1", "no luck (in another process)"),
    ]


def test_heartbeats_while_images_are_read(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
    signs = []
    hooks = RunHooks(lambda metrics: None, heartbeat=lambda: signs.append(1))
    config = replace(NONE.base, data="folder", per_class=None)
    dataset_for(config, tmp_path, hooks.heartbeat)
    assert (listed := len(signs)) >= 3
    dataset_for(config, tmp_path, hooks.heartbeat)
    assert len(signs) == listed


def test_a_run_that_was_taken_over_is_not_written(store):
    _, (task,) = plan_and_tasks(store, 1)

    def job(task, settings, hooks):
        (store.folder(task.key) / "attempt-0002.json").write_text("{}")
        assert not hooks.holds_lease()
        raise TakenOverError

    lease = LeaseManager().acquire(store.folder(task.key))
    arguments = {"epoch": lambda metrics: None, "stop": lambda: False}
    assert workers.execute_run(task, lease, ExecutionSettings(store.root), job, **arguments) is None

    def failing(task, settings, hooks):
        raise ValueError("not ours to report")

    assert workers.execute_run(task, lease, ExecutionSettings(store.root), failing, **arguments) is None
    assert store.failure(task.key) is None

    def slow(task, settings, hooks):
        while not hooks.stop():
            time.sleep(0.01)
        raise KeyboardInterrupt

    settings = ExecutionSettings(store.root, heartbeat_interval=0.01)
    assert workers.execute_run(task, lease, settings, slow, **arguments) is None


def test_a_full_disk_loses_no_checkpoint(store, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    _, (task,) = plan_and_tasks(store, 1)
    lease = LeaseManager().acquire(store.folder(task.key))
    store.snapshot(task.key).write_bytes(b"half a run")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ablations.storage.store.write_file", full)
    with pytest.raises(workers.StorageError, match="No space left"):
        workers.execute_run(
            task,
            lease,
            ExecutionSettings(store.root),
            workers.train_and_store,
            epoch=lambda m: None,
            stop=lambda: False,
        )
    assert store.snapshot(task.key).read_bytes() == b"half a run"


@pytest.mark.parametrize("error", [MemoryError("512 MB"), OSError(5, "Input/output error", "images.bin")])
def test_a_transient_failure_is_retried_once_and_keeps_the_checkpoint(store, error):
    _, (task,) = plan_and_tasks(store, 1)
    log, times = Log(), [0]

    def job(task, settings, hooks):
        times[0] += 1
        store.snapshot(task.key).write_bytes(b"half a run")
        raise error

    inline.run_inline([task], ExecutionSettings(store.root), log, job)
    reason = f"{type(error).__name__}: {error}"
    assert log.events == [
        ("started", "none, seed 0"),
        ("retrying", "none, seed 0", reason),
        ("started", "none, seed 0"),
        ("failed", "none, seed 0", reason),
    ]
    assert (times, store.failure(task.key)) == ([2], reason)
    assert store.snapshot(task.key).read_bytes() == b"half a run"


def test_a_worker_process_that_ran_out_of_memory_gets_no_other_run(store):
    _, tasks = plan_and_tasks(store, 2)
    log = Log()
    pool.run_in_pool(
        tasks, ExecutionSettings(store.root), log, workers=1, job=fake_trainer.job_that_runs_out_of_memory_once
    )
    assert log.events == [
        ("started", "none, seed 0"),
        ("retrying", "none, seed 0", "MemoryError"),
        ("started", "none, seed 1"),
        ("finished", "none, seed 1"),
        ("started", "none, seed 0"),
        ("finished", "none, seed 0"),
    ]
    first, second = ((store.root / f"pid.{seed}").read_text() for seed in (0, 1))
    assert first != second
    assert (store.root / "pid.0.again").read_text() == second


@pytest.mark.parametrize("event", ["epoch", "note"])
def test_unwritable_output_does_not_fail_the_run(store, event):
    def full(*_):
        raise OSError(28, "No space left on device")

    def job(task, settings, hooks):
        hooks.log("cannot write checkpoint: No space left on device")
        hooks.epoch(fake_trainer.EpochMetrics(1, 1e-3, 2.0, 1.5, 0.5, 0.25, 1000.0))

    _, (task,) = plan_and_tasks(store, 1)
    log = Log()
    setattr(log, event, full)
    store.folder(task.key).mkdir(parents=True)
    store.snapshot(task.key).write_bytes(b"half a run")
    with pytest.raises(StorageError, match="cannot write the output: No space left on device"):
        inline.run_inline([task], ExecutionSettings(store.root), log, job)
    assert store.failed_attempt(task.key) == 0
    assert store.snapshot(task.key).read_bytes() == b"half a run"
    assert LeaseManager().is_free(store.folder(task.key))


def test_a_suspended_process_does_not_change_a_run_finished_by_the_next_owner(store, monkeypatch):
    """A process is suspended before each file in turn, while another takes over and finishes the run."""
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
                (folder / "attempt-0002.json").write_text("{}")  # as if another process took the run over
                (folder / "attempt-0001.json").unlink()
                theirs.append(())
                workers.train_and_store(task, ExecutionSettings(store.root), RunHooks(lambda metrics: None))
                theirs[0] = {path: path.read_bytes() for path in folder.iterdir()}
            return real(path, content, check)

        monkeypatch.setattr(stores, "write_file", write_file)
        lease = LeaseManager().acquire(folder)
        assert execute_run(task, lease, store) is None
        monkeypatch.setattr(stores, "write_file", real)
        assert store.verify(task.key) == []
        assert all(path.read_bytes() == content for path, content in theirs[0].items())


def execute_run(task, lease, store, job=workers.train_and_store):
    return workers.execute_run(
        task, lease, ExecutionSettings(store.root), job, epoch=lambda metrics: None, stop=lambda: False
    )


def test_a_run_trained_in_two_places_is_reproduced_by_accuracy_not_bits(store, monkeypatch):
    _, (task,) = plan_and_tasks(store, 1)
    here, there = environment.place("none", "numpy"), {"cpu": "another"}
    settings = ExecutionSettings(store.root)
    store.folder(task.key).mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(environment, "place", lambda position, backend: there)
        with pytest.raises(KeyboardInterrupt):
            workers.train_and_store(task, settings, RunHooks(lambda metrics: None, lambda: True))
    workers.train_and_store(task, settings, RunHooks(lambda metrics: None))
    assert store.environment(task.key)["places"] == [there, here]
    again = reproduce(store, task.key, data_dir=None, backend="numpy", threads=1)
    assert (again.same_place, again.good) == (False, True)
    (store.folder(task.key) / "DONE.json").unlink()
    workers.train_and_store(task, settings, RunHooks(lambda metrics: None))
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
        "channels": 1,
        "class_sizes": {"training": [5, 5], "test": [39, 40]},
        "duplicates": {},
    }


def test_the_dataset_of_a_folder_is_named_after_it_without_its_path(tmp_path, monkeypatch):
    pictures(tmp_path / "flowers", {"rose": 10, "tulip": 5})
    named = {"name": "flowers", "train_images": 12, "test_images": 3, "classes": 2, "image_size": 32, "channels": 3}
    named |= {"resize": "crop", "class_sizes": {"training": [4, 8], "test": [1, 2]}, "duplicates": {}}
    dataset = load("folder", data_dir=tmp_path / "flowers")
    monkeypatch.chdir(tmp_path / "flowers")
    for place in (tmp_path / "flowers", Path(), tmp_path / "flowers" / "rose" / ".."):
        assert describe_dataset(dataset, place, RunConfig(data="folder")) == named


def test_a_run_with_repeatedly_expired_leases_fails(store):
    _, (task,) = plan_and_tasks(store, 1)
    log = Log()
    queue = RunQueue([task], ExecutionSettings(store.root, lease_timeout=0.0), log)
    for number in (1, 2, 3, 4):
        while queue.next_free() is None:
            pass
        lease = queue.claim(task, os.getpid())
        if number < 4:
            assert lease.number == number
            lease.update(machine="another")
            queue.requeue(task)
    assert lease is None
    reason = "3 leases in a row expired before the end of an epoch"
    assert log.events == [("failed", task.label, reason)]
    assert (store.failure(task.key), store.failed_attempt(task.key)) == (reason, 4)


@pytest.mark.slow
@pytest.mark.serial
def test_worker_processes_of_a_suspended_process_do_not_count_as_hung(store, monkeypatch):
    _, tasks = plan_and_tasks(store, 1)
    log, halted = Log(), []
    real = pool.wait

    def wait(connections, timeout):
        if log.events and not halted:
            halted.append(time.sleep(5))  # longer than the timeout, as after SIGSTOP and SIGCONT
        return real(connections, timeout=timeout)

    monkeypatch.setattr(pool, "wait", wait)
    pool.run_in_pool(
        tasks, ExecutionSettings(store.root, hang_timeout=4.0), log, workers=1, job=fake_trainer.job_that_is_silent
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


@pytest.mark.slow
@pytest.mark.parametrize("second", ["1", "2"])
def test_two_programs_share_a_grid_and_train_each_run_once(tmp_path, second):
    command = ("run", "--grid", "smoke", "--seeds", "3", "--epochs", "20", "--workers")
    programs = [vitab(*command, workers, cwd=tmp_path) for workers in ("1", second)]
    outputs = [program.communicate(timeout=120) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], outputs
    store = Store(tmp_path / "runs")
    keys = store.read_study("smoke").keys
    assert [last_attempt(store.folder(key)) for key in keys] == [1] * 6
    assert all(store.verify(key) == [] for key in keys)
    trained = sum(line.startswith("[") and "another" not in line for out, _ in outputs for line in out.splitlines())
    assert trained == 6


@pytest.mark.slow
def test_two_programs_share_the_trials_of_a_study_and_make_one_choice(tmp_path):
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    command = ("run", "--grid", "smoke", "--epochs", "20", "--tune", "learning_rate=1e-4:1e-2:log", "--trials", "6")
    programs = [vitab(*command, "--prune", "--workers", workers, cwd=tmp_path) for workers in ("1", "2")]
    outputs = [program.communicate(timeout=120) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], outputs
    store = Store(tmp_path / "runs")
    trials, plan = TrialStore.beside(store), store.read_study("smoke")
    keys = {store: plan.keys, trials: [run.key for run in plan.trials]}
    assert [len(each) for each in keys.values()] == [4, 12]
    for place, own in keys.items():
        assert [last_attempt(place.folder(key)) for key in own] == [1] * len(own)
        assert all(place.verify(key) == [] for key in own)
    trained = sum(line.startswith("[") and "another" not in line for out, _ in outputs for line in out.splitlines())
    assert trained == 16
    choices = [[line for line in out.splitlines() if line.startswith(("none  ", "rope  "))] for out, _ in outputs]
    assert len(choices[0]) == 2
    assert choices[0] == choices[1]


INTERRUPTED = ("run", "--grid", "smoke", "--position", "rope", "--seeds", "2", "--epochs", "400")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The runs of `INTERRUPTED`, trained without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    undisturbed = vitab(*INTERRUPTED, "--workers", "1", cwd=folder)
    _, err = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, err
    return Store(folder / "runs")


@pytest.mark.slow
@pytest.mark.parametrize(("presses", "workers"), [(1, "1"), (1, "2"), (2, "1"), (2, "2")])
def test_an_interrupted_grid_ends_with_the_same_bits(tmp_path, whole, workers, presses):
    command = (*INTERRUPTED, "--workers", workers)
    store = Store(tmp_path / "runs")
    first = vitab(*command, "--checkpoint", "0.1", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(store.root.glob(f"*/{store.snapshot('x').name}")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(presses):
        first.send_signal(signal.SIGINT)
        time.sleep(0.001)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    keys = store.read_study("smoke").keys
    if presses == 1:
        assert any(store.snapshot(key).exists() or store.done(key) for key in keys)
    second = vitab(*command, cwd=tmp_path)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    for key in keys:
        assert not store.snapshot(key).exists()
        for name in ("predictions.npz", "checkpoint.safetensors", "config.json"):
            assert (store.folder(key) / name).read_bytes() == (whole.folder(key) / name).read_bytes()
        assert json.loads((store.folder(key) / "DONE.json").read_text())["key"] == key
