"""What a tracker has of a run, and what it gets: every epoch once, in order, and the present result."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ablations.storage import Store
from ablations.tracking.mirror import Mirror
from ablations.tracking.process import TrackerProcess
from ablations.tracking.study import tracked_run
from ablations.tracking.tracker import TrackedRun, without_credentials
from tests.support.fake_trackers import Notebook, calls
from tests.support.tracked import replace_file

NAME = "none, seed 0"


@pytest.fixture
def store(finished: Path) -> Store:
    return Store(finished)


@pytest.fixture
def run(store: Store) -> TrackedRun:
    plan = store.read_study("smoke")
    return tracked_run(plan, plan.keys[0], plan.configs[0])


@pytest.fixture
def mirror(store: Store) -> Callable[[], Mirror]:
    def connect() -> Mirror:
        folder = store.root / "tracking" / "fake"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "calls.jsonl").unlink(missing_ok=True)
        return Mirror(Notebook(folder, "smoke"), store, folder)

    return connect


def record(store: Store, run: TrackedRun) -> dict[str, object]:
    return json.loads((store.root / "tracking" / "fake" / "vitab" / "smoke" / f"{run.key[:16]}.json").read_text())


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "train_loss": 2 / number}


def test_a_run_is_described(store: Store, run: TrackedRun) -> None:
    assert (run.name, run.arm, run.unique_name) == (NAME, "none", f"{NAME} ({run.key[:8]})")
    assert run.tags == {"study": "smoke", "arm": "none", "seed": "0", "key": run.key, "version": "0.1.0"}
    assert run.config == json.loads((store.folder(run.key) / "config.json").read_text())


def test_a_finished_run_is_copied_once(store: Store, run: TrackedRun, mirror: Callable[[], Mirror]) -> None:
    first = mirror()
    assert first.lacking([run]) == 1
    assert first.finish(run)
    assert not first.finish(run)
    assert first.lacking([run]) == 0
    assert calls()[1:] == [["start_run", NAME, False], ["log", NAME, [1, 2, 3]], ["finish", NAME, 3, 0.5]]
    assert record(store, run) == {"where": "notes in .", "epochs": 3, "result": store.result_digest(run.key)}
    again = mirror()
    assert not again.finish(run)
    assert again.close() == {"where": f"notes in {store.root}/tracking/fake", "next_step": "to look: cat"}
    assert calls() == [["connect", "smoke"]]


def test_a_run_is_copied_while_it_is_trained(run: TrackedRun, mirror: Callable[[], Mirror]) -> None:
    live = mirror()
    live.start(run)
    live.start(run)  # retried
    for number in (1, 2, 1, 2):  # from the last checkpoint
        live.epoch(run, epoch(number))
    assert live.finish(run)
    assert calls()[1:] == [
        ["start_run", NAME, False],
        ["log", NAME, [1]],
        ["log", NAME, [2]],
        ["log", NAME, [3]],
        ["finish", NAME, 3, 0.5],
    ]


def test_a_run_that_was_interrupted_goes_on(store: Store, run: TrackedRun, mirror: Callable[[], Mirror]) -> None:
    live = mirror()
    live.start(run)
    live.epoch(run, epoch(1))
    live.close()
    assert calls()[-1] == ["stop", NAME, None]
    assert record(store, run) == {"where": "notes in .", "epochs": 1}
    live = mirror()
    live.start(run)
    assert not (store.root / "tracking" / "fake" / "vitab" / "smoke" / f"{run.key[:16]}.json").exists()
    for number in (1, 2, 3):
        live.epoch(run, epoch(number))
    live.finish(run)
    assert calls()[1:] == [
        ["start_run", NAME, True],
        ["log", NAME, [2]],
        ["log", NAME, [3]],
        ["finish", NAME, 3, 0.5],
    ]


def test_epochs_that_the_tracker_has_not_seen_come_at_the_end_and_in_order(
    run: TrackedRun, mirror: Callable[[], Mirror]
) -> None:
    live = mirror()
    live.start(run)
    live.epoch(run, epoch(3))  # trained to epoch 2 without a tracker
    live.finish(run)
    assert calls()[1:] == [["start_run", NAME, False], ["log", NAME, [1, 2, 3]], ["finish", NAME, 3, 0.5]]


def test_a_failed_run_is_copied_anew_when_it_is_tried_again(run: TrackedRun, mirror: Callable[[], Mirror]) -> None:
    live = mirror()
    live.fail(run, "it never started")
    live.start(run)
    live.epoch(run, epoch(1))
    live.fail(run, "no luck")
    live.epoch(run, epoch(2))
    live.start(run)
    live.epoch(run, epoch(1))
    assert calls()[1:] == [
        ["start_run", NAME, False],
        ["log", NAME, [1]],
        ["stop", NAME, "no luck"],
        ["start_run", NAME, False],
        ["log", NAME, [1]],
    ]


def test_a_run_with_another_result_is_copied_anew(store: Store, run: TrackedRun, mirror: Callable[[], Mirror]) -> None:
    mirror().finish(run)
    replace_file(store, run.key, "result.json", test_accuracy=0.75)
    assert mirror().finish(run)
    assert calls()[1:] == [["start_run", NAME, False], ["log", NAME, [1, 2, 3]], ["finish", NAME, 3, 0.75]]


def test_a_run_that_is_in_another_place_is_copied_anew(run: TrackedRun, mirror: Callable[[], Mirror]) -> None:
    mirror().finish(run)
    other = mirror()
    other.where = "another server"
    assert other.finish(run)
    assert calls()[1][:2] == ["start_run", NAME]


def test_copies_that_were_moved_with_the_runs_are_found(
    store: Store, run: TrackedRun, mirror: Callable[[], Mirror]
) -> None:
    mirror().finish(run)
    moved = store.root.rename("moved")
    folder = moved / "tracking" / "fake"
    assert not Mirror(Notebook(folder, "smoke"), Store(moved), folder).finish(run)


def test_a_run_that_another_process_has_taken_over_and_copied(
    store: Store, run: TrackedRun, mirror: Callable[[], Mirror]
) -> None:
    live = mirror()
    live.start(run)
    mirror().finish(run)
    live.close()
    assert record(store, run)["result"] == store.result_digest(run.key)


def test_a_program_that_was_killed_leaves_its_runs_stopped(here: Path, store: Store, run: TrackedRun) -> None:
    process = TrackerProcess("fake", store, "smoke")
    process.call("start", run)
    process.call("epoch", run, epoch(1))
    process.connection.close()
    assert process.process.wait(60) == 0
    assert calls()[-1] == ["stop", NAME, None]
    assert record(store, run) == {"where": "notes in .", "epochs": 1}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@host:5000/x", "https://host:5000/x"),
        ("https://host/a@b", "https://host/a@b"),
        ("sqlite:////tmp/a b/mlflow.db", "sqlite:////tmp/a b/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_credentials_are_not_shown(address: str, shown: str) -> None:
    assert without_credentials(address) == shown
