import dataclasses
import json
import os

import numpy as np
import pytest

from ablations.config import RunConfig, run_key, vit_config
from ablations.data import load
from ablations.errors import UsageError, VitabError
from ablations.models.gallery import stored_mistakes
from ablations.storage import METRICS, Store, StudyPlan, files, load_results, problems
from tests.support import fake_trainer

FILES = {
    "config.json",
    "environment.json",
    "metrics.csv",
    "predictions.npz",
    "mistakes.npz",
    "checkpoint.safetensors",
    "result.json",
    "DONE.json",
}
CONFIGS = tuple(
    RunConfig(position=position, epochs=2, warmup_epochs=0.5, width=16, per_class=5, seed=seed)
    for seed in (0, 1)
    for position in ("none", "rope")
)


@pytest.fixture(scope="module")
def digits():
    return load("digits", per_class=5)


@pytest.fixture
def plan(digits):
    return StudyPlan(
        study="mine",
        grid="rope",
        question="Which?",
        baseline="none",
        axes={"position": ("none", "rope"), "classes": (None, ("1", "2"))},
        seeds=(0, 1),
        keys=tuple(run_key(config, digits.fingerprint) for config in CONFIGS),
        configs=CONFIGS,
        command="vitab run --grid rope",
    )


def finish(store, config, digits):
    key = run_key(config, digits.fingerprint)
    model = vit_config(config, image_size=8, channels=1, classes=10)
    record = fake_trainer.train(config, digits)
    mistakes = stored_mistakes(record.predictions, digits.test_images)
    store.write(key, record, {"threads": 1}, model, mistakes=mistakes)
    return key


def test_a_finished_run_is_there_whole(tmp_path, digits):
    store = Store(tmp_path)
    key = finish(store, CONFIGS[1], digits)
    assert store.done(key)
    assert {path.name for path in store.folder(key).iterdir()} == FILES
    assert store.verify(key) == []
    assert store.result(key)["test_accuracy"] == 0.5
    assert store.result(key)["key"] == key
    assert store.environment(key) == {"threads": 1}
    assert [tuple(row) for row in store.metrics(key)] == [METRICS] * 2
    assert store.metrics(key)[1] == {
        "epoch": 2.0,
        "learning_rate": 5e-4,
        "train_loss": 1.0,
        "validation_loss": 0.75,
        "validation_accuracy": 0.2,
        "seconds": 0.25,
        "images_per_s": 1000.0,
    }
    np.testing.assert_array_equal(store.predictions(key)["labels"], digits.test_labels)
    assert store.predictions(key)["probabilities"].dtype == np.float32
    np.testing.assert_array_equal(store.checkpoint(key)["norm.weight"], [0, 1, 2])
    assert RunConfig.from_mapping(json.loads((store.folder(key) / "config.json").read_text())) == CONFIGS[1]


def test_the_same_run_gives_the_same_bytes(tmp_path, digits):
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    key = finish(first, CONFIGS[0], digits)
    finish(second, CONFIGS[0], digits)
    for name in FILES:
        assert (first.folder(key) / name).read_bytes() == (second.folder(key) / name).read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": "other", "sha256": {}}', b'{"sha256": {}}', b"\xff"])
def test_a_run_without_a_valid_done_is_not_finished_and_is_written_anew(tmp_path, digits, content):
    store = Store(tmp_path)
    key = finish(store, CONFIGS[0], digits)
    (store.folder(key) / "DONE.json").write_bytes(content)
    (store.folder(key) / ".metrics.csv.1.tmp").write_bytes(b"half")
    assert not store.done(key)
    assert store.verify(key) == ["DONE.json"]
    finish(store, CONFIGS[0], digits)
    assert store.done(key)
    assert {path.name for path in store.folder(key).iterdir()} == FILES


def test_no_file_of_a_run_is_done_before_all_are(tmp_path, digits, monkeypatch):
    store = Store(tmp_path)
    for fatal in sorted(FILES):

        def write(path, content, check, fatal=fatal):
            if path.name == fatal:
                raise OSError(28, "No space left on device")
            return files.write_file(path, content, check)

        monkeypatch.setattr("ablations.storage.store.write_file", write)
        with pytest.raises(VitabError, match=r"cannot write run .* to .*: No space left on device") as error:
            finish(store, CONFIGS[0], digits)
        assert not isinstance(error.value, UsageError)
        assert not store.done(run_key(CONFIGS[0], digits.fingerprint))


def test_damage_is_found(tmp_path, digits):
    store = Store(tmp_path)
    key = finish(store, CONFIGS[0], digits)
    path = store.folder(key) / "result.json"
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.9"))
    (store.folder(key) / "metrics.csv").unlink()
    assert set(store.verify(key)) == {"result.json", "metrics.csv"}
    with pytest.raises(VitabError, match=r"result.json is damaged: delete .* and run the study again"):
        store.result(key)
    with pytest.raises(VitabError, match=r"cannot read .*metrics.csv"):
        store.metrics(key)


