"""`vitab gallery`: the most confident mistakes, from the stored predictions."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from ablations.models.gallery import Mistake, mistakes
from ablations.models.trained import dataset_of
from ablations.reporting.figures import mistakes as figures
from ablations.storage import Store
from ablations.storage.store import npz_bytes
from tests.support.evaluations import refused, succeeds, vitab
from tests.support.trained_models import keys_of, make_diverged, make_unfinished, replace_file

RUN = "rope,depth=2"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that commands draw."""
    found: list[Figure] = []
    draw = figures.mistakes_figure
    monkeypatch.setattr(figures, "mistakes_figure", lambda *a, **k: found.append(draw(*a, **k)) or found[-1])
    return found


@pytest.fixture
def key(store: Store) -> str:
    return keys_of(store, "arms")["rope,2,0"]


def predict_again(store: Store, key: str, probabilities: np.ndarray) -> None:
    """Store other predictions for a run."""
    stored = store.predictions(key)
    arrays = {**stored, "probabilities": probabilities, "predicted": probabilities.argmax(axis=1)}
    replace_file(store, key, "predictions.npz", npz_bytes(arrays))


def test_mistakes_by_decreasing_confidence() -> None:
    probabilities = np.array(
        [[0.6, 0.3, 0.1], [0.5, 0.25, 0.25], [0.0, 0.125, 0.875], [0.75, 0.25, 0.0], [0.5, 0.125, 0.375]]
    )
    predictions = {
        "labels": np.array([0, 1, 0, 1, 2]),
        "predicted": probabilities.argmax(axis=1),
        "probabilities": probabilities,
    }
    assert mistakes(predictions) == [
        Mistake(image=2, predicted=2, label=0, predicted_probability=0.875, label_probability=0.0),
        Mistake(image=3, predicted=0, label=1, predicted_probability=0.75, label_probability=0.25),
        Mistake(image=1, predicted=0, label=1, predicted_probability=0.5, label_probability=0.25),
        Mistake(image=4, predicted=0, label=2, predicted_probability=0.5, label_probability=0.375),
    ]


@pytest.mark.parametrize("count", [None, 5, 40])
def test_pictures_with_their_predicted_and_right_class(
    store: Store, key: str, drawn: list[Figure], count: int | None
) -> None:
    stored, data = store.predictions(key), dataset_of(store, key)
    confidence = stored["probabilities"].max(axis=1)
    expected = sorted(np.flatnonzero(stored["predicted"] != data.test_labels), key=lambda i: (-confidence[i], i))
    number = min(count or 24, len(expected))
    lines = succeeds(vitab("gallery", RUN, *([] if count is None else ["--count", count])))
    assert lines == [f"wrote gallery.png: {number} of {len(expected)} mistakes"]
    (figure,) = drawn
    assert len(figure.axes) == number
    title, above, below, *texts = (text.get_text() for text in figure.texts)
    assert title == (
        f"run {key[:16]}: rope, depth 2, patch 4, seed 0, trained on digits\n"
        f"wrong about {len(expected)} of 397 test images, the most confident mistakes first"
    )
    assert (above, below.strip()) == ("above: predicted class", "below: right class")
    for ax, i, first, second in zip(figure.axes, expected, texts[::2], texts[1::2], strict=False):
        assert np.array_equal(ax.images[0].get_array(), data.test_images[i].repeat(3, axis=-1))
        label = data.test_labels[i]
        assert first == f"{stored['predicted'][i]}: {100 * confidence[i]:.1f} %"
        assert second == f"{label}: {100 * stored['probabilities'][i, label]:.1f} %"
    assert len(texts) == 2 * number


def test_colour_images_need_their_data(store: Store, pictures: Path, drawn: list[Figure]) -> None:
    key = keys_of(store, "colour")["learned,1,0"]
    probabilities = store.predictions(key)["probabilities"].copy()
    labels = store.predictions(key)["labels"]
    probabilities[:] = np.eye(2)[labels]
    probabilities[3] = [[0.25, 0.75], [0.75, 0.25]][labels[3]]
    predict_again(store, key, probabilities)
    assert "was trained on 'pictures': give its folder with --data-dir PATH" in refused(
        vitab("gallery", "learned", "--study", "colour")
    )
    options = ["--study", "colour", "--data-dir", pictures, "--out", "g.svg"]
    assert succeeds(vitab("gallery", "learned", *options)) == ["wrote g.svg: 1 of 1 mistakes"]
    (ax,) = drawn[0].axes
    image = dataset_of(store, key, pictures).test_images[3]
    assert np.array_equal(ax.images[0].get_array(), image)
    names = ("field", "sea")
    assert [text.get_text() for text in drawn[0].texts][3:] == [
        f"{names[1 - labels[3]]}: 75.0 %",
        f"{names[labels[3]]}: 25.0 %",
    ]
    assert Path("g.svg").read_bytes().startswith(b"<?xml")


def test_nothing_is_written_if_nothing_is_wrong(store: Store, key: str) -> None:
    predict_again(store, key, np.eye(10, dtype=np.float32)[store.predictions(key)["labels"]])
    assert succeeds(vitab("gallery", RUN)) == [
        f"run {key[:16]} is right about all 397 test images; no gallery is written"
    ]
    assert [path.name for path in Path().iterdir()] == ["runs"]


@pytest.mark.parametrize("name", ["g.png", "g.pdf", "g.svg"])
def test_the_same_file_again(store: Store, name: str) -> None:
    contents = []
    for _ in range(2):
        succeeds(vitab("gallery", RUN, "--out", name, "--count", "3"))
        contents.append(Path(name).read_bytes())
    assert contents[0] == contents[1]


BAD = [
    ([RUN, "--count", "0"], "--count must be an integer from 1 to 500, got 0"),
    ([RUN, "--count", "501"], "--count must be an integer from 1 to 500, got 501"),
    ([RUN, "--out", "g.jpg"], "--out must end in .png, .pdf, .svg, got g.jpg"),
    ([RUN, "--out", "no/g.png"], "--out must be in a folder that exists, got no/g.png"),
    ([RUN, "--out", "folder.png"], "--out must be a file, got the folder folder.png"),
    (["rope"], "'rope' means 2 arms of study arms"),
    (["learned"], "no run of study arms is 'learned'"),
    ([RUN, "--study", "nope"], "no study 'nope' in runs"),
    ([], "Missing argument 'RUN'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(store: Store, arguments: list[str], message: str) -> None:
    Path("folder.png").mkdir()
    assert message in refused(vitab("gallery", *arguments))
    assert sorted(path.name for path in Path().iterdir()) == ["folder.png", "runs"]


def test_a_run_that_diverged_or_has_not_finished(store: Store, key: str) -> None:
    make_diverged(store, key)
    result = vitab("gallery", RUN)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: run {key[:16]} diverged; it has no usable model\n"
    make_unfinished(store, key)
    assert "has not finished" in refused(vitab("gallery", key))


def test_other_images_than_those_of_the_training_are_refused(store: Store, key: str) -> None:
    from ablations.storage import to_json

    replace_file(store, key, "environment.json", to_json({**store.environment(key), "data_sha256": "0" * 64}))
    result = vitab("gallery", RUN)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: the data of run {key[:16]} (digits) have changed since its training: 447 images as before, but not "
        "the same\n"
    )
    assert [path.name for path in Path().iterdir()] == ["runs"]
