"""A trained model gives the stored probabilities, with its own preprocessing or that of the data."""

from pathlib import Path

import numpy as np
import pytest

from ablations.data import load
from ablations.errors import UsageError, VitabError
from ablations.models import TrainedModel, find_run
from ablations.models.trained import dataset_of, top
from ablations.storage import Store, config_of, to_json
from tests.support.evaluations import succeeds, vitab
from tests.support.own_encoding import write
from tests.support.trained_models import keys_of, make_diverged, make_old, replace_file
from vit import ConfigError
from vit.positions import own


@pytest.mark.parametrize("study", ["arms", "token", "colour"])
def test_the_stored_probabilities_bit_for_bit(store: Store, pictures: Path, study: str) -> None:
    for key in keys_of(store, study).values():
        model = TrainedModel.load(store, key)
        images = dataset_of(store, key, pictures if study == "colour" else None).test_images
        assert np.array_equal(model.probabilities(images), store.predictions(key)["probabilities"])
        assert model.note == ""
        make_old(store, key)
        old = TrainedModel.load(store, key, pictures if study == "colour" else None)
        assert old.preprocessing == model.preprocessing
        assert old.note == (
            f"the checkpoint of run {key[:16]} is of an older version; its normalisation was computed from the data"
        )
        assert np.array_equal(old.probabilities(images), store.predictions(key)["probabilities"])


def test_a_batch_of_the_size_of_the_training_is_not_larger_than_its_images(store: Store) -> None:
    """Sums are rounded by the images that are computed together, which are a quarter of a batch at most."""
    key = keys_of(store, "arms")["rope,2,0"]
    assert config_of(store, key).batch_size == 64
    assert TrainedModel.load(store, key).batch_size == 50 - 8  # 5 images of each of 10 classes, 15 % for validation
    environment = store.environment(key)
    del environment["dataset"]  # as in runs of older versions
    replace_file(store, key, "environment.json", to_json(environment))
    assert TrainedModel.load(store, key).batch_size == 64


def test_images_of_another_size_or_kind(store: Store) -> None:
    model = TrainedModel.load(store, keys_of(store, "arms")["rope,1,0"])
    assert model.probabilities(np.zeros((2, 12, 12, 1), np.uint8)).shape == (2, 10)
    with pytest.raises(ConfigError, match=r"patch_size must divide the image size 9 \(1, 3, 9\), got 4"):
        model.probabilities(np.zeros((1, 9, 9, 1), np.uint8))
    for images in (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1))):
        with pytest.raises(UsageError, match=r"^images must be uint8 \(n, h, w, 1\), got (uint8|float64) \("):
            model.probabilities(images)


def test_few_pictures_and_none(store: Store) -> None:
    key = keys_of(store, "arms")["none,1,1"]
    model = TrainedModel.load(store, key)
    images = dataset_of(store, key).test_images
    assert model.probabilities(images[:0]).shape == (0, 10)
    np.testing.assert_allclose(model.probabilities(images[:3]), store.predictions(key)["probabilities"][:3], rtol=1e-5)


def test_a_diverged_run_has_no_model(store: Store) -> None:
    key = keys_of(store, "arms")["rope,1,0"]
    make_diverged(store, key)
    with pytest.raises(VitabError, match=f"run {key[:16]} diverged; it has no usable model"):
        TrainedModel.load(store, key)


def test_other_data_than_those_of_the_training_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys_of(store, "arms")["rope,1,0"]
    environment = store.environment(key)
    monkeypatch.setattr(store, "environment", lambda key: {**environment, "data_sha256": "0" * 64})
    make_old(store, key)
    with pytest.raises(VitabError, match=f"the data of run {key[:16]} .* have changed since its training"):
        TrainedModel.load(store, key)


def test_an_encoding_whose_file_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("mine.py"))
    small = ["--set", "width=8", "--set", "depth=1", "--set", "per_class=5", "--epochs", "1", "--seeds", "1"]
    succeeds(vitab("run", "--grid", "smoke", *small, "--position", "mine.py:Mine", "--workers", "1"))
    store = Store(Path("runs"))
    (key,) = store.read_study("smoke").keys
    assert find_run(store, "Mine") == find_run(store, "mine.py:Mine") == key
    images = load("digits", per_class=5).test_images
    assert np.array_equal(TrainedModel.load(store, key).probabilities(images), store.predictions(key)["probabilities"])
    Path("mine.py").unlink()
    own._class_in_file.cache_clear()
    own._sources.clear()
    with pytest.raises(VitabError) as refused:
        TrainedModel.load(store, key)
    assert str(refused.value) == (
        f"cannot read mine.py: there is no such file; the source of the encoding is in "
        f"runs/{key[:16]}/environment.json (encodings)"
    )


def test_top_keeps_the_order_of_equal_classes() -> None:
    assert top(np.array([0.1, 0.3, 0.3, 0.2, 0.1], dtype=np.float32), 9) == [1, 2, 3, 0, 4]
    assert top(np.array([0.1, 0.3, 0.3, 0.2, 0.1], dtype=np.float32), 2) == [1, 2]
