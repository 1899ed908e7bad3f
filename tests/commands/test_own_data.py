"""A study on pictures of one's own, from a table to the commands that read it again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ablations
from ablations.data.loading import _read
from ablations.errors import UsageError
from ablations.execution.plan import check_planned_data
from ablations.storage import Store
from tests.support.evaluations import refused, succeeds, vitab

RUN = (
    "run",
    "--grid",
    "smoke",
    "--per-class",
    "6",
    "--position",
    "none",
    "--seeds",
    "1",
    "--epochs",
    "1",
    "--workers",
    "1",
)
READ = ("--data", "csv", "--data-dir", "scans/labels.csv", "--columns", "label=dx,group=case")
COLOURS = ("rot", "grün", "blau")


def write_scans(root: Path) -> None:
    """Write 36 pictures of 12 cases, and a CSV as a spreadsheet writes it, with one row for a file of another kind."""
    (root / "bilder").mkdir(parents=True)
    rows = ["Datei Name;file;dx;case"]
    for i in range(36):
        pixels = np.zeros((12, 10, 3), dtype=np.uint8)
        pixels[:, :, i % 3] = 120 + i
        Image.fromarray(pixels).save(root / "bilder" / f"Scan {i}.png")
        rows.append(f'"a;b";bilder\\Scan {i}.png;{COLOURS[i % 3]};{i // 3}')
    rows.append("x;bilder\\notes.txt;rot;1")
    (root / "labels.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scans and a finished run on them; what training said is in `said`."""
    folder = tmp_path_factory.mktemp("own")
    write_scans(folder / "scans")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = vitab(*RUN, *READ)
        succeeds(result)
    (folder / "said").write_text(result.stdout + result.stderr)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test works."""
    shutil.copytree(trained, tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def test_a_run_says_what_was_skipped_and_records_its_data(trained: Path) -> None:
    assert (trained / "said").read_text().count("skipped 1 row: 1 .txt") == 1
    store = Store(trained / "runs")
    (key,) = store.read_study("smoke").keys
    config = store.read_study("smoke").runs[key]
    assert (config.data, config.columns) == ("csv", "label=dx,group=case")
    recorded = store.environment(key)["dataset"]
    assert (recorded["name"], recorded["classes"], recorded["skipped"]) == ("labels.csv", 3, {".txt": 1})


def test_commands_read_the_data_of_a_run_by_its_config(place: Path) -> None:
    (key,) = Store(Path("runs")).read_study("smoke").keys
    said = "\n".join(succeeds(vitab("predict", "none", "scans/bilder/Scan 2.png")))
    assert "blau" in said
    assert "trained on labels.csv" in said
    assert '"grün"' in "\n".join(succeeds(vitab("predict", "none", "scans/bilder/Scan 2.png", "--json")))
    for command in (
        ("evaluate", "--protocol", "shuffle", "--workers", "1"),
        ("gallery", "none", "--out", "gallery.png"),
        ("reproduce", key[:8]),
    ):
        _read.cache_clear()
        succeeds(vitab(*command, "--data-dir", "scans/labels.csv"))
        _read.cache_clear()
        if command[0] != "evaluate":
            assert refused(vitab(*command)) == (
                f"error: run {key[:16]} was trained on 'labels.csv': give its CSV file with --data-dir PATH\n"
            )
    plan = Store(Path("runs")).read_study("smoke")
    with pytest.raises(UsageError, match=r"study smoke was planned .*: give its CSV file with --data-dir PATH"):
        check_planned_data(plan, Store(Path("runs")), None)  # for `vitab retry`


def test_changed_data_are_refused_alike_by_every_command(place: Path) -> None:
    (key,) = Store(Path("runs")).read_study("smoke").keys
    lines = Path("scans/labels.csv").read_text(encoding="utf-8-sig").splitlines()
    Path("scans/labels.csv").write_text("\n".join(line for line in lines if line[-1] not in "34567"))  # five cases
    _read.cache_clear()
    for command in (
        ("evaluate", "--protocol", "shuffle", "--workers", "1"),
        ("gallery", "none", "--out", "gallery.png"),
        ("reproduce", key[:8]),
    ):
        changed = refused(vitab(*command, "--data-dir", "scans/labels.csv"))
        assert changed.startswith(f"error: the data of run {key[:16]} (labels.csv) have changed since its training: ")
        assert changed.endswith(": 24 images, now 21\n")
    plan = Store(Path("runs")).read_study("smoke")
    with pytest.raises(UsageError, match=r"the data of study smoke \(csv\) have changed since it was planned; to plan"):
        check_planned_data(plan, Store(Path("runs")), Path("scans/labels.csv"))  # for `vitab retry`
    said = "\n".join(succeeds(vitab(*RUN, *READ)))
    assert (
        "study smoke already exists with a different plan: the data have changed: 24 images, now 21; replacing it "
        in " ".join(said.split())
    )


def test_a_place_is_refused_for_data_that_are_not_read_from_files(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits would be trained on instead of the pictures that were meant."""
    monkeypatch.chdir(tmp_path)
    said = "error: --data-dir is for data that are read from files, got it with data 'digits': "
    assert refused(vitab(*RUN, "--data-dir", str(trained))) == (f"{said}add --data folder, csv, npz, parquet or idx\n")
    for command in ("check", "verify"):
        assert refused(vitab("data", command, "digits", "--data-dir", "nowhere")).startswith(said)
    with pytest.raises(UsageError, match="--data-dir is for data that are read from files"):
        ablations.run("smoke", data_dir=trained)
    for name in ("cifar10", "fashion-mnist"):
        assert refused(vitab(*RUN, "--data", name, "--data-dir", "nowhere")) == (
            f"error: --data-dir must be the folder or archive of {name}, got nowhere, which does not exist\n"
        )
    assert not Path("runs").exists()


