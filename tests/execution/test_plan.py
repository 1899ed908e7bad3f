import dataclasses
import io
import re

import pytest
from rich.console import Console

from ablations.commands import progress
from ablations.commands.display import duration
from ablations.config import GRIDS, RunConfig, override, run_label
from ablations.errors import UsageError, VitabError
from ablations.execution import inline, resources
from ablations.execution import plan as study
from ablations.execution import worker as workers
from ablations.execution.execute import execute_plan
from ablations.execution.resources import resolve_backend, resolve_workers
from ablations.execution.tasks import ExecutionSettings, Finished, Task
from ablations.statistics import power_warning
from ablations.storage import Store
from ablations.storage import provenance as environment
from tests.support import fake_trainer

GRID = override(GRIDS["smoke"], settings={"per_class": 5})


class Log:
    """Listener that records its events."""

    def __init__(self):
        self.events = []

    def started(self, task):
        self.events.append(("started", task.label))

    def epoch(self, task, metrics):
        self.events.append(("epoch", task.label, metrics.epoch))

    def finished(self, task, result):
        self.events.append(("finished", task.label))

    def failed(self, task, reason):
        self.events.append(("failed", task.label, reason))

    def retrying(self, task, reason):
        self.events.append(("retrying", task.label, reason))

    def finished_elsewhere(self, task, result):
        self.events.append(("finished_elsewhere", task.label))

    def waiting(self, runs):
        self.events.append(("waiting", runs))

    def note(self, task, line):
        self.events.append(("note", task.label, line))


def execute_run(store, grid=GRID, *, workers=1, job=workers.train_and_store):
    plan = study.make_plan(grid, study="s")
    tasks = study.tasks_of(plan, study.survey(plan, store), store)
    log = Log()
    outcome = execute_plan(
        plan, store, tasks, settings=ExecutionSettings(store.root), workers=workers, listener=log, job=job
    )
    return outcome, log.events


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)


def test_a_plan_lists_runs_with_their_keys_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = study.make_plan(GRID, study="s", command="vitab run --grid smoke")
    assert [config.position for config in plan.configs] == ["none", "rope", "none", "rope"]
    assert len(set(plan.keys)) == 4
    assert (plan.study, plan.grid, plan.baseline, plan.seeds) == ("s", "smoke", "none", (0, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 3}, r"patch\b.*8x8 images of digits"),
        ({"width": 15, "position": "none"}, "width must be a multiple of heads"),
        ({"width": 12, "position": "rope"}, "rope"),
        ({"width": 18, "position": "sinusoidal"}, "sinusoidal"),
    ],
)
def test_an_impossible_model_is_refused_when_planning(settings, message):
    with pytest.raises(UsageError, match=message):
        study.make_plan(override(GRID, settings=settings), study="s")


def test_runs_are_executed_in_order_and_finished_ones_are_kept(store):
    outcome, events = execute_run(store)
    assert len(outcome.finished) == 4
    assert events[:4] == [
        ("started", "none, seed 0"),
        ("epoch", "none, seed 0", 1),
        ("epoch", "none, seed 0", 2),
        ("finished", "none, seed 0"),
    ]
    assert [e[1] for e in events if e[0] == "started"] == [
        "none, seed 0",
        "rope, seed 0",
        "none, seed 1",
        "rope, seed 1",
    ]
    assert all(map(store.done, outcome.finished))
    again, events = execute_run(store)
    assert (again.finished, again.skipped, events) == ([], outcome.finished, [])


def test_a_run_of_another_study_is_not_trained_again(store):
    execute_run(store)
    more = override(GRID, seeds=3)
    outcome, events = execute_run(store, more)
    assert len(outcome.skipped) == 4
    assert [e[1] for e in events if e[0] == "started"] == ["none, seed 2", "rope, seed 2"]


def test_a_failing_run_stops_no_other_and_is_tried_again(store, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train_with_failures)
    outcome, _ = execute_run(store)
    assert len(outcome.finished) == 2
    assert outcome.failed == {
        "none, seed 1": "the run cannot be trained",
        "rope, seed 1": "ZeroDivisionError: division by zero",
    }
    plan = store.read_study("s")
    assert store.failure(plan.keys[2]) == "the run cannot be trained"
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    again, _ = execute_run(store)
    assert (len(again.finished), again.failed) == (2, {})
    assert store.failure(plan.keys[2]) is None


