"""Parquet tables as on the Hugging Face Hub."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.data.sources import divide, find_source, open_source
from ablations.errors import UsageError
from tests.support.sources import divided, listed

pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'vitab[parquet]'")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'vitab[parquet]'")

NAMES = ["ant", "bee", "cow"]


def features(image: str = "image", label: str = "label", names: Any = NAMES) -> dict[bytes, bytes]:
    """Return the metadata that `datasets` writes."""
    described = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": described}}).encode()}


def parquet(path: Path, columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None, rows: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=rows)
    return path


def hub(path: Path, labels: list[int | None], start: int = 0) -> Path:
    """Write a shard as `datasets` does: image {bytes, path}, label, names of classes in the metadata."""
    images = [{"bytes": b"picture %d" % (start + i), "path": f"{i}.png"} for i in range(len(labels))]
    return parquet(path, {"image": images, "label": labels}, features())


def test_shards_with_parts_in_their_names(tmp_path: Path) -> None:
    hub(tmp_path / "data/train-00000-of-00002.parquet", [0, 1, 2, 0, 1])
    hub(tmp_path / "data/train-00001-of-00002.parquet", [2, 2], start=5)
    hub(tmp_path / "data/test-00000-of-00001.parquet", [2, 1, 0], start=7)
    source = open_source("parquet", tmp_path)
    assert source.class_names == tuple(NAMES)
    of = {
        name: (NAMES[label], part, source.read(i))
        for i, (name, label, part) in enumerate(
            zip(source.names, source.labels.tolist(), source.parts.tolist(), strict=True)
        )
    }
    assert of["data/train-00001-of-00002.parquet[1]"] == ("cow", "train", b"picture 6")
    assert of["data/test-00000-of-00001.parquet[1]"] == ("bee", "test", b"picture 8")
    assert len(of) == 10
    for i in (*reversed(range(10)), 3, 3, 9):
        assert source.read(i) == of[source.names[i]][2]
    assert find_source("parquet", tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train/0000.parquet", "validation/0000.parquet"), ["test", "train"]),
        (
            ("default/train/0000.parquet", "default/val/0.parquet", "default/test/0.parquet"),
            ["test", "train", "validation"],
        ),
        (("cifar-train.parquet", "cifar-test.parquet"), ["test", "train"]),
        (("train.parquet", "valid.parquet"), ["test", "train"]),
        (("a.parquet", "b.parquet"), ["test", "train"]),
    ],
    ids=str,
)
def test_parts_by_folders_and_names(tmp_path: Path, names: tuple[str, ...], expected: list[str]) -> None:
    for name in names:
        hub(tmp_path / name, [0, 1, 2] * 2)
    assert sorted({part for _, _, part in divided("parquet", tmp_path)}) == expected


def test_a_single_file_with_columns(tmp_path: Path) -> None:
    columns = {
        "img": [b"%d" % i for i in range(8)],
        "category": ["x", "y"] * 4,
        "split": ["train"] * 4 + ["validation"] * 2 + ["test"] * 2,
        "patient": list(range(8)),
    }
    path = parquet(tmp_path / "all.parquet", columns)
    source = open_source("parquet", path)
    assert source.parts.tolist() == columns["split"]
    assert source.groups is not None
    assert source.groups.tolist() == [str(i) for i in range(8)]
    assert (source.class_names, source.names[7], source.read(7)) == (("x", "y"), "all.parquet[7]", b"7")


def test_columns_of_cifar100_on_the_hub(tmp_path: Path) -> None:
    columns = {"img": [b"1", b"2", b"3"], "fine_label": [0, 1, 2], "coarse_label": [0, 1, 0]}
    path = parquet(tmp_path / "train.parquet", columns, features("img", "fine_label"))
    with pytest.raises(
        UsageError, match=r"no column looks like the label .* found: img, fine_label, coarse_label; choose"
    ):
        open_source("parquet", path)
    assert open_source("parquet", path, "label=fine_label").class_names == tuple(NAMES)
    assert open_source("parquet", path, "label=coarse_label").class_names == ("0", "1")


def test_the_metadata_tells_which_column_is_the_image(tmp_path: Path) -> None:
    columns = {"image": ["a", "b", "c"], "scan": [b"1", b"2", b"3"], "label": [0, 1, 2]}
    assert open_source("parquet", parquet(tmp_path / "a.parquet", columns, features("scan"))).read(2) == b"3"
    with pytest.raises(UsageError, match=r"the column 'image' must hold bytes or {bytes, path}, got string"):
        open_source("parquet", parquet(tmp_path / "a.parquet", columns))


def test_rows_without_a_label_are_passed_over(tmp_path: Path) -> None:
    """Test parts on the Hub often have -1 for every label; validation then is the test part."""
    hub(tmp_path / "train.parquet", [0, None, 1, 2])
    hub(tmp_path / "validation.parquet", [0, 1, 2], start=4)
    hub(tmp_path / "test.parquet", [-1, -1], start=7)
    source = divide(open_source("parquet", tmp_path))
    assert source.skipped == {"without a label": 3}
    assert [row[0] for row in listed("parquet", tmp_path)][:3] == [f"train.parquet[{i}]" for i in (0, 2, 3)]
    assert {source.read(int(i)) for i in np.flatnonzero(source.parts == "test")} == {
        b"picture %d" % i for i in (4, 5, 6)
    }


def test_images_beside_the_table_and_images_that_lack(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"beside")
    images = [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "no.png"}, None, {"bytes": b"in", "path": None}]
    source = open_source("parquet", parquet(tmp_path / "a.parquet", {"image": images, "label": [0, 1, 0, 1]}))
    assert (source.read(0), source.read(3)) == (b"beside", b"in")
    for i in (1, 2):
        with pytest.raises(UsageError, match="the row has no image"):
            source.read(i)


def test_lists_of_labels_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [b"1", b"2"], "label": [[0, 1], [1]]})
    with pytest.raises(UsageError, match="'label' must hold one number or text for a row, got list<"):
        open_source("parquet", path)


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [b"picture" * 99] * 60, "label": list(range(60))}, rows=60)
    whole = path.read_bytes()
    for place, what in ((5, "image"), (whole.index(b"label") - 300, "label")):
        path.write_bytes(whole[:place] + bytes(40) + whole[place + 40 :])
        with pytest.raises(UsageError, match=r"a.parquet: damaged \(.*\)$") as caught:
            open_source("parquet", path).read(0)
        assert "\n" not in str(caught.value), what


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 3], NAMES, "labels must be 0 to 2 by the names of the classes, got 3"),
        ([None, None, None], NAMES, "no row has a label"),
        ([0, 0, 0], None, r"at least 2 classes, got 1 \('0'\)"),
    ],
)
def test_labels_that_do_not_fit(
    tmp_path: Path, labels: list[int | None], names: list[str] | None, message: str
) -> None:
    metadata = features(names=names) if names else None
    path = parquet(
        tmp_path / "a.parquet", {"image": [b"1", b"2", b"3"], "label": pa.array(labels, pa.int64())}, metadata
    )
    with pytest.raises(UsageError, match=message):
        open_source("parquet", path)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--data-dir must be a .parquet file or a folder of them, got"):
        open_source("parquet", tmp_path)
    hub(tmp_path / "train.parquet", [0, 1, 2])
    hub(tmp_path / "more.parquet", [0, 1, 2])
    with pytest.raises(UsageError, match=r"some files are named after a part and some are not: more.parquet"):
        open_source("parquet", tmp_path)
    parquet(tmp_path / "more.parquet", {"image": [b"1"], "other": [0]})
    with pytest.raises(
        UsageError, match=r"train.parquet: the columns are image, label, and in more.parquet image, other"
    ):
        open_source("parquet", tmp_path)
    (tmp_path / "more.parquet").write_bytes(b"no table")
    with pytest.raises(UsageError, match=r"more.parquet: not a readable Parquet file \(.*\)$") as caught:
        open_source("parquet", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_table_is_read_without_being_in_memory(tmp_path: Path) -> None:
    """32 MB in one row group, of which a page of the file is in memory at once."""
    noise = np.random.default_rng(0).bytes(32_000_000)
    images = [noise[start : start + 2000] for start in range(0, len(noise), 2000)]
    labels = [i % 2 for i in range(len(images))]
    path = parquet(tmp_path / "a.parquet", {"image": images, "label": labels}, rows=len(images))
    source, before = open_source("parquet", path), pa.total_allocated_bytes()
    for i in (len(images) - 1, len(images) // 2):
        assert source.read(i) == images[i]
        assert pa.total_allocated_bytes() - before < 12e6


def test_without_pyarrow_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub(tmp_path / "train.parquet", [0, 1, 2])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"--data parquet needs the package pyarrow: pip install 'vitab\[parquet\]'$"):
        open_source("parquet", path)
