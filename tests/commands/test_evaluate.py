"""`vitab evaluate` and `vitab run --protocol`: results, keys, plans, and bad input in one line."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ablations.evaluation import PROTOCOLS, keys, load_evaluations, registry
from ablations.evaluation.protocols.calibration import Calibration
from ablations.storage import Store
from tests.support.evaluations import (
    SMOKE,
    digests,
    evaluate,
    evaluations,
    files,
    refused,
    succeeds,
    vitab,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- results --


def test_evaluations_are_finished_once_and_the_runs_stay_as_they_are(runs: Path) -> None:
    before = digests(runs)
    lines = succeeds(evaluate("--protocol", "shift,calibration"))
    assert lines[0] == "study smoke: 8 evaluations, 8 to do"
    assert re.match(r"\[1/8\] shift: none, seed 0: accuracy after a shift by half a patch [\d.]+%, ", lines[1])
    assert lines[-1] == "all 8 evaluations are finished; next: vitab report smoke"
    assert digests(runs) == before
    first = evaluations()
    assert len(first) == 8
    assert sorted(path.name for path in (runs / "evaluations").iterdir()) == sorted(first)
    assert sorted(path.name for path in (runs / "evaluations" / next(iter(first))).iterdir()) == [
        "DONE.json",
        "arrays.npz",
        "attempt-0001.json",
        "config.json",
        "environment.json",
        "result.json",
    ]
    lines = succeeds(evaluate("smoke", "--protocol", " calibration , shift, calibration(bins=15)"))
    assert lines == [
        "study smoke: 8 evaluations, 0 to do, 8 already finished",
        "all 8 evaluations are finished; next: vitab report smoke",
    ]
    assert evaluations() == first
    lines = succeeds(evaluate("--protocol", "calibration,calibration(bins=5)"))
    assert lines[0] == "study smoke: 8 evaluations, 4 to do, 4 already finished"
    assert lines[1].startswith("[5/8] calibration(bins=5): none, seed 0: root-mean-square calibration error ")
    assert digests(runs) == before


def test_the_values_are_those_of_the_protocols(runs: Path) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    store = Store(runs)
    plan = store.read_study("smoke")
    found = load_evaluations(store, plan)
    assert (found.protocols, found.beforehand, found.outdated) == (("calibration",), frozenset(), 0)
    values = found.values.set_index(["key", "metric"])["value"]
    assert len(values) == 4 * 3
    for key in plan.keys:
        stored = store.predictions(key)
        of_labels = stored["probabilities"][np.arange(len(stored["labels"])), stored["labels"]]
        assert values[key, "nll"] == pytest.approx(-np.log(of_labels.astype(np.float64)).mean(), rel=1e-6)


@pytest.mark.slow
def test_worker_processes_have_the_results_of_one_process(runs: Path, here: Path) -> None:
    shutil.copytree(runs, here / "other")
    before = digests(runs)
    asked = ("--protocol", "shift,shuffle,attention")
    succeeds(evaluate(*asked))
    lines = succeeds(evaluate(*asked, "--workers", "2", "--runs", "other", "-q"))
    assert lines[-1] == "all 12 evaluations are finished; next: vitab report smoke --runs other"
    assert files(here / "other") == files(runs)
    assert len(files(runs)) == 12 * 3
    assert {key.partition(" ")[0] for key in digests(here / "other").values()} == {
        key.partition(" ")[0] for key in before.values()
    }


def test_the_next_command_names_a_folder_that_is_not_the_default_and_can_be_pasted(runs: Path) -> None:
    runs.rename("my runs")
    where = ("--runs", "my runs")
    assert succeeds(vitab(*SMOKE, *where))[-1] == "all 4 runs are finished; next: vitab report smoke --runs 'my runs'"
    lines = succeeds(evaluate("--protocol", "calibration", *where))
    assert lines[-1] == "all 4 evaluations are finished; next: vitab report smoke --runs 'my runs'"
    assert succeeds(evaluate("--protocol", "calibration", "--runs", "./my runs"))[1] == lines[-1]


def test_an_evaluation_is_repeated_if_the_code_of_its_protocol_has_changed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    old = evaluations()
    monkeypatch.setattr(keys, "_protocol_digest", lambda kind: "changed")
    keys.evaluation_code.cache_clear()
    store = Store(runs)
    plan = store.read_study("smoke")
    try:
        found = load_evaluations(store, plan)
        assert (found.protocols, found.outdated) == ((), 4)
        lines = succeeds(evaluate("--protocol", "calibration"))
        assert lines[0] == "study smoke: 4 evaluations, 4 to do"
        assert evaluations().items() > old.items()
        found = load_evaluations(store, plan)
        assert (found.protocols, found.outdated) == (("calibration",), 0)
    finally:
        keys.evaluation_code.cache_clear()


def test_an_evaluation_by_a_protocol_that_is_gone_is_outdated(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Calibration):
        name = "gone"

    monkeypatch.setitem(PROTOCOLS, "gone", Gone)
    succeeds(evaluate("--protocol", "gone,calibration"))
    monkeypatch.delitem(PROTOCOLS, "gone")
    registry._protocol.cache_clear()
    keys.evaluation_code.cache_clear()
    store = Store(runs)
    found = load_evaluations(store, store.read_study("smoke"))
    assert (found.outdated, found.protocols) == (4, ("calibration",))


# -- with `vitab run` --


def test_run_evaluates_by_protocols_that_are_kept_in_the_plan() -> None:
    command = [*SMOKE, "--protocol", "per-class,calibration(bins=15)", "--runs", "elsewhere"]
    lines = succeeds(vitab(*command))
    assert lines[0] == "study smoke: 4 runs, 4 to do"
    assert lines[5] == "study smoke: 8 evaluations, 8 to do"
    assert lines[-1] == "all 8 evaluations are finished; next: vitab report smoke --runs elsewhere"
    assert len([line for line in lines if "next: " in line]) == 1
    plan = Store(Path("elsewhere")).read_study("smoke")
    assert plan.protocols == ("per-class", "calibration")
    assert plan.command == "vitab run --grid smoke --set per_class=5 --protocol 'per-class,calibration(bins=15)'"
    again = succeeds(vitab(*command))
    assert "study smoke: 8 evaluations, 0 to do, 8 already finished" in again
    assert succeeds(evaluate("--runs", "elsewhere"))[0] == "study smoke: 8 evaluations, 0 to do, 8 already finished"
    found = load_evaluations(Store(Path("elsewhere")), plan)
    assert (found.protocols, found.beforehand) == (plan.protocols, {"per-class", "calibration"})


def test_a_dry_run_of_run_says_what_would_be_evaluated(here: Path) -> None:
    lines = succeeds(vitab(*SMOKE, "--protocol", "shift(fill=zero),calibration", "--dry-run"))
    assert "then 8 evaluations, by shift(fill=zero), calibration" in lines
    assert list(here.iterdir()) == []


GRID = 'seeds = 1\nbase = {per_class = 5, epochs = 1, width = 8, depth = 1}\naxes.position = ["none", "learned"]\n'


def test_a_grid_file_names_protocols() -> None:
    Path("mine.toml").write_text('protocols = ["calibration", "per-class"]\n' + GRID)
    lines = succeeds(vitab("run", "--grid", "mine.toml", "--workers", "1"))
    assert lines[-1] == "all 4 evaluations are finished; next: vitab report mine"
    assert Store(Path("runs")).read_study("mine").protocols == ("calibration", "per-class")
    lines = succeeds(vitab("run", "--grid", "mine.toml", "--workers", "1", "--protocol", "calibration"))
    assert lines[-1] == "all 2 evaluations are finished; next: vitab report mine"


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        ('["shfit"]', "unknown protocol 'shfit' (did you mean 'shift'?); valid: resolution, shift"),
        ('["calibration(bins=1)"]', "bins of protocol calibration must be an integer of at least 2, got '1'"),
        ('"shift"', "protocols must be a list of names, such as [\"resolution\"], got 'shift'"),
        ("[1]", 'protocols must be a list of names, such as ["resolution"], got [1]'),
    ],
)
def test_a_grid_whose_protocols_do_not_exist_is_refused_before_any_training(
    here: Path, protocols: str, message: str
) -> None:
    Path("mine.toml").write_text(f"protocols = {protocols}\n{GRID}")
    assert message in refused(vitab("run", "--grid", "mine.toml", "--workers", "1"))
    assert [path.name for path in here.iterdir()] == ["mine.toml"]


def test_an_unknown_protocol_of_run_is_refused_before_any_training(here: Path) -> None:
    assert "unknown protocol 'shfit' (did you mean 'shift'?)" in refused(vitab(*SMOKE, "--protocol", "shfit"))
    assert list(here.iterdir()) == []


# -- bad input --

BAD = [
    (["--protocol", "shfit"], "unknown protocol 'shfit' (did you mean 'shift'?); valid: resolution, shift"),
    (["--protocol", "shift(fill=red)"], "fill of protocol shift must be edge or zero, got 'red'"),
    (
        ["--protocol", "shift(flil=zero)"],
        "options of protocol shift must be one of fill, got 'flil' (did you mean fill?)",
    ),
    (["--protocol", "per-class(top=5)"], "options of protocol per-class do not exist, got 'top'"),
    (["--protocol", "resolution(factors=1/1)"], "factors of protocol resolution must be different numbers above 0"),
    (["--protocol", "shift("], "protocol must be NAME or NAME(OPTION=VALUE, ...), got 'shift('"),
    (["--protocol", ""], "protocol must be NAME or NAME(OPTION=VALUE, ...), got ''"),
    ([], "--protocol must name a protocol, such as resolution; to list them: vitab protocols"),
    (["nope", "--protocol", "shift"], "no study 'nope' in runs; studies there: smoke"),
    (["--protocol", "shift", "--runs", "nowhere"], "no study has a finished run; there are no studies in nowhere yet"),
    (["--protocol", "shift", "--workers", "0"], "--workers must be auto or an integer of at least 1, got '0'"),
    (["--protocol", "shift", "--backend", "jax"], "--backend must be auto, numpy, cupy, got 'jax'"),
    (["--protocol", "shift", "--dask", "nonsense"], "--workers is for this machine and cannot be combined with --dask"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(runs: Path, arguments: list[str], message: str) -> None:
    before = digests(runs)
    assert refused(evaluate(*arguments)).startswith(f"error: {message}")
    assert [path.name for path in Path().iterdir()] == ["runs"]
    assert not (runs / "evaluations").exists()
    assert digests(runs) == before


def test_a_study_without_a_finished_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args, **rest):
        raise ValueError("no")

    monkeypatch.setattr("ablations.training.trainer.train", fails)
    vitab(*SMOKE)
    for option in ([], ["--dry-run"]):
        assert "study smoke has no finished run to evaluate; run it first" in refused(
            evaluate("smoke", "--protocol", "shift", *option)
        )
    assert "no study has a finished run" in refused(evaluate("--protocol", "shift"))
    assert not Path("runs/evaluations").exists()


def test_a_dry_run_writes_nothing(runs: Path) -> None:
    before = digests(runs)
    lines = succeeds(evaluate("--protocol", "shift(fill=zero),resolution", "--dry-run"))
    assert lines[0].split() == ["protocol", "what", "is", "measured", "to", "do", "about"]
    assert lines[1].startswith("shift(fill=zero)  accuracy on translated images")
    assert re.search(r" 4  +[\d.]+ s$", lines[1].rstrip())
    assert digests(runs) == before
    assert not (runs / "evaluations").exists()


def test_a_folder_that_cannot_be_written(runs: Path) -> None:
    (runs / "evaluations").write_text("a file")
    assert "error: cannot write to --runs runs/evaluations: " in evaluate("--protocol", "calibration").stderr
    assert (runs / "evaluations").read_text() == "a file"