def test_data_commands_take_the_same_options(place: Path) -> None:
    (said,) = succeeds(vitab("data", "verify", *READ[1:]))
    assert said.startswith(
        "csv in scans/labels.csv is complete: 30 + 6 images of 32 x 32 x 3 in 3 classes, fingerprint "
    )
    (said,) = succeeds(vitab("data", "verify", *READ[1:], "--set", "image_size=16", "--set", "channels=1"))
    assert "36 images of 16 x 16 x 1" in said.replace("30 + 6", "36")
    succeeds(vitab("data", "sheet", *READ[1:], "--out", "sheet.png"))
    with Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 600
    listed = succeeds(vitab("data", "--data-dir", "scans"))
    assert [line.split()[0] for line in listed if " yes " in line] == ["digits", "csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "csv", "--data-dir", "scans"), "scans/labels.csv: no column looks like the label (label, labels, "),
        (("--data", "csv"), "--data-dir must be a CSV file with a column of files and one of labels, got none"),
        (("--data", "npz", "--data-dir", "scans"), "--data-dir must name one .npz file in scans, got none there"),
        (("--data", "idx", "--data-dir", "scans"), "--data-dir must be a folder with train-images-idx3-ubyte, "),
        (
            ("--data", "folder", "--data-dir", "scans"),
            "scans: there must be at least 2 class folders with pictures, got 1",
        ),
        (
            ("--data", "folder", "--data-dir", "scans", "--columns", "label=dx"),
            "columns are for data csv or parquet, got ",
        ),
        (
            (*READ[:-1], "dx"),
            "columns must be pairs such as 'file=name,label=class' of file, image, label, split, group",
        ),
        (
            (*READ[:-1], "label=nix"),
            "scans/labels.csv: there is no column 'nix' for the label; found: Datei Name, file",
        ),
        (
            ("--data", "cvs"),
            "unknown dataset 'cvs' (did you mean 'csv'?); valid: digits, cifar10, cifar100, fashion-mnist",
        ),
        (
            ("--data-dir", "nowhere", "--data", "parquet"),
            "--data-dir must be a .parquet file or a folder of them, got nowhere",
        ),
    ],
    ids=str,
)
def test_bad_input_is_one_line(
    trained: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(trained)
    said = refused(vitab(*RUN, "--runs", "elsewhere", *arguments))
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1
    assert not Path("elsewhere").exists()
