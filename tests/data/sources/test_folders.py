"""Trees of pictures: every usual layout is read, and what could be misread is refused in one line."""

from pathlib import Path

import pytest

from ablations.data.sources import divide, find_source, open_source, skipped_text
from ablations.errors import UsageError
from tests.support.sources import divided, files, listed

CLASSES = ("cat/1.png", "cat/2.JPG", "dog/1.webp", "dog/sub/2.tif")


def tree(root: Path, *parts: str) -> Path:
    for part in parts:
        files(root / part, *CLASSES)
    return root


def of_part(folder: str, part: str) -> list[tuple[str, str, str]]:
    return [(f"{folder}/{name}", name.partition("/")[0], part) for name in CLASSES]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (("train", "test"), ("train", "test")),
        (("Train", "TEST"), ("train", "test")),
        (("training", "testing"), ("train", "test")),
        (("train", "val"), ("train", "test")),
        (("train", "valid"), ("train", "test")),
        (("Train", "Validation"), ("train", "test")),
        (("train", "val", "test"), ("train", "validation", "test")),
        (("Training", "VALID", "Testing"), ("train", "validation", "test")),
    ],
    ids=str,
)
def test_layouts_with_parts(tmp_path: Path, layout: tuple[str, ...], expected: tuple[str, ...]) -> None:
    source = divided("folder", tree(tmp_path, *layout))
    pairs = zip(layout, expected, strict=True)
    assert sorted(source) == sorted(row for folder, part in pairs for row in of_part(folder, part))
    assert find_source("folder", tmp_path) == tmp_path


@pytest.mark.parametrize("wrapped", [False, True])
def test_one_tree_or_one_train_folder_gives_up_a_fifth(tmp_path: Path, wrapped: bool) -> None:
    root = tmp_path / "train" if wrapped else tmp_path
    files(root, *(f"{name}/{i:02}.png" for name in ("cat", "dog") for i in range(10)))
    source = open_source("folder", tmp_path)
    assert set(source.parts) == {""}
    assert source.names[:2] == (["train/cat/00.png", "train/cat/01.png"] if wrapped else ["cat/00.png", "cat/01.png"])
    whole = divide(source)
    assert [(whole.parts[whole.labels == label] == "test").sum() for label in (0, 1)] == [2, 2]
    assert (divide(open_source("folder", tmp_path)).parts == whole.parts).all()


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    files(tmp_path, "train/cat/a.txt", "train/dog/b.TXT", "test/dog/c.heic", "test/dog/README", "train/stray.png")
    files(tmp_path, "labels.csv", "annotations/a.xml", "annotations/deep/b.xml")
    files(tmp_path, *(f"train/cat/{name}" for name in ("Thumbs.db", "desktop.ini", ".DS_Store", ".1.png")))
    files(tmp_path, "__MACOSX/train/cat/._1.png", ".ipynb_checkpoints/a.png", "train/@eaDir/1.png", ".git/x")
    files(tmp_path, "train/cat/@eaDir/1.png", "train/.ipynb_checkpoints/1.png", "train/__MACOSX/1.png")
    source = open_source("folder", tmp_path)
    assert source.skipped == {
        ".txt": 2,
        ".heic": 1,
        "without a suffix": 1,
        "in no class folder": 1,
        ".csv": 1,
        "in other folders": 2,
    }
    assert skipped_text("folder", source.skipped) == (
        "8 files: 2 .txt, 2 in other folders, 1 .csv, 1 .heic, 1 in no class folder, 1 without a suffix"
    )
    assert skipped_text("csv", {"without a label": 1}) == "1 row: 1 without a label"
    assert skipped_text("folder", {}) == ""
    assert len(source) == 8
    assert source.class_names == ("cat", "dog")


def test_pictures_are_listed_not_opened(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    source = open_source("folder", tmp_path)
    first = source.names.index("train/cat/1.png")
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"later")
    assert source.read(first) == b"later"
    (tmp_path / "train" / "cat" / "1.png").unlink()
    with pytest.raises(FileNotFoundError):
        source.read(first)


def test_a_stamp_changes_with_every_file_and_label(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    stamps = [open_source("folder", tmp_path).stamp, open_source("folder", tmp_path).stamp]
    assert stamps[0] == stamps[1]
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"another size")
    stamps.append(open_source("folder", tmp_path).stamp)
    (tmp_path / "train" / "cat" / "1.png").rename(tmp_path / "train" / "dog" / "9.png")
    stamps.append(open_source("folder", tmp_path).stamp)
    assert len(set(stamps)) == 3