def test_an_interrupted_study_resumes(store, monkeypatch):
    def interrupted(config, *args, **rest):
        if config.seed == 1:
            raise KeyboardInterrupt
        return fake_trainer.train(config, *args, **rest)

    monkeypatch.setattr("ablations.training.trainer.train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute_run(store)
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    outcome, _ = execute_run(store)
    assert (len(outcome.skipped), len(outcome.finished)) == (2, 2)


def test_a_full_disk_stops_the_study_with_one_line(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    plan = study.make_plan(GRID, study="s")
    store.write_study(plan)
    tasks = study.tasks_of(plan, study.survey(plan, store), store)
    monkeypatch.setattr("ablations.storage.store.write_file", full)
    log = Log()
    with pytest.raises(VitabError, match=r"No space left on device"):
        inline.run_inline(tasks, ExecutionSettings(store.root), log)
    assert [e[0] for e in log.events].count("started") == 1


def test_worker_processes_share_the_work_and_a_crash_fails_only_its_run(store):
    grid = override(GRID, axes={"position": ("none",)}, seeds=5)
    outcome, events = execute_run(store, grid, workers=2, job=fake_trainer.job)
    assert len(outcome.finished) == 3
    assert outcome.failed == {
        "none, seed 1": "its worker process was killed by SIGKILL (possibly out of memory)",
        "none, seed 2": "no luck",
    }
    assert ("epoch", "none, seed 0", 1) in events
    plan = store.read_study("s")
    assert store.failure(plan.keys[1]) == outcome.failed["none, seed 1"]


def test_what_an_arm_costs(store):
    plan = study.make_plan(GRID, study="s")
    execute_run(store)
    (store.folder(plan.keys[0]) / "DONE.json").unlink()
    measured = []
    arms = study.survey(plan, store, measure=lambda config, dataset: measured.append(config) or 0.5)
    none, rope = arms
    assert (none.done, none.to_do, rope.done, rope.to_do) == (1, 1, 2, 0)
    assert (none.seconds, rope.seconds) == (1.0, None)
    assert measured == [plan.configs[0]]
    assert none.keys == (plan.keys[0], plan.keys[2])
    width, patches, classes = 16, 4, 10
    assert none.parameters == (
        (16 * width + width) + (12 * width * width + 13 * width) + 2 * width + (width * classes + classes)
    )
    forward = 2 * (patches * 16 * width + patches * 12 * width**2 + 2 * patches**2 * width + width * classes)
    assert none.flops == 3 * forward * 42 * 2  # 8 of the 50 images are held out, and 42 fit into one batch
    assert none.steps == 2


def test_a_plan_without_power_says_how_many_seeds_it_needs():
    assert power_warning(GRIDS["rope"]) is None
    warning = power_warning(GRIDS["smoke"])
    assert "2 pairs" in warning
    assert "smallest possible p is 0.5;" in warning
    assert "--seeds 6" in warning
    assert power_warning(override(GRIDS["smoke"], seeds=6)) is None
    three = override(GRIDS["smoke"], axes={"position": ("none", "rope", "learned")}, seeds=6)
    assert "after Holm over 2 comparisons; use at least --seeds 7" in power_warning(three)
    alone = override(GRIDS["smoke"], axes={"position": ("none",)})
    assert power_warning(alone) is None


def test_how_many_workers(monkeypatch):
    monkeypatch.setattr(resources, "available_cores", lambda: 4)
    assert resolve_workers("auto", runs=10, backend="numpy") == 4
    assert resolve_workers("auto", runs=3, backend="numpy") == 3
    assert resolve_workers("auto", runs=0, backend="numpy") == 1
    assert resolve_workers("auto", runs=10, backend="cupy") == 1
    monkeypatch.setattr(resources, "devices", lambda: ("one", "two"))
    assert resolve_workers("auto", runs=10, backend="cupy") == 2
    assert resolve_workers("auto", runs=1, backend="cupy") == 1
    assert resolve_workers("7", runs=10, backend="numpy") == 7
    for bad in ("0", "-1", "two", "1.5", ""):
        with pytest.raises(UsageError, match="--workers must be auto or an integer of at least 1"):
            resolve_workers(bad, runs=1, backend="numpy")


def test_which_backend(monkeypatch):
    monkeypatch.setattr(resources, "has_cupy", lambda: False)
    monkeypatch.setattr(resources, "devices", lambda: ("a GPU",))
    monkeypatch.setattr(resources, "gpu_problem", lambda: "CuPy is not installed: pip install it")
    assert resolve_backend("auto") == "numpy"
    with pytest.raises(
        UsageError, match="--backend cupy cannot be used on this machine: CuPy is not installed: pip install it;"
    ):
        resolve_backend("cupy")
    monkeypatch.setattr(resources, "has_cupy", lambda: True)
    assert resolve_backend("auto") == "numpy"
    monkeypatch.setattr(resources, "gpu_problem", lambda: None)
    assert resolve_backend("auto") == "cupy"
    assert resolve_backend("cupy") == "cupy"
    assert resolve_backend("numpy") == "numpy"
    monkeypatch.setattr(resources, "devices", lambda: ())
    assert resolve_backend("auto") == "numpy"
    assert resolve_backend("cupy") == "cupy"  # CUDA may find a GPU that nvidia-smi does not list
    with pytest.raises(UsageError, match="--backend must be auto, numpy, cupy, got 'jax'"):
        resolve_backend("jax")


def test_labels():
    config = RunConfig(position="rope", depth=4, learning_rate=1e-3, seed=2)
    assert run_label(config, ["position", "depth"]) == "rope, depth 4, seed 2"
    assert run_label(config, ["learning_rate"], seed=False) == "learning rate 0.001"


def test_the_environment_says_what_matters():
    found = environment.describe(position="rope", backend="numpy", threads=3)
    assert found["threads"] == 3
    assert list(found["code"]) == ["model", "training", "backend numpy", "position rope"]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in found["code"].values())
    assert {"numpy", "numba"} <= set(found["packages"])
    assert found["cores"] >= 1
    assert found["cpu"]
    assert found["git"] is None or set(found["git"]) == {"commit", "dirty"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def metrics_of(task, epoch):
    return fake_trainer.EpochMetrics(epoch, 1e-3, 0.5, 0.4, 0.75, 0.1, 1234.0)


def test_time_left_and_plain_lines(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    config = RunConfig(epochs=10)
    tasks = [Task(str(i), config, f"run {i}", weight) for i, weight in enumerate((1.0, 3.0))]
    text = io.StringIO()
    plain = progress.Progress(Console(file=text, width=40), tasks, skipped=1)
    plain.started(tasks[0])
    assert plain.study_left() is None
    now[0] = 20.0
    plain.epoch(tasks[0], metrics_of(tasks[0], 5))
    assert plain.study_left() == pytest.approx(20 * (4 / 0.5 - 1))
    now[0] = 40.0
    plain.finished(tasks[0], Finished("test 90.0%, validation 80.0%", 40.0))
    assert plain.study_left() == pytest.approx(120)
    plain.started(tasks[1])
    plain.failed(tasks[1], "no luck")
    assert text.getvalue().splitlines() == [
        "  run 0: epoch 5/10, loss 0.500, validation 75.0%, 1,234 images/s, 20 s left",
        "[2/3] run 0: test 90.0%, validation 80.0%, 40 s; 2 min 00 s left",
        "[3/3] run 1: FAILED: no luck",
    ]


def test_the_live_table_shows_what_is_running():
    config = RunConfig(epochs=10)
    task, idle = (Task(str(i), config, f"rope, seed {i}", 1.0) for i in range(2))
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True)
    with progress.LiveProgress(console, [task, idle], skipped=2) as live:
        live.started(task)
        live.started(idle)
        live.epoch(task, metrics_of(task, 4))
        console.print(live.table())
        live.failed(idle, "no luck")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue())
    for words in ("run", "epoch", "loss", "accuracy", "images/s", "left"):
        assert words in shown
    assert re.search(r"rope, seed 0\s+4/10\s+0\.500\s+75\.0%\s+1,234", shown)
    assert re.search(r"rope, seed 1\s+0/10", shown)
    assert "2 of 4 runs" in shown
    assert "[3/4] rope, seed 1: FAILED: no luck" in shown


def test_a_large_plan_is_quick_to_make(store):
    grid = dataclasses.replace(GRIDS["smoke"], seeds=tuple(range(500)))
    plan = study.make_plan(grid, study="s")
    assert len(study.tasks_of(plan, study.survey(plan, store), store)) == 1000
