"""A CSV of pictures: read as spreadsheets and scripts write it, and never guessed at."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from ablations.config import RunConfig, parse
from ablations.data.sources import divide, find_source, open_source
from ablations.errors import UsageError
from tests.support.sources import divided, files, listed


def csv(root: Path, text: str, encoding: str = "utf-8", name: str = "labels.csv") -> Path:
    path = root / name
    path.write_bytes(text.encode(encoding))
    return path


def test_quotes_commas_umlauts_and_line_ends(tmp_path: Path) -> None:
    """As a spreadsheet writes it: a mark at the start, Windows line ends, quotes where they are needed."""
    files(tmp_path, "Bär, braun.png", 'the "old" one.png', "sub/Öl.jpg", "plain.png")
    text = (
        '\ufeffFile Name,Class\r\n"Bär, braun.png","Bär, groß"\r\n"the ""old"" one.png",Kuh\r\n\r\n'
        'sub\\Öl.jpg, Kuh \r\nplain.png,"Bär, groß"\r\n'
    )
    expected = [
        ("Bär, braun.png", "Bär, groß", ""),
        ('the "old" one.png', "Kuh", ""),
        ("sub/Öl.jpg", "Kuh", ""),
        ("plain.png", "Bär, groß", ""),
    ]
    assert listed("csv", csv(tmp_path, text)) == expected
    for separator in ";\t|":
        other = text.replace("File Name,", f"File Name{separator}").replace('png",', f'png"{separator}')
        other = other.replace("jpg,", f"jpg{separator}").replace("plain.png,", f"plain.png{separator}")
        assert listed("csv", csv(tmp_path, other)) == expected
    assert listed("csv", csv(tmp_path, text[1:], "utf-16")) == expected
    source = open_source("csv", csv(tmp_path, text.replace("\r\n", "\n")))
    assert [source.read(i) for i in (0, 2)] == ["Bär, braun.png".encode(), "sub/Öl.jpg".encode()]


def test_split_and_group_columns(tmp_path: Path) -> None:
    files(tmp_path, *(f"{i}.png" for i in range(6)))
    rows = "".join(
        f"{i}.png,{'ab'[i % 2]},{part},p{i // 2}\n" for i, part in enumerate(["Train"] * 2 + ["val"] * 2 + ["TEST"] * 2)
    )
    path = csv(tmp_path, "path,label,split,patient\n" + rows)
    assert [row[2] for row in divided("csv", path)] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    source = open_source("csv", path)
    assert source.groups is not None
    assert source.groups.tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert open_source("csv", path, "group=").groups is None
    assert set(open_source("csv", path, "split=").parts) == {""}
    assert find_source("csv", tmp_path) == path
    assert len(open_source("csv", tmp_path)) == 6


def test_named_columns_and_names_without_a_suffix(tmp_path: Path) -> None:
    """As HAM10000 is published: an identifier, a diagnosis and a lesion."""
    files(tmp_path, "ISIC_1.jpg", "ISIC_2.PNG", "ISIC_3.jpg")
    (tmp_path / "ISIC_2.PNG").rename(tmp_path / "ISIC_2.png")
    path = csv(tmp_path, "lesion_id,image_id,dx\nL1,ISIC_1,nv\nL1,ISIC_2,nv\nL2,ISIC_3,mel\n")
    source = open_source("csv", path, "file=image_id,label=dx,group=lesion_id")
    assert (source.names, source.class_names) == (["ISIC_1", "ISIC_2", "ISIC_3"], ("mel", "nv"))
    assert source.read(1) == b"ISIC_2.PNG"
    with pytest.raises(
        UsageError, match=r"labels.csv: no column looks like the file .* found: lesion_id, image_id, dx; choose"
    ):
        open_source("csv", path)


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png", "c.png")
    assert open_source("csv", csv(tmp_path, "file,label\na.png,10\nb.png,9\nc.png,-1\n")).class_names == (
        "-1",
        "9",
        "10",
    )


def test_names_are_found_however_they_are_composed(tmp_path: Path) -> None:
    """macOS takes an umlaut apart, and a CSV may not."""
    files(tmp_path, unicodedata.normalize("NFD", "ä.png"), "b.png")
    source = open_source("csv", csv(tmp_path, "file,label\nä.png,x\nb.png,y\n"))
    assert source.read(0) == unicodedata.normalize("NFD", "ä.png").encode()


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png", "c.heic", "d.txt", "e.txt")
    text = "file,label\na.png,x\nb.png,y\nc.heic,x\nd.txt,x\ne.txt,y\na2.png,\n,x\n"
    assert open_source("csv", csv(tmp_path, text)).skipped == {
        ".heic": 1,
        ".txt": 2,
        "without a label": 1,
        "without a file": 1,
    }


def test_missing_files_are_entries_that_cannot_be_read(tmp_path: Path) -> None:
    files(tmp_path, "a.png")
    source = open_source("csv", csv(tmp_path, "file,label\na.png,x\nb.png,y\n"))
    with pytest.raises(FileNotFoundError):
        source.read(1)
    with pytest.raises(
        UsageError, match=r"none of the 2 files exists in .*, to which paths are relative; the first is sub/a.png"
    ):
        open_source("csv", csv(tmp_path, "file,label\nsub/a.png,x\nsub/b.png,y\n"))


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", "", "no column looks like the file .* found: none"),
        (
            "a.png,cat\nb.png,dog\n",
            "",
            r"no column looks like the file \(file, filename, .*found: a.png, cat; choose with --columns",
        ),
        ("file,path,label\n", "", "the file could be in 'file' or 'path'; choose with --columns file=file"),
        (
            "file,label,class\na.png,x,y\n",
            "",
            "the label could be in 'label' or 'class'; choose with --columns label=label",
        ),
        ("file,label,,\na.png,x,,\nb.png,x,,\n", "", r"at least 2 classes, got 1 \('x'\)"),
        ("file,label,label\n", "", "one column of each name, got 'label' twice"),
        ("file,label\n", "label=dx", "there is no column 'dx' for the label; found: file, label"),
        ("file,label\n", "image=file", "columns must be of file, label, split, group for .*, got 'image'"),
        ("file,label\n", "", "no row has a picture and a label$"),
        ("file,label\na.heic,x\n", "", "no row has a picture and a label; the first file is 'a.heic'"),
        (
            "file,label\na.png,x,y\n",
            "",
            "line 2: 3 values where the header has 2 columns; a value with ',' in it needs quotes",
        ),
        ('file,label\n"a.png,x\n', "", "after line 1: not a readable CSV"),
        (
            "label," + ",".join(f"pixel{i}" for i in range(784)),
            "",
            r"found: label, pixel0, .*pixel8, \.\.\. \(785 in all\)",
        ),
        (
            "file,label,split\na.png,x,0\nb.png,y,fold1\n",
            "",
            "'split' must name a part, train, .* got '0', 'fold1'; without",
        ),
        ("file,label,split\na.png,x,train\nb.png,y,\n", "", "must name a part, .* got ''"),
        ("file,label\na.png,x\n./a.png,y\n", "", "a file must have one row and one label, got several rows for a.png"),
        ("file,label\na.png,x\nb.png,x\n", "", r"at least 2 classes, got 1 \('x'\)"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, text: str, columns: str, message: str) -> None:
    files(tmp_path, "a.png", "b.png", "a.heic")
    with pytest.raises(UsageError, match=message) as caught:
        open_source("csv", csv(tmp_path, text), columns)
    assert "\n" not in str(caught.value)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be UTF-8 text .*; save it as 'CSV UTF-8'"):
        open_source("csv", csv(tmp_path, "file,label\nBär.png,x\n", "latin-1"))


def test_a_folder_needs_one_csv(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must name one .csv file in .*, got none there"):
        open_source("csv", tmp_path)
    files(tmp_path, "b.csv", "a.csv")
    with pytest.raises(UsageError, match=r"must name one .csv file in .*, got a.csv, b.csv"):
        open_source("csv", tmp_path)


def test_groups_stay_in_one_part(tmp_path: Path) -> None:
    """Twenty patients with three pictures each: the test part has whole patients, of both classes."""
    files(tmp_path, *(f"{i}.png" for i in range(60)))
    path = csv(tmp_path, "file,label,patient\n" + "".join(f"{i}.png,{'ab'[i // 3 % 2]},p{i // 3}\n" for i in range(60)))
    source = divide(open_source("csv", path))
    assert source.groups is not None
    test = source.parts == "test"
    assert test.sum() == 12
    assert not set(source.groups[test]) & set(source.groups[~test])
    assert np.bincount(source.labels[test]).tolist() == [6, 6]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "".join(f"{i}.png,{'ab'[i % 2]},{'p' if i % 2 else f'q{i}'}\n" for i in range(8)),
            "pictures of at least 2 groups, .*got 1 group for b$",
        ),
        (
            "".join(f"{i}.png,a,p{i}\n" for i in range(4)) + "4.png,b,p4\n5.png,b,p5\n",
            "at least 3 pictures.* fewer of b$",
        ),
    ],
)
def test_classes_too_small_for_a_part_are_named(tmp_path: Path, rows: str, message: str) -> None:
    files(tmp_path, *(f"{i}.png" for i in range(8)))
    with pytest.raises(UsageError, match=message):
        divided("csv", csv(tmp_path, "file,label,group\n" + rows))


def test_a_group_on_two_sides_is_refused(tmp_path: Path) -> None:
    files(tmp_path, *(f"{i}.png" for i in range(4)))
    text = "file,label,split,group\n0.png,a,train,p\n1.png,b,train,q\n2.png,a,test,p\n3.png,b,test,r\n"
    with pytest.raises(
        UsageError, match=r"must be in one part, got 1 of 3 groups \(by column group\) in several: p; correct"
    ):
        divided("csv", csv(tmp_path, text))


def test_columns_have_one_spelling_in_a_run() -> None:
    assert parse("columns", " label = dx,file=image id ,") == "file=image id,label=dx"
    assert "columns" not in RunConfig(data="csv").canonical()
    named = RunConfig.from_mapping({"data": "csv", "columns": "label=dx,file=id"})
    assert named.canonical()["columns"] == "file=id,label=dx"
    for wrong in ("dx", "what=dx", "label=a,label=b"):
        with pytest.raises(
            UsageError, match="columns must be pairs such as 'file=name,label=class' of file, image, label"
        ):
            parse("columns", wrong)
    with pytest.raises(UsageError, match="columns are for data csv or parquet, got 'label=a' with 'folder'"):
        RunConfig.from_mapping({"data": "folder", "columns": "label=a"})
