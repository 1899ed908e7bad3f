"""Runs of different code or data are taken together only when asked, and then it is said at the top."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.errors import UsageError
from ablations.storage import provenance as environment
from ablations.storage import require_one_version, version_conflicts
from tests.support import fake_trainer, synthetic_results

SMOKE = ["run", "--grid", "smoke", "--set", "per_class=5", "--workers", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def vitab(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.mark.parametrize(("digest", "words"), [("vit_digest", "model"), ("training_digest", "training")])
def test_a_study_of_two_codes_is_reported_when_asked_and_says_so(monkeypatch, digest, words):
    monkeypatch.setattr(f"ablations.storage.provenance.{digest}", lambda: "a" * 64)
    assert vitab(*SMOKE, "--seeds", 1).exit_code == 0
    monkeypatch.setattr(f"ablations.storage.provenance.{digest}", lambda: "b" * 64)
    resumed = vitab(*SMOKE, "--seeds", 3)
    assert resumed.exit_code == 0
    name = digest.replace("_digest", "_sha256")
    assert (
        f"warning: 2 finished runs of study smoke were trained by other code (2 with {name} aaaaaaaa, now bbbbbbbb)"
        in (resumed.stderr)
    )
    assert "warning" not in "".join(
        line for line in vitab(*SMOKE, "--seeds", 3).stderr.splitlines() if "pairs of runs" not in line
    )  # nothing new is trained

    stated = f"2 versions of the code of the {words} made these runs, {name} bbbbbbbb (4 runs), aaaaaaaa (2 runs)"
    for command in (["report"], ["report", "--check"], ["compare", "none", "rope"]):
        refused = vitab(*command)
        assert refused.exit_code == 2
        assert refused.stderr == f"error: smoke: {stated}; --mixed takes them together and says so\n"
    assert not Path("reports").exists()
    assert vitab("report", "--mixed").exit_code == 0
    top = Path("reports/smoke/README.md").read_text(encoding="utf-8").split("## Answer")[0]
    assert f"> **Mixed runs.** {stated}. This may be the cause of differences between runs." in top
    assert vitab("report", "--mixed", "--check").exit_code == 0
    assert vitab("compare", "none", "rope", "--mixed").stdout.startswith(f"**Mixed runs.** {stated}.")


def test_one_code_and_one_data_set_are_no_mixture():
    results = synthetic_results.make()
    assert require_one_version(results) == version_conflicts(results) == []
    assert vitab(*SMOKE).exit_code == 0
    assert "Mixed" not in vitab("compare", "none", "rope", "--mixed").stdout


def fingerprinted(choose):
    """A study of whose runs each has the fingerprint that `choose` gives its row."""
    results = synthetic_results.make({"classes": (None, 5)}, (0, 1))
    keys = results.runs["key"]
    prints = {key: {"data_sha256": choose(row)} for key, row in zip(keys, results.runs.to_dict("records"), strict=True)}
    return replace(results, environments=prints)


def test_data_may_differ_where_the_runs_ask_for_it_and_nowhere_else():
    assert version_conflicts(fingerprinted(lambda row: f"{row['classes']}" * 20)) == []
    (found,) = version_conflicts(fingerprinted(lambda row: f"{row['seed']}" * 20))[:1]
    assert found == "2 versions of the data made these runs, data_sha256 00000000 (1 run), 11111111 (1 run)"
    one, two = (synthetic_results.make({"position": ("none", "rope")}, study=name) for name in ("one", "two"))
    one, two = (
        replace(results, environments={key: {"data_sha256": digit * 64} for key in results.plan.keys})
        for digit, results in (("1", one), ("2", two))
    )
    assert version_conflicts(one) == version_conflicts(two) == []
    with pytest.raises(UsageError, match=r"^one and two: 2 versions of the data .* 11111111 \(6 runs\), 22222222"):
        require_one_version(one, two)


def test_the_digest_of_the_training_is_that_of_what_the_trainer_imports(tmp_path, monkeypatch):
    """Every module of ablations that a training imports is in it, but for those that cannot change its numbers."""
    import ast

    def imports(path):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ablations."):
                yield node.module.split(".")[1]

    folder = environment.ROOT / "ablations"
    left, seen = {"trainer"}, set()
    while left:
        name = left.pop()
        seen.add(name)
        paths = sorted((folder / name).glob("*.py")) if (folder / name).is_dir() else [folder / f"{name}.py"]
        left |= {found for path in paths for found in imports(path)} - seen
    silent = {"errors", "files", "signs", "snapshot"}
    covered = {part.rstrip("/").removesuffix(".py") for part in environment.TRAINING}
    keyed = {"config"}  # its fields are the run's key
    assert covered <= seen
    assert seen - keyed - silent == covered
