"""Tables and models of finished runs, against the files of the store."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import ablations
from ablations.config import FIELDS
from ablations.data.loading import dataset_for
from ablations.evaluation.keys import key_of
from ablations.models import trained
from ablations.storage import METRICS, RESULT, EvaluationStore, Store
from tests.support.trained_models import make_diverged, make_old, make_unfinished


def test_a_row_of_runs_is_the_configuration_and_the_result(runs: Path) -> None:
    store, found = Store(runs), ablations.load_runs()
    plan = store.read_study("smoke")
    assert list(found) == ["key", *FIELDS, *RESULT, "diverged"]
    assert tuple(found["key"]) == plan.keys
    for row in found.to_dict("records"):
        result = store.result(row["key"])
        assert {name: row[name] for name in RESULT} == {name: result[name] for name in RESULT}
        config = plan.runs[row["key"]]
        assert [row[field] for field in ("position", "depth", "per_class", "seed", "learning_rate")] == [
            *(config.position, 1, 5, config.seed, 2e-3)
        ]
    assert found["diverged"].tolist() == [0, 0, 0, 0]
    pd.testing.assert_frame_equal(ablations.load_runs(str(runs.resolve()), "smoke"), found)


def test_a_row_of_epochs_is_a_row_of_metrics(runs: Path) -> None:
    store, found = Store(runs), ablations.load_epochs()
    assert list(found) == ["key", "position", "depth", "patch", "seed", *METRICS]
    assert found["epoch"].tolist() == [1, 2] * 4
    for key, epochs in found.groupby("key"):
        assert epochs[list(METRICS)].to_dict("records") == store.metrics(str(key))


def test_a_row_of_predictions_is_a_run_and_a_test_image(runs: Path) -> None:
    store, found = Store(runs), ablations.load_predictions()
    columns = ["key", "position", "seed", "image", "label", "predicted", "probability", "probability_of_label"]
    assert list(found) == columns
    plan = store.read_study("smoke")
    assert tuple(found["key"].unique()) == plan.keys
    for key, rows in found.groupby("key"):
        stored = store.predictions(str(key))
        assert rows["image"].tolist() == list(range(397))
        assert set(rows["position"]) == {plan.runs[str(key)].position}
        assert set(rows["seed"]) == {plan.runs[str(key)].seed}
        np.testing.assert_array_equal(rows["label"], stored["labels"])
        np.testing.assert_array_equal(rows["predicted"], stored["predicted"])
        np.testing.assert_array_equal(rows["probability"], stored["probabilities"].max(axis=1))
        own = [each[label] for each, label in zip(stored["probabilities"], stored["labels"], strict=True)]
        np.testing.assert_array_equal(rows["probability_of_label"], own)
        accuracy = store.result(str(key))["test_accuracy"]
        assert (rows["label"] == rows["predicted"]).mean() == pytest.approx(accuracy, abs=1e-12)


def test_a_row_of_evaluations_is_a_run_a_protocol_and_a_metric(runs: Path) -> None:
    found = ablations.load_evaluations()
    assert list(found) == ["key", "position", "seed", "protocol", "metric", "value"]
    evaluations = EvaluationStore(runs / "evaluations")
    for (run, position), rows in found.groupby(["key", "position"]):
        key = key_of(run, "calibration", position)
        assert key is not None
        assert dict(zip(rows["metric"], rows["value"], strict=True)) == evaluations.result(key)["metrics"]
        assert set(rows["protocol"]) == {"calibration"}
    assert len(found) == 4 * len(found["metric"].unique())


def test_the_axes_of_predictions_can_be_lists_of_classes(tmp_path: Path) -> None:
    grid = ablations.Grid("pairs", "?", ablations.RunConfig(depth=1, patch=4, width=16, epochs=1, warmup_epochs=0.1),
                          {"position": ("rope",), "classes": (("0", "1"), ("2", "3"))}, (0,))  # fmt: skip
    with pytest.warns(UserWarning, match="no difference can reach"):
        found = ablations.run(grid, runs=tmp_path, per_class=5, quiet=True, workers=1).predictions
    assert list(found)[:4] == ["key", "position", "classes", "seed"]
    assert list(found["classes"].unique()) == [("0", "1"), ("2", "3")]
    assert set(found["label"]) == {0, 1}


def test_a_model_has_the_stored_probabilities(runs: Path) -> None:
    store = Store(runs)
    model = ablations.load_model("rope,seed=1")
    key = next(
        key for key, config in store.read_study("smoke").runs.items() if (config.position, config.seed) == ("rope", 1)
    )
    assert (model.key, model.config.position, model.config.seed) == (key, "rope", 1)
    images = dataset_for(model.config, None).test_images
    np.testing.assert_array_equal(model.probabilities(images), store.predictions(key)["probabilities"])
    assert ablations.load_model(key[:10], str(runs), "smoke").key == key
    assert model.model.forward(model.preprocessing.normalise(images[:2])[None]).shape == (1, 2, 10)


def test_a_model_of_an_older_version_needs_its_data(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(runs)
    key = store.read_study("smoke").keys[0]
    make_old(store, key)
    asked = []
    load = trained.dataset_of
    monkeypatch.setattr(trained, "check_data_dir", lambda names, data_dir: None)
    monkeypatch.setattr(trained, "dataset_of", lambda store, key, folder: asked.append(folder) or load(store, key))
    found = ablations.load_model(key, data_dir="some folder")
    assert asked == [Path("some folder")]
    assert found.note.startswith(f"the checkpoint of run {key[:16]} is of an older version")


def test_a_model_classifies_pictures_in_files(runs: Path) -> None:
    model = ablations.load_model("rope")
    images = dataset_for(model.config, None).test_images[:3]
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(f"{i}.png")
    found = model.classify("0.png", Path("1.png"), "2.png")
    assert (list(found.index), list(found)) == (["0.png", "1.png", "2.png"], [str(digit) for digit in range(10)])
    np.testing.assert_allclose(found, model.probabilities(images), atol=1e-6)
    assert model.classify().shape == (0, 10)
    Path("3.png").write_text("no picture")
    with pytest.raises(ablations.UsageError, match=r"cannot read image 3\.png"):
        model.classify("0.png", "3.png")


def test_errors(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ablations.UsageError, match=r"no study 'other' in runs; studies there: smoke"):
        ablations.load_runs(study="other")
    with pytest.raises(ablations.UsageError, match="no study has a finished run; there are no studies in nowhere yet"):
        ablations.load_epochs("nowhere")
    with pytest.raises(ablations.UsageError, match="no run of study smoke is 'learned'"):
        ablations.load_model("learned")
    store = Store(runs)
    first, second, *_ = store.read_study("smoke").keys
    make_diverged(store, first)
    with pytest.raises(ablations.VitabError, match="diverged; it has no usable model"):
        ablations.load_model(first)
    assert ablations.load_runs()["diverged"].tolist() == [1, 0, 0, 0]
    (store.folder(second) / "predictions.npz").write_bytes(b"damaged")
    with pytest.raises(ablations.VitabError, match=r"predictions\.npz is damaged: delete "):
        ablations.load_predictions()
    for key in store.read_study("smoke").keys:
        make_unfinished(store, key)
    with pytest.raises(ablations.UsageError, match="study 'smoke' has no finished run yet"):
        ablations.load_predictions(study="smoke")


def test_a_study_without_evaluations_has_an_empty_table(runs: Path) -> None:
    (runs / "evaluations").rename("elsewhere")
    found = ablations.load_evaluations()
    assert (list(found), len(found)) == (["key", "position", "seed", "protocol", "metric", "value"], 0)


def test_importing_the_package_imports_nothing_else() -> None:
    program = (
        "import sys, ablations\n"
        "print([name for name in sys.modules if name.startswith('ablations.') or name in ('numpy', 'pandas')])\n"
        "print(sorted(set(ablations.__all__) - set(dir(ablations))))\n"
        "ablations.load_runs\n"
        "print([name for name in ('numba', 'pandas', 'typer', 'rich') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "[]"]
    with pytest.raises(AttributeError, match="module 'ablations' has no attribute 'lod_runs'"):
        ablations.lod_runs  # noqa: B018
