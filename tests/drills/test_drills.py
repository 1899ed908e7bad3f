"""Short versions of the drills, and damage to every file of a run: detected or harmless."""

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.config import GRIDS, override
from ablations.execution import plan as study
from ablations.execution import worker as workers
from ablations.execution.tasks import ExecutionSettings, RunHooks, Task
from ablations.storage import FILES, LATER_FILES, EvaluationStore, Store, files, finished_keys, problems
from tests.drills import dask_kills, evaluation_kills, failing_writes, fuzz, kills
from tests.drills.common import CHECKPOINT
from tests.support import fake_trainer

GRID = override(GRIDS["smoke"], settings={"per_class": 5}, axes={"position": ("none",)})


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("stack", [1, 3])
def test_killed_processes_lose_repeat_and_change_nothing(stack):
    tally = kills.drill(5, stack=stack)
    assert tally.kills >= 5
    assert (tally.lost, tally.duplicated, tally.different, tally.damaged) == (0, 0, 0, 0)
    assert max(tally.redone, default=0.0) < CHECKPOINT


@pytest.mark.slow
@pytest.mark.serial
def test_a_tuned_study_whose_processes_were_killed_makes_the_same_choice():
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    tally = kills.drill(2, epochs=100, tuned=True)
    assert tally.kills >= 2
    assert (tally.lost, tally.duplicated, tally.different, tally.damaged) == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.serial
def test_killed_evaluations_are_not_lost_repeated_or_changed():
    tally = evaluation_kills.drill(6)
    assert tally.kills >= 6
    assert (tally.lost, tally.repeated, tally.different, tally.damaged, tally.changed_runs) == (0, 0, 0, 0, 0)


def test_the_drill_of_evaluations_finds_what_it_looks_for(tmp_path):
    whole, runs, trace = tmp_path / "whole", tmp_path / "runs", tmp_path / "trace"
    for command in (["run", "--grid", "smoke", "--set", "per_class=5"], ["evaluate", "--protocol", "calibration"]):
        result = CliRunner().invoke(app, [*command, "--workers", "1", "--runs", str(whole)])
        assert result.exit_code == 0, result.output
    shutil.copytree(whole, runs)
    store = EvaluationStore.beside(Store(runs))
    keys = sorted(finished_keys(store)[0])
    events = [(result["run"], result["protocol"]) for result in map(store.result, keys)]

    def found(lines=()):
        trace.write_text("".join(f"{at} {event} {run} {text}\n" for at, event, (run, text) in lines))
        tally = evaluation_kills.EvaluationKilling()
        evaluation_kills.compare(runs, whole, trace, tally)
        assert tally.evaluations == 4
        return tally.lost, tally.repeated, tally.different, tally.damaged

    once = [(0, kind, event) for event in events for kind in ("start", "start", "written")]
    assert found(once) == (0, 0, 0, 0)
    assert found([*once, (1, "written", events[0])]) == (0, 1, 0, 0)
    assert found([*once, (2**62, "start", events[1])]) == (0, 1, 0, 0)
    (store.folder(keys[0]) / "DONE.json").unlink()
    assert found(once) == (1, 0, 0, 0)
    (store.folder(keys[1]) / "arrays.npz").write_bytes(b"x")
    assert found(once) == (1, 0, 1, 1)
    before = evaluation_kills.files_of_runs(runs)
    assert len(before) == 4 * 9 + 1  # with the lease of each run
    next(runs.glob("*/result.json")).touch()
    assert sum(before[name] != now for name, now in evaluation_kills.files_of_runs(runs).items()) == 1


@pytest.mark.slow
def test_killed_workers_and_clients_of_a_cluster_lose_repeat_and_change_nothing():
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    tally = dask_kills.drill(6, epochs=300)
    assert tally.kills >= 6
    assert (tally.lost, tally.duplicated, tally.different, tally.damaged, tally.left_over) == (0, 0, 0, 0, 0)


@pytest.mark.slow
def test_writes_that_fail_lose_repeat_and_change_nothing_and_are_reported_in_clear_lines():
    tally = failing_writes.drill((failing_writes.disk_that_fills_up, failing_writes.output_that_fills_up), epochs=300)
    assert (tally.lost, tally.duplicated, tally.different, tally.damaged, tally.unclear) == (0, 0, 0, 0, [])
    if not tally.skipped:  # only root may mount the small disks
        assert min(tally.failed["disk that is full"], tally.failed["output that fills up"]) > 0


@pytest.mark.slow
def test_no_reader_accepts_a_damaged_file():
    tally = fuzz.drill(4 * len(fuzz.ALL) * len(fuzz.KINDS))
    verdicts = {verdict for _, _, verdict in tally.counts}
    assert verdicts == {"detected", "harmless"}, str(tally)


def harm(content, how, rng):
    """Return a damaged copy of a file."""
    if how == "emptied":
        return b""
    if how == "truncated":
        return content[: rng.integers(1, len(content))]
    flipped = bytearray(content)
    flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
    return bytes(flipped)


@pytest.fixture(scope="module")
def store_and_keys(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("runs"))
    plan = study.make_plan(GRID, study="s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablations.training.trainer.train", fake_trainer.train)
        for key, config in plan.runs.items():
            task = Task(key, config, "a run")
            workers.train_and_store(task, ExecutionSettings(store.root), RunHooks(lambda metrics: None))
    return store, plan.keys


@pytest.mark.parametrize("name", [*FILES, *LATER_FILES, "DONE.json"])
@pytest.mark.parametrize("how", ["emptied", "truncated", "flipped", "swapped", "removed"])
def test_a_damaged_file_of_a_finished_run_is_detected_or_the_run_is_not_finished(store_and_keys, name, how):
    store, (key, other) = store_and_keys
    path = store.folder(key) / name
    good, rng = path.read_bytes(), np.random.default_rng(0)
    detected = unfinished = harmless = 0
    for _ in range(20 if how in ("truncated", "flipped") else 1):
        if how == "removed":
            path.unlink()
        elif how == "swapped":
            path.write_bytes((store.folder(other) / name).read_bytes())
        else:
            path.write_bytes(harm(good, how, rng))
        same = how != "removed" and path.read_bytes() == good  # a file with the same content in both runs
        if not store.done(key):
            unfinished += 1  # it is trained again
        elif problems(store, key):
            detected += 1
        else:
            # a flipped bit in DONE.json may go unnoticed in its format number, on which nothing depends
            assert same or (name == "DONE.json" and how in ("flipped", "truncated"))
            harmless += 1
        files.write_file(path, good)
    assert problems(store, key) == []
    if name != "DONE.json" and not same:
        assert (unfinished, harmless) == (0, 0)
    assert detected + unfinished + harmless in (1, 20)