def test_a_failure_is_kept_until_the_run_is_finished(tmp_path, digits):
    store = Store(tmp_path)
    key = run_key(CONFIGS[0], digits.fingerprint)
    store.fail(key, CONFIGS[0], "loss is nan", "Traceback ...")
    assert store.failure(key) == "loss is nan"
    assert not store.done(key)
    assert json.loads((store.folder(key) / "failure.json").read_text())["details"] == "Traceback ..."
    finish(store, CONFIGS[0], digits)
    assert store.failure(key) is None
    assert {path.name for path in store.folder(key).iterdir()} == FILES


def test_a_plan_survives_the_disk(tmp_path, plan):
    store = Store(tmp_path)
    store.write_study(plan)
    assert store.read_study("mine") == plan
    assert list(store.read_study("mine").axes) == ["position", "classes"]
    assert not store.plan_differs(plan)
    assert store.plan_differs(dataclasses.replace(plan, keys=plan.keys[:1], configs=plan.configs[:1]))
    assert not store.plan_differs(dataclasses.replace(plan, study="other"))


def test_studies_come_last_planned_first(tmp_path, plan):
    store = Store(tmp_path)
    assert store.studies() == []
    for age, name in enumerate(["new", "old"]):
        store.write_study(dataclasses.replace(plan, study=name))
        os.utime(tmp_path / "studies" / f"{name}.json", (1e9 - age, 1e9 - age))
    assert store.studies() == ["new", "old"]


def test_a_study_that_is_not_there_or_damaged(tmp_path, plan):
    store = Store(tmp_path)
    with pytest.raises(UsageError, match=r"no study 'mine'.*there are no studies.*vitab run"):
        store.read_study("mine")
    store.write_study(plan)
    with pytest.raises(UsageError, match=r"no study 'nime'.*studies there: mine"):
        store.read_study("nime")
    for content in (b"", b"[]", b"{}", b"null", b'{"study": "mine", "axes": 3}'):
        (tmp_path / "studies" / "mine.json").write_bytes(content)
        with pytest.raises(UsageError, match=r"mine.json is damaged"):
            store.read_study("mine")


def test_results_hold_what_is_finished(tmp_path, digits, plan):
    store = Store(tmp_path)
    store.write_study(plan)
    with pytest.raises(UsageError, match="study 'mine' has no finished run yet; studies there: mine"):
        load_results(store, "mine")
    keys = [finish(store, config, digits) for config in CONFIGS[:3]]
    store.fail(plan.keys[3], CONFIGS[3], "no luck")
    results = load_results(store, "mine")
    assert list(results.runs["key"]) == keys
    assert list(results.runs["position"]) == ["none", "rope", "none"]
    assert list(results.runs["test_accuracy"]) == [0.5, 0.5, 0.51]
    assert set(results.runs) >= {*RunConfig.__dataclass_fields__, "parameters", "flops", "train_seconds", "seconds"}
    assert list(results.epochs["epoch"]) == [1, 2] * 3
    assert list(results.epochs["seed"]) == [0, 0, 0, 0, 1, 1]
    assert set(results.epochs) == {"key", "position", "depth", "patch", "seed", *METRICS}
    assert results.missing == [CONFIGS[3]]
    assert results.failed == {plan.keys[3]: "no luck"}
    assert results.environments == {key: {"threads": 1} for key in keys}
    assert set(results.checkpoint(keys[0])) >= {"norm.weight"}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to --runs .*file: "):
        Store(tmp_path / "file").check_writable()
    Store(tmp_path / "new" / "deep").check_writable()
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["studies"]


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_file(path, b"old")

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        files.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_run_of_an_older_version_has_no_mistakes_and_is_intact(tmp_path, digits):
    old, new = Store(tmp_path / "old"), Store(tmp_path / "new")
    key = run_key(CONFIGS[0], digits.fingerprint)
    model = vit_config(CONFIGS[0], image_size=8, channels=1, classes=10)
    old.write(key, fake_trainer.train(CONFIGS[0], digits), {"threads": 1, "code": {}}, model)
    assert "mistakes.npz" not in {path.name for path in old.folder(key).iterdir()}
    assert old.mistakes(key) is None
    assert old.verify(key) == []
    assert "mistakes.npz" not in " ".join(problems(old, key))
    new.receive(key, *old.contents(key))
    assert new.mistakes(key) is None


def test_the_images_of_mistakes_are_checked_and_received(tmp_path, digits):
    store, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    key = finish(store, CONFIGS[0], digits)
    found = store.mistakes(key)
    wrong = np.flatnonzero(digits.test_labels != 0)[:12]
    np.testing.assert_array_equal(found["image"], wrong)
    np.testing.assert_array_equal(found["pixels"], digits.test_images[wrong])
    contents, sums = store.contents(key)
    other.receive(key, contents, sums)
    np.testing.assert_array_equal(other.mistakes(key)["pixels"], found["pixels"])
    with pytest.raises(VitabError, match=r"mistakes.npz of run .* does not match its checksum"):
        Store(tmp_path / "c").receive(key, contents | {"mistakes.npz": b"other"}, sums)
    (store.folder(key) / "mistakes.npz").write_bytes(b"damaged")
    assert "mistakes.npz does not match its checksum" in problems(store, key)
    with pytest.raises(VitabError, match=r"mistakes.npz is damaged: delete .* and run the study again"):
        store.mistakes(key)