def test_a_class_may_have_the_name_of_a_part(tmp_path: Path) -> None:
    """CIFAR-100 has a class `train`; its folder holds pictures, and that of a part holds folders."""
    files(tmp_path, *(f"{name}/{i}.png" for name in ("tank", "train", "test_tube") for i in range(3)))
    assert {row[1] for row in listed("folder", tmp_path)} == {"tank", "train", "test_tube"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "at least 2 class folders with pictures, got 0$"),
        (("1.png", "2.png"), r"got 0 and 2 pictures in no class folder \(for those, see --data csv\)"),
        (("cat/1.png",), "at least 2 class folders with pictures, got 1$"),
        (("photos/cat/1.png", "photos/dog/1.png"), "got 1; did you mean --data-dir .*photos"),
        (("cat/1.png", "dog/1.txt"), "dog: every class must have at least one picture, got none"),
        (
            ("train/cat/1.png", "train/dog/1.png", "val/a.png"),
            "val: there must be at least 2 class folders .* and 1 pict",
        ),
        (
            ("train/1.png", "test/1.png"),
            "test: there must be at least 2 class folders .* got 0 and 1 picture in no class folder .if they",
        ),
        (("test/cat/1.png", "test/dog/1.png"), "there is test/ but no train/"),
        (("val/cat/1.png", "test/dog/1.png"), "there is no train/ beside test/ and val/"),
        (("Train/cat/1.png", "train/cat/1.png", "test/cat/1.png"), "more than one folder for one part, .*keep one"),
        (
            ("train/c/1.png", "val/c/1.png", "valid/c/1.png"),
            "more than one folder for one part, train/, val/ and valid/",
        ),
        (
            ("train/cat/1.png", "train/dog/1.png", "extra/1.png"),
            "train/ holds folders as a part .* but not extra/; name the parts",
        ),
        (
            ("seg_train/cat/1.png", "seg_test/cat/1.png"),
            "seg_test/ and seg_train/ look like parts of a dataset, not like",
        ),
        (("train_images/1.png", "test_images/1.png"), "test_images/ and train_images/ look like parts"),
        (("train2017/cat/1.png", "val2017/cat/1.png", "x/1.png"), "train2017/ and val2017/ look like parts"),
        (("train/cat/1.png", "test_set/cat/1.png"), "test_set/ and train/ look like parts"),
        (
            ("cat/train/1.png", "cat/test/1.png", "dog/train/1.png"),
            r"above the classes, as in train/cat/, got them inside",
        ),
    ],
    ids=str,
)
def test_what_could_be_misread_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    files(tmp_path, *names)
    with pytest.raises(UsageError, match=message) as caught:
        divided("folder", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train/cat/1", "train/dog/1", "test/cat/1", "test/cow/1"),
            "train and test must have the same classes, got cow, dog",
        ),
        (
            ("train/cat/1", "train/dog/1", "val/cow/1", "val/dog/1", "test/cat/1", "test/dog/1"),
            "train and validation must have the same classes, got cow in only",
        ),
        (
            ("cat/1", "cat/2", "dog/1", "dog/2", "dog/3"),
            "every class must have at least 3 pictures.* got fewer of cat$",
        ),
    ],
)
def test_classes_that_a_part_lacks(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    files(tmp_path, *(f"{name}.png" for name in names))
    with pytest.raises(UsageError, match=message):
        divided("folder", tmp_path)


def test_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="--data-dir must be a folder with one folder of pictures for each class, got none"
    ):
        open_source("folder", None)
    with pytest.raises(UsageError, match=r"got .*nowhere, which does not exist"):
        open_source("folder", tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"--data-dir must be a folder with .* got .*a\.png"):
        open_source("folder", files(tmp_path, "a.png") / "a.png")
    assert find_source("folder", tmp_path) is None


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    files(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)))
    try:
        (tmp_path / "dog").rename(tmp_path / "caf\udce9")
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    with pytest.raises(UsageError, match=r"names must be text in UTF-8, got 'caf\\udce9'; rename it"):
        open_source("folder", tmp_path)
