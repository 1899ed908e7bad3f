"""`vitab status`, `verify` and `reproduce` with evaluations."""

import json
import os
import re
from pathlib import Path

import pytest

from ablations.evaluation import Measurement, keys
from ablations.evaluation.finished_run import FinishedRun
from ablations.evaluation.protocols.attention import Attention
from ablations.evaluation.protocols.calibration import Calibration
from tests.support.evaluations import (
    MEASURE,
    SMOKE,
    digests,
    evaluate,
    evaluations,
    measure_with_failures,
    refused,
    succeeds,
    vitab,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_status_counts_evaluations_of_studies_that_have_any(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "evaluations" not in vitab("status").stdout
    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "measure", measure_with_failures)
        assert evaluate("--protocol", "calibration,per-class").exit_code == 1
    succeeds(vitab(*SMOKE, "--study", "other", "--epochs", "3"))
    lines = succeeds(vitab("status"))
    assert lines.count("smoke: evaluations: 6 finished, 2 failed") == 1
    failed = next(line for line in lines if "calibration: none, seed 1 failed: " in line)
    assert re.fullmatch(
        r"smoke: calibration: none, seed 1 failed: it cannot be measured "
        r"\(runs/evaluations/[0-9a-f]{16}/failure\.json\)",
        failed,
    )
    assert not [line for line in lines if line.startswith("other: evaluations")]
    assert "smoke: evaluations: 6 finished, 2 failed" in succeeds(vitab("status", "smoke"))
    assert "evaluations: " not in vitab("status", "other").stdout


def test_status_says_where_an_evaluation_is_running(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(self: Calibration, run: FinishedRun) -> Measurement:
        if not seen:
            seen.extend(succeeds(vitab("status")))
        return MEASURE(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "measure", look)
        succeeds(evaluate("--protocol", "calibration"))
    assert "smoke: evaluations: 0 finished, 1 running" in seen
    (line,) = [line for line in seen if " is running on " in line]
    assert line.startswith(
        f"smoke: calibration: none, seed 0 is running on {os.uname().nodename} (process {os.getpid()}"
    )
    assert "smoke: evaluations: 4 finished" in succeeds(vitab("status"))


def test_status_counts_outdated_evaluations_and_forgets_failures_of_older_code(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "measure", measure_with_failures)
        evaluate("--protocol", "calibration")
    monkeypatch.setattr(keys, "_protocol_digest", lambda kind: "changed")
    keys.evaluation_code.cache_clear()
    try:
        assert "smoke: evaluations: 0 finished, 2 outdated" in succeeds(vitab("status"))
    finally:
        keys.evaluation_code.cache_clear()


def test_verify_reads_every_file_of_an_evaluation(runs: Path) -> None:
    assert succeeds(vitab("verify")) == ["all files of 4 finished runs are intact"]
    succeeds(evaluate("--protocol", "calibration"))
    for command in (["verify"], ["verify", "smoke"]):
        assert succeeds(vitab(*command)) == ["all files of 4 finished runs and 4 evaluations are intact"]
    first, second, *_ = sorted((runs / "evaluations").iterdir())
    (first / "arrays.npz").write_bytes(b"x")
    (second / "DONE.json").write_bytes(b"{")
    for command in (["verify"], ["verify", "smoke"]):
        result = vitab(*command)
        assert result.exit_code == 1
        assert result.stdout.splitlines() == [
            f"runs/evaluations/{first.name}: arrays.npz does not match its checksum",
            f"runs/evaluations/{second.name}: DONE.json is damaged",
        ]
        assert result.stderr == "error: 2 of 4 evaluations are damaged; delete their folders\n"
    result = vitab("status", "--verify")
    assert result.exit_code == 1
    assert f"smoke: runs/evaluations/{first.name} is damaged: arrays.npz does not match" in result.stdout
    done = next(runs.glob("*/DONE.json"))
    done.write_bytes(b"{")
    assert vitab("verify").stderr == (
        "error: 1 of 4 finished runs and 2 of 4 evaluations are damaged; delete their folders\n"
    )


def test_reproduce_measures_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeds(evaluate("--protocol", "attention"))
    key = next(iter(evaluations()))
    run = json.loads((runs / "evaluations" / key / "result.json").read_bytes())["run"]
    before, done = digests(runs), evaluations()
    (line,) = succeeds(vitab("reproduce", key[:8]))
    assert line == (
        f"evaluation {key} of run {run[:16]} by attention, with the same code, packages and processor: "
        "bitwise identical"
    )
    assert (digests(runs), evaluations()) == (before, done)
    measure = Attention.measure

    def changed(metric: float, array: float):
        def changed_measure(self: Attention, finished: FinishedRun) -> Measurement:
            found = measure(self, finished)
            metrics = {**found.metrics, "entropy": found.metrics["entropy"] + metric}
            return Measurement(metrics, {name: value + array for name, value in found.arrays.items()})

        return changed_measure

    for here, metric, array, code in (
        (True, 1e-9, 0, 1),
        (True, 0, 1e-9, 1),
        (False, 0.005, 1.0, 0),
        (False, 0.1, 0, 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Attention, "measure", changed(metric, array))
            if not here:
                patch.setattr("ablations.storage.provenance.cpu_model", lambda: "another")
            result = vitab("reproduce", key)
        assert result.exit_code == code, result.output
        where = "with the same code, packages and processor" if here else "in another environment"
        assert f"{where}: not bitwise identical" in result.stdout
        assert ("times the tolerance (entropy)" in result.stdout) == (metric != 0)
        assert result.stderr == ("error: the evaluation was not reproduced\n" if code else "")
    with monkeypatch.context() as patch:
        patch.setattr(Attention, "measure", changed(float("nan"), 0))
        assert vitab("reproduce", key).stderr.startswith(
            "error: metric entropy of protocol attention must be a finite number, or be left out with a line in reasons"
        )
    (runs / "evaluations" / key / "arrays.npz").write_bytes(b"x")
    assert vitab("reproduce", key).stderr == (
        f"error: evaluation {key} is damaged: arrays.npz does not match its checksum\n"
    )
    assert "no finished run, trial or evaluation in runs with a key that begins with 'x'" in refused(
        vitab("reproduce", "x")
    )


def test_an_evaluation_of_a_damaged_run_is_not_reproduced(runs: Path) -> None:
    succeeds(evaluate("--protocol", "calibration"))
    key = next(iter(evaluations()))
    run = json.loads((runs / "evaluations" / key / "result.json").read_bytes())["run"]
    (runs / run[:16] / "predictions.npz").write_bytes(b"x")
    assert vitab("reproduce", key).stderr == (
        f"error: run {run[:16]}, which was evaluated, is damaged: predictions.npz does not match its checksum\n"
    )
