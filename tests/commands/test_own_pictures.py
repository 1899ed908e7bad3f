"""Pictures of one's own through the commands: what is said before the training, recorded, and reported."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import Result

import ablations
from ablations.commands.data_notes import check_command
from ablations.config import RunConfig
from ablations.data.description import describe_dataset
from ablations.data.loading import _read
from ablations.data.registry import load_for
from ablations.errors import UsageError
from tests.data.test_duplicates import scenes
from tests.support.evaluations import succeeds, vitab

TRAIN = ("run", "--grid", "smoke", "--data", "folder", "--data-dir", "photos", "--per-class", "none", "--epochs", "1")
TRAIN = (*TRAIN, "--patch", "8", "--workers", "1", "--seeds", "1", "--quiet")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of three classes of very different size, with a copy in the test part and two broken files."""
    images = iter(scenes(50))
    for part, sizes in (("train", {"cat": 20, "dog": 6, "fox": 4}), ("test", {"cat": 12, "dog": 4, "fox": 3})):
        for name, size in sizes.items():
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(size):
                Image.fromarray(next(images)).save(folder / f"{i:02}.png")
    shutil.copy(tmp_path / "photos/train/cat/03.png", tmp_path / "photos/test/dog/copy.png")
    (tmp_path / "photos/train/cat/broken.png").write_bytes(b"no picture")
    (tmp_path / "photos/test/fox/broken.webp").write_bytes(b"")
    (tmp_path / "photos/train/cat/notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line.removeprefix("error: ")


def test_check_names_every_fault(photos: Path) -> None:
    result = vitab("data", "check", "photos", "--out", "found.csv")
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "photos: 50 images in 3 classes (32 x 32 x 3, crop)"
    assert "training 30 fox: 4 6 cat: 20" in lines
    assert "test 20 fox: 3 5 cat: 12" in lines
    assert "pixels 50 colour" in lines
    assert "sizes all 32 x 32 pixels (width x height)" in lines
    faults, known = lines.index("Faults"), lines.index("To know")
    assert lines[faults + 1].startswith("- cannot read 2 of 52 pictures: train/cat/broken.png (not a PNG, JPEG, WebP,")
    assert lines[faults + 2] == (
        "fix them or remove them, or leave them out with --skip-unreadable, as vitab run and vitab data sheet can"
    )
    pair = "test/dog/copy.png (dog) and train/cat/03.png (cat)"
    assert lines[faults + 3 : faults + 7] == [
        f"- 1 test image has the same pixels as training images, such as {pair}",
        "remove it in one of the two parts; until then the test accuracy is too high",
        f"- 1 image has the same pixels as an image of another class, such as {pair}",
        "correct the labels: no model can be right about both; --out FILE.csv lists them",
    ]
    assert "- skipped 1 file: 1 .txt" in lines[known:]
    assert "- the largest class has 5.0 times the training images of the smallest" in lines[known:]
    rows = list(csv.reader(Path("found.csv").read_text().splitlines()))
    assert rows[0] == ["finding", "image", "other", "note"]
    assert [row[:2] for row in rows[1:3]] == [
        ["unreadable", "train/cat/broken.png"],
        ["unreadable", "test/fox/broken.webp"],
    ]
    assert rows[3] == ["same pixels", "test/dog/copy.png", "train/cat/03.png", "dog, cat"]


def test_check_of_good_data_says_so() -> None:
    assert "nothing found that deserves attention" in succeeds(vitab("data", "check", "digits"))


def test_check_says_what_is_there_in_words_and_advises_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of scans with patients: a copy in another part that is a little brighter is no fault."""
    monkeypatch.chdir(tmp_path)
    images = scenes(16)
    images[15] = np.minimum(images[3], 235) + 20
    rows = ["file,label,patient,split"]
    for i, image in enumerate(images):
        Image.fromarray(image).save(f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},p{i // 2},{'test' if i > 11 else 'train'}")
    Image.fromarray(np.full((40, 20), 30_000, dtype=np.uint16)).save("1.png")
    Path("labels.csv").write_text("\n".join([*rows, "notes.txt,a,p0,train"]))
    lines = [" ".join(line.split()) for line in succeeds(vitab("data", "check", "labels.csv"))]
    assert "training 12 all classes have 6" in lines
    assert "pixels 15 colour; 1 16-bit grey, such as 1.png" in lines
    assert "sizes smallest 20 x 40, median 32 x 32, largest 32 x 32 pixels (width x height)" in lines
    assert "groups 8 groups by column patient" in lines
    assert "- 1 test image looks like training images, such as 15.png and 3.png" in lines
    assert "look at them: --out FILE.csv lists them; some may be copies with small changes" in lines
    assert "check that none of these rows should count" in lines
    assert "Faults" not in lines
    Path("0.png").unlink()
    result = vitab("data", "check", "labels.csv")
    assert "fix it or remove its row, or leave it out with --skip-unreadable" in " ".join(result.stdout.split())
    assert result.exit_code == 1
    assert "fix or remove it" in refused(vitab("data", "sheet", "labels.csv", "--out", "sheet.png"))
    succeeds(vitab("data", "sheet", "labels.csv", "--out", "sheet.png", "--skip-unreadable"))
    assert Path("sheet.png").exists()
    Path("labels.csv").write_text("\n".join(rows).replace("15.png,b,p7", "15.png,b,p0"))
    said = refused(vitab("data", "check", "labels.csv"))
    assert said.endswith("(by column patient) in several: p0; correct the parts, or use no groups: --columns group=")


def test_a_path_for_the_name_of_a_dataset_is_answered_with_the_options_that_read_it(photos: Path) -> None:
    np.savez("a b.npz", x=np.zeros((6, 8, 8)), y=np.arange(6) % 2)
    for path, kind, quoted in (("photos", "folder", "photos"), ("a b.npz", "npz", "'a b.npz'")):
        meant = f"--data {kind} --data-dir {quoted}"
        message = f"--data must be the name of a dataset, got the path {path!r}; did you mean {meant}?"
        assert refused(vitab("run", "--grid", "smoke", "--data", path)) == message
        with pytest.raises(UsageError, match="did you mean --data"):
            ablations.run("smoke", data=path)
    assert "must be given once" in refused(vitab("data", "check", "photos", "--data-dir", "photos"))


def test_arrays_out_of_range_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.linspace(20, 237, 12 * 64).reshape(12, 8, 8)
    for values, message in (
        (images, "x holds floating-point numbers from 20 to 237, @ 1: save it as uint8 or divide by 255"),
        (images - 30, "x holds floating-point numbers from -10 to 207, @ 1: scale it to 0 to 1"),
        (
            (images * 2).astype(np.int16),
            "x holds, in 7 of 12 images, numbers of type int16 from 221 to 474, @ 255: scale it, and save it as uint8",
        ),
    ):
        np.savez("a.npz", x=values, y=np.arange(12) % 2)
        said = f"a.npz: {message.replace('@', 'which must be from 0 to')}"
        _read.cache_clear()
        assert refused(vitab("run", "--grid", "smoke", "--data", "npz", "--data-dir", "a.npz")) == said
        if "in 7 of" not in message:
            assert refused(vitab("data", "check", "a.npz")) == said
    assert "- x holds, in 7 of 12 images, numbers of type int16 from 221 to 474, which must be from 0 to 255\n" in (
        checked := vitab("data", "check", "a.npz").stdout
    )
    assert "  scale it, and save it as uint8\n" in checked


def test_own_data_are_named_after_their_folder(photos: Path) -> None:
    """In the title of the sheet; and arrays that keep their pixels are not said to be resized."""
    titles: list[str] = []
    original = ImageDraw.ImageDraw.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", lambda *a, **k: titles.append(a[2]) or original(*a, **k))
        succeeds(vitab("data", "sheet", "photos", "--out", "sheet.png", "--skip-unreadable"))
    assert titles[0] == "photos: 30 training and 20 test images"
    images = (scenes(20)[..., 0] // 2).astype(np.uint8)
    np.savez("a.npz", x=images, y=np.arange(20) % 2)
    for fields in ({}, {"image_size": 16}):
        config = RunConfig.from_mapping({"data": "npz", **fields})
        described = describe_dataset(load_for(config, Path("a.npz")), Path("a.npz"), config)
        assert ("resize" in described) == bool(fields)


def test_the_command_that_says_more_reads_the_data_alike() -> None:
    config = RunConfig.from_mapping({"data": "csv", "columns": "label=dx", "group_pattern": "(p.)", "image_size": 48})
    assert check_command(config, Path("my scans")) == (
        "vitab data check csv --data-dir 'my scans' --columns label=dx --group-pattern '(p.)' --set image_size=48"
    )


def test_bad_input_of_check(photos: Path) -> None:
    assert refused(vitab("data", "check", "nowhere")).startswith("data must be a dataset (digits, cifar10,")
    assert refused(vitab("data", "check", "photos", "--out", "x.txt")) == "--out must end in .csv, got x.txt"
    assert refused(vitab("data", "check", "photos", "--group-pattern", "(")) == (
        "group_pattern must be a regular expression, got '(' (missing ), unterminated subpattern at position 0)"
    )
    assert refused(vitab("data", "check", "photos", "--set", "width=3")).startswith("unknown field of data 'width'")
    (photos / "empty").mkdir()
    assert "at least 2 class folders" in refused(vitab("data", "check", "photos/empty"))


def test_unreadable_pictures_stop_a_study_before_it_trains(photos: Path) -> None:
    line = refused(vitab(*TRAIN))
    assert line.startswith("photos: cannot read 2 of 52 pictures: train/cat/broken.png (not a PNG")
    assert line.endswith("; fix or remove them, or leave them out with --skip-unreadable")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("image_size=0", "image_size must be an integer of at least 1, or none, got 0"),
        ("channels=4", "channels must be 1, 3 or none, got 4"),
        ("resize=fit", "resize must be 'crop' or 'pad' or 'stretch', got 'fit'"),
        ("image_size=20", "patch must divide image_size"),
    ],
)
def test_bad_fields_are_refused(photos: Path, option: str, line: str) -> None:
    assert line.split()[0] in refused(vitab(*TRAIN, "--skip-unreadable", "--set", option))


def test_fields_of_pictures_are_refused_for_built_in_data() -> None:
    assert refused(vitab("run", "--grid", "smoke", "--set", "image_size=16")) == (
        "image_size is for data folder, csv, npz, parquet or idx, got 16 with data 'digits', whose images are fixed"
    )
    assert "group_pattern is for data" in refused(vitab("run", "--grid", "smoke", "--group-pattern", "a"))


@pytest.mark.slow
def test_a_study_records_and_reports_its_data(photos: Path) -> None:
    fields = ("--skip-unreadable", "--set", "image_size=16", "--set", "channels=1", "--set", "resize=stretch")
    result = vitab(*TRAIN, *fields)
    succeeds(result)
    assert result.stderr.splitlines()[:4] == [
        "note: skipped 3 files: 2 unreadable, 1 .txt",
        "note: 1 duplicate of training images among 20 test images (1 with the same pixels), such as test/dog/copy.png "
        "and train/cat/03.png",
        "note: 1 image is like one with another label",
        "note: the classes differ in size, from 4 training images of fox to 20 of cat; the report has balanced "
        "accuracy and macro F1, too",
    ]
    assert result.stderr.splitlines()[4] == (
        "note: vitab data check folder --data-dir photos --set image_size=16 --set channels=1 --set resize=stretch "
        "says more"
    )
    environment = json.loads(next(Path("runs").glob("*/environment.json")).read_text())
    assert environment["dataset"] == {
        "name": "photos",
        "train_images": 30,
        "test_images": 20,
        "classes": 3,
        "image_size": 16,
        "channels": 1,
        "resize": "stretch",
        "skipped": {".txt": 1, "unreadable": 2},
        "class_sizes": {"training": [4, 20], "test": [3, 12]},
        "duplicates": {"training, test": 1, "training, test, same pixels": 1, "other label": 1},
    }
    succeeds(vitab("report", "smoke"))
    text = Path("reports/smoke/README.md").read_text()
    assert (
        'The dataset is the image folder "photos" (30 training and 20 test images, 3 classes, 16 × 16 pixels, grey). '
        "Pictures were turned upright, stretched to a square, and resized to 16 × 16 pixels in grey. Skipped were 3 "
        "files: 2 unreadable, 1 .txt. A class has 4 to 20 training and 3 to 12 test images. The fingerprint of the "
        f"images used begins with {environment['data_sha256'][:16]}."
    ) in text
    assert (
        "### Classes of unequal size\n\nThe test set has 3 images of its smallest class and 12 of its largest." in text
    )
    assert "- **Duplicates.** 1 test image is a duplicate of training images, 1 with the same pixels." in text
    assert "- **Unreadable pictures.** 2 pictures could not be read and were left out." in text
    rows = list(csv.DictReader(Path("reports/smoke/tables/balanced.csv").read_text().splitlines()))
    assert [row["position"] for row in rows] == ["none", "rope"]
    predictions = np.load(next(Path("runs").glob("*/predictions.npz")))
    assert float(rows[0]["largest_class_alone"]) == 100 * np.bincount(predictions["labels"]).max() / 20
    succeeds(vitab("report", "smoke", "--check"))
    assert json.loads("\n".join(succeeds(vitab("predict", "none", "photos/test/cat/00.png", "--json"))))
