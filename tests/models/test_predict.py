"""`vitab predict`: the stored probabilities on the test images; pictures of every kind; bad input in one line."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ablations.cli import app
from ablations.data.pictures import read_picture
from ablations.models import TrainedModel
from ablations.models.trained import dataset_of
from ablations.storage import Store
from tests.support.evaluations import refused, succeeds, vitab
from tests.support.trained_models import (
    keys_of,
    make_diverged,
    make_old,
    make_unfinished,
    save_pictures,
)

ROPE = "rope,depth=2"


def predict(*arguments: object) -> list[dict]:
    result = json.loads(succeeded(*arguments, "--json"))
    assert list(result) == ["run", "predictions"]
    return result["predictions"]


def succeeded(*arguments: object) -> str:
    result = vitab("predict", *arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def probabilities(prediction: dict, class_names: tuple[str, ...]) -> np.ndarray:
    by_name = {one["class"]: one["probability"] for one in prediction["classes"]}
    return np.array([by_name[name] for name in class_names], dtype=np.float32)


# -- values --


@pytest.mark.parametrize(
    ("study", "run", "arm"),
    [
        ("arms", "none,depth=1,seed=1", "none,1,1"),
        ("arms", ROPE, "rope,2,0"),
        ("token", "rope(base=10)", "rope(base=10),2,0"),
        ("colour", "learned", "learned,1,0"),
    ],
)
def test_test_images_as_pictures_have_the_stored_probabilities_bit_for_bit(
    store: Store, pictures: Path, study: str, run: str, arm: str
) -> None:
    key = keys_of(store, study)[arm]
    data = dataset_of(store, key, pictures if study == "colour" else None)
    assert data.channels == (3 if study == "colour" else 1)
    paths = save_pictures(data.test_images, Path("written"))
    stored = store.predictions(key)["probabilities"]
    for given in (["written"], paths):
        found = predict(run, *given, "--study", study, "--top", len(data.class_names))
        assert [one["picture"] for one in found] == list(map(str, paths))
        assert np.array_equal([probabilities(one, data.class_names) for one in found], stored)


def test_an_old_checkpoint_gives_the_same_predictions_and_a_note(store: Store, pictures: Path) -> None:
    for study, options in (("arms", []), ("colour", ["--data-dir", pictures])):
        key = next(iter(keys_of(store, study).values()))
        save_pictures(dataset_of(store, key, *options[1:]).test_images, Path(study, "images"))
        before = predict(key, study)
        make_old(store, key)
        result = vitab("predict", key, study, "--json", *options)
        assert result.exit_code == 0
        assert json.loads(result.stdout)["predictions"] == before
        assert result.stderr == (
            f"note: the checkpoint of run {key[:16]} is of an older version; "
            "its normalisation was computed from the data\n"
        )


def test_pictures_of_every_kind_become_images_of_the_training(store: Store) -> None:
    key = keys_of(store, "colour")["learned,1,0"]
    rng = np.random.default_rng(1)
    large = Image.fromarray(rng.integers(0, 256, (50, 90, 3)).astype(np.uint8))
    turned, exif = large.rotate(90, expand=True), Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    deep = Image.fromarray((np.arange(32 * 32, dtype=np.uint16) * 64).reshape(32, 32))
    Path("kinds").mkdir()
    large.save("kinds/large.png")
    turned.save("kinds/turned.PNG", exif=exif)
    large.save("kinds/jpeg.jpeg", quality=100, subsampling=0)
    large.convert("L").save("kinds/grey.png")
    large.convert("L").convert("RGB").save("kinds/equal.png")
    clear.save("kinds/clear.png")
    Image.new("RGB", (32, 32), "white").save("kinds/white.png")
    deep.save("kinds/deep.png")
    Image.fromarray((np.asarray(deep) / 257).round().astype(np.uint8)).save("kinds/shallow.png")
    Path("kinds/notes.txt").write_text("not a picture")
    names = ("field", "sea")
    found = {Path(one["picture"]).stem: probabilities(one, names) for one in predict(key, "kinds")}
    assert set(found) == {"large", "turned", "jpeg", "grey", "equal", "clear", "white", "deep", "shallow"}
    same = {"rtol": 1e-5}  # images that are computed together are rounded together
    expected = TrainedModel.load(store, key).probabilities(read_picture(Path("kinds/large.png"), 32)[None])[0]
    np.testing.assert_allclose(found["large"], expected, **same)
    np.testing.assert_allclose(found["turned"], found["large"], **same)
    np.testing.assert_allclose(found["jpeg"], found["large"], rtol=0.01)
    np.testing.assert_allclose(found["grey"], found["equal"], **same)
    np.testing.assert_allclose(found["clear"], found["white"], **same)
    np.testing.assert_allclose(found["deep"], found["shallow"], **same)
    distinct = sorted(float(found[name][0]) for name in ("large", "grey", "clear", "deep"))
    assert min(np.diff(distinct)) > 1e-4


def test_a_colour_picture_is_grey_for_a_model_of_grey_images(store: Store) -> None:
    key = keys_of(store, "arms")["rope,2,0"]
    image = dataset_of(store, key).test_images[0]
    Image.fromarray(image[..., 0]).save("grey.png")
    Image.fromarray(image.repeat(3, axis=-1)).save("colour.png")
    grey, colour = (predict(ROPE, name)[0]["classes"] for name in ("grey.png", "colour.png"))
    assert grey == colour


# -- output --


def test_a_table_names_the_run_and_the_most_probable_classes(store: Store) -> None:
    key = keys_of(store, "arms")["rope,2,0"]
    save_pictures(dataset_of(store, key).test_images[:2], Path("b"))
    best = predict(ROPE, "b", "--top", "2")
    lines = succeeded(ROPE, "b", "--top", "2").splitlines()
    assert lines[0] == f"run {key[:16]}: rope, depth 2, patch 4, seed 0, trained on digits"
    assert lines[1].split() == ["picture", "class", "probability"]
    assert [line.split() for line in lines[2:]] == [
        [*([one["picture"]] if i == 0 else []), each["class"], f"{each['probability']:.1%}"]
        for one in best
        for i, each in enumerate(one["classes"])
    ]
    for columns in (40, 80):
        narrow = vitab("predict", ROPE, "b", columns=columns).stdout.splitlines()
        assert max(map(len, narrow[1:])) <= columns
        assert len(narrow) == 2 + 2 * 5


def test_top_is_at_most_the_number_of_classes(store: Store) -> None:
    key = keys_of(store, "arms")["rope,2,0"]
    save_pictures(dataset_of(store, key).test_images[:1], Path("b"))
    (one,) = predict(key, "b", "--top", "99")
    values = [each["probability"] for each in one["classes"]]
    assert len(values) == 10
    assert values == sorted(values, reverse=True)
    (one,) = predict(key, "b", "--top", "1")
    assert one["classes"] == [{"class": one["classes"][0]["class"], "probability": values[0]}]
    assert len(predict(key, "b")[0]["classes"]) == 5


def test_csv_has_a_row_for_each_class_with_the_numbers_of_json(store: Store) -> None:
    key = keys_of(store, "arms")["rope,2,0"]
    save_pictures(dataset_of(store, key).test_images[:2], Path("a, b"))
    rows = list(csv.DictReader(io.StringIO(succeeded(ROPE, "a, b", "--top", "3", "--csv"))))
    assert rows == [
        {"picture": one["picture"], "rank": str(i), "class": each["class"], "probability": repr(each["probability"])}
        for one in predict(ROPE, "a, b", "--top", "3")
        for i, each in enumerate(one["classes"], 1)
    ]


def test_folders_files_and_standard_input_in_the_order_that_they_are_given(store: Store) -> None:
    key = keys_of(store, "arms")["rope,2,0"]
    images = dataset_of(store, key).test_images
    save_pictures(images[:2], Path("folder/z"))
    save_pictures(images[2:3], Path("folder/a"))
    save_pictures(images[3:4], Path("single"))
    Path("folder/.hidden.png").write_bytes(b"not a picture")
    arguments = ["predict", ROPE, "single/00000.png", "-", "folder", "--json"]
    result = CliRunner().invoke(app, arguments, input=Path("folder/z/00001.png").read_bytes())
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)["predictions"]
    assert [one["picture"] for one in found] == [
        *("single/00000.png", "-", "folder/a/00000.png", "folder/z/00000.png", "folder/z/00001.png")
    ]
    assert [each["class"] for each in found[1]["classes"]] == [each["class"] for each in found[4]["classes"]]


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are valid Unicode there")
def test_names_of_files_that_are_no_text(store: Store) -> None:
    key = keys_of(store, "arms")["rope,2,0"]
    (path,) = save_pictures(dataset_of(store, key).test_images[:1], Path("b"))
    name = os.fsdecode(b"b/\xff\n.png")
    path.rename(name)
    assert predict(ROPE, "b")[0]["picture"] == name
    result = vitab("predict", ROPE, "b", "--csv")
    assert result.exit_code == 0
    assert b'"b/\xff\n.png",1,' in result.stdout_bytes
    assert r"b/\udcff .png" in succeeded(ROPE, "b")


# -- pictures that cannot be read --


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_classified(store: Store) -> None:
    key = keys_of(store, "arms")["rope,2,0"]
    paths = save_pictures(dataset_of(store, key).test_images[:4], Path("some"))
    whole = predict(ROPE, paths[3])
    paths[0].write_bytes(b"no picture")
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    paths[2] = Path("a" * 300)
    for form in ([], ["--json"], ["--csv"]):
        result = vitab("predict", ROPE, *paths, *form)
        assert result.exit_code == 1
        assert [line.partition(" (")[0] for line in result.stderr.splitlines()] == [
            f"error: cannot read image {path}" for path in paths[:3]
        ]
        assert "(File name too long); fix or remove it" in result.stderr
        assert "some/00003.png" in result.stdout
        if form == ["--json"]:
            assert json.loads(result.stdout)["predictions"] == whole


def test_no_picture_can_be_read(store: Store) -> None:
    for form, expected in ([], ""), (["--csv"], "picture,rank,class,probability\n"):
        result = CliRunner().invoke(app, ["predict", ROPE, "-", *form], input=b"")
        assert (result.exit_code, result.stdout) == (1, expected)
        assert result.stderr == (
            "error: cannot read image standard input (not a PNG, JPEG, WebP, BMP, TIFF or GIF file); fix or remove it\n"
        )
    result = CliRunner().invoke(app, ["predict", ROPE, "-", "--json"], input=b"")
    assert json.loads(result.stdout)["predictions"] == []


# -- bad input --

BAD = [
    (["learned", "p"], "no run of study arms is 'learned', and no finished run has a key that begins so; the axes"),
    (["rope", "p"], "'rope' means 2 arms of study arms: rope,depth=1; rope,depth=2"),
    ([ROPE, "p", "--study", "nope"], "no study 'nope' in runs; studies there: arms, colour, token"),
    ([ROPE, "p", "--runs", "nowhere"], "no finished run in nowhere has a key that begins with 'rope,depth=2'; there"),
    ([ROPE], "Missing argument 'PICTURE'"),
    ([], "Missing argument 'RUN'"),
    ([ROPE, "empty"], "folder empty must have at least one picture (PNG, JPEG, WebP, BMP, TIFF or GIF), got none"),
    ([ROPE, "p", "empty"], "folder empty must have at least one picture (PNG, JPEG, WebP, BMP, TIFF or GIF), got none"),
    ([ROPE, "p", "--top", "0"], "--top must be an integer of at least 1, got 0"),
    ([ROPE, "p", "--top", "-3"], "--top must be an integer of at least 1, got -3"),
    ([ROPE, "p", "--top", "x"], "Invalid value for '--top'"),
    ([ROPE, "-", "p", "-"], "- must be given once, because there is one picture on standard input"),
    ([ROPE, "p", "--runs", "r" * 300], f"cannot access {'r' * 300}"),
    ([ROPE, "p", "--json", "--csv"], "--json and --csv cannot be combined"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments)[:60] for arguments, _ in BAD])
def test_bad_input_is_one_line(store: Store, arguments: list[str], message: str) -> None:
    save_pictures(np.zeros((1, 8, 8, 1), np.uint8), Path("p"))
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no picture")
    assert message in refused(vitab("predict", *arguments))


def test_a_run_that_has_no_model(store: Store) -> None:
    save_pictures(np.zeros((1, 8, 8, 1), np.uint8), Path("p"))
    keys = keys_of(store, "arms")
    make_unfinished(store, keys["none,1,0"])
    for text in ("none,depth=1,seed=0", keys["none,1,0"][:16]):
        assert refused(vitab("predict", text, "p")) == (
            f"error: run {text!r} of study arms has not finished; `vitab status` shows the runs\n"
        )
    make_diverged(store, keys["none,2,0"])
    result = vitab("predict", "none,depth=2", "p")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: run {keys['none,2,0'][:16]} diverged; it has no usable model\n"
    path = store.folder(keys["rope,1,0"]) / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    result = vitab("predict", "rope,depth=1", "p")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: {path.relative_to(Path.cwd())} is damaged: delete {path.parent.relative_to(Path.cwd())} and run the "
        "study again\n"
    )


@pytest.mark.slow
def test_in_a_real_process_without_a_warning(store: Store) -> None:
    (path,) = save_pictures(dataset_of(store, keys_of(store, "arms")["rope,2,0"]).test_images[:1], Path("p"))
    program = [sys.executable, "-W", "error", "-m", "ablations.cli", "predict", ROPE]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    given = path.read_bytes()
    piped = subprocess.run([*program, "-", "--csv"], input=given, capture_output=True, env=env, timeout=120, check=True)
    named = succeeds(vitab("predict", ROPE, path, "--csv"))
    assert piped.stderr == b""
    assert piped.stdout.decode().splitlines() == [named[0], *(line.replace(str(path), "-") for line in named[1:])]
