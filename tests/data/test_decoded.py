"""Pictures are decoded once: the cache has the same bits, resumes after a kill, and notices changes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.data import decoded, load, locations
from ablations.data.reading import Reading
from ablations.data.reading_progress import Progress, progress_listener
from ablations.errors import UsageError, VitabError
from ablations.training.memory import dataset_bytes


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(locations, "decoded_folder", lambda: folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight noisy pictures in two classes."""
    rng = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + i, 44, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each picture that is decoded."""
    calls: list[int] = []
    original = decoded.decode

    def counted(*arguments: object, **options: object) -> object:
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(decoded, "decode", counted)
    return calls


def test_the_cache_has_the_bits_of_memory_and_is_used(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_decoding(monkeypatch)
    first, again = (load("folder", data_dir=photos) for _ in range(2))
    assert len(calls) == 8
    monkeypatch.setattr(locations, "decoded_folder", lambda: None)
    memory = load("folder", data_dir=photos)
    assert len(calls) == 16
    for part in ("train_images", "test_images", "train_labels"):
        np.testing.assert_array_equal(getattr(first, part), getattr(memory, part))
        np.testing.assert_array_equal(getattr(again, part), getattr(memory, part))
    assert first.fingerprint == again.fingerprint == memory.fingerprint
    assert not again.train_images.flags.owndata
    assert not again.train_images.flags.writeable


def test_mapped_images_are_not_memory_of_a_process(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = load("folder", data_dir=photos)
    labels = mapped.train_labels.nbytes + mapped.test_labels.nbytes
    assert dataset_bytes(mapped, mapped=False) == labels
    assert dataset_bytes(mapped) == labels + 8 * 32 * 32 * 3
    monkeypatch.setattr(locations, "decoded_folder", lambda: None)
    assert dataset_bytes(load("folder", data_dir=photos), mapped=False) == labels + 8 * 32 * 32 * 3


def test_each_geometry_has_a_cache_of_its_own(photos: Path, cache: Path) -> None:
    shapes = [
        load("folder", data_dir=photos, reading=reading).train_images.shape[1:]
        for reading in (Reading(), Reading(image_size=8, channels=1), Reading(resize="pad"))
    ]
    assert shapes == [(32, 32, 3), (8, 8, 1), (32, 32, 3)]
    assert len(list(cache.iterdir())) == 3


def test_a_changed_picture_is_decoded_again(photos: Path, cache: Path) -> None:
    before = load("folder", data_dir=photos)
    Image.new("RGB", (9, 9), "red").save(photos / "a" / "0.png")
    after = load("folder", data_dir=photos)
    assert before.fingerprint != after.fingerprint
    red = (after.train_images == (255, 0, 0)).all(axis=(1, 2, 3)).sum() + (after.test_images == (255, 0, 0)).all(
        axis=(1, 2, 3)
    ).sum()
    assert red == 1
    (folder,) = cache.iterdir()
    assert sum(path.suffix == ".pixels" for path in folder.iterdir()) == 1


@pytest.mark.parametrize("name", ["meta.json", ".pixels", ".records", "facts.json"])
def test_a_damaged_cache_is_made_again(photos: Path, cache: Path, name: str) -> None:
    whole = load("folder", data_dir=photos)
    (damaged,) = (path for path in next(cache.iterdir()).iterdir() if path.name.endswith(name))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    again = load("folder", data_dir=photos)
    assert again.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(again.train_images, whole.train_images)


INTERRUPTED = """
import sys, time
from pathlib import Path
from ablations.data import decoded, load, locations
locations.decoded_folder = lambda: Path(sys.argv[2])
original, decoded.WRITE_BYTES, decoded.CHUNK_PICTURES, decoded.AHEAD = decoded.decode, 0, 1, 0
decoded.available_cores = lambda: 1
def slow(*arguments, **options):
    if decoded.decode.calls == 4:
        print("ready", flush=True)
        time.sleep(60)
    decoded.decode.calls += 1
    return original(*arguments, **options)
decoded.decode, slow.calls = slow, 0
load("folder", data_dir=sys.argv[1])
"""


def test_a_killed_process_loses_few_pictures(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, photos, cache], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (pixels,) = cache.glob("*/*.pixels.part")
    (records,) = cache.glob("*/*.records.part")
    assert pixels.stat().st_size == 4 * 32 * 32 * 3
    for extra in (b"", b"[1, 2"):  # the last line may not be complete, nor the last picture
        with pixels.open("ab") as file:
            file.write(b"half a picture")
        with records.open("ab") as file:
            file.write(extra)
    calls = count_decoding(monkeypatch)
    resumed = load("folder", data_dir=photos)
    assert len(calls) == 4
    monkeypatch.setattr(locations, "decoded_folder", lambda: None)
    memory = load("folder", data_dir=photos)
    assert resumed.fingerprint == memory.fingerprint
    np.testing.assert_array_equal(resumed.train_images, memory.train_images)
    assert not list(cache.glob("*/*.part"))


def test_lines_without_their_pixels_are_decoded_again(tmp_path: Path) -> None:
    """After a power cut the pixels may be shorter than the lines say."""
    geometry = decoded.Geometry(2, 1)
    lines = b'[2, 2, "L"]\n"no picture"\n[2, 2, "L"]\n[2, 2, "L"]\n'
    for size, kept, left in ((12, 4, 12), (11, 3, 8), (4, 2, 4), (0, 0, 0)):
        (tmp_path / "lines").write_bytes(lines)
        (tmp_path / "pixels").write_bytes(bytes(size))
        with (tmp_path / "pixels").open("ab+") as pixels, (tmp_path / "lines").open("ab+") as records:
            assert decoded._resume(pixels, records, geometry) == kept
        assert (tmp_path / "pixels").stat().st_size == left
        assert (tmp_path / "lines").read_bytes() == b"".join(line + b"\n" for line in lines.split(b"\n")[:kept])


WAITING = """
import sys
from pathlib import Path
from ablations.data import load, locations
locations.decoded_folder = lambda: Path(sys.argv[2])
print("ready", flush=True)
print(load("folder", data_dir=sys.argv[1]).fingerprint)
"""


def test_a_second_process_waits_for_the_first(photos: Path, cache: Path) -> None:
    expected = load("folder", data_dir=photos).fingerprint
    (folder,) = cache.iterdir()
    (folder / "meta.json").unlink()
    with decoded._locked(folder):
        process = subprocess.Popen([sys.executable, "-c", WAITING, photos, cache], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        assert process.poll() is None
        assert not (folder / "meta.json").exists()
    output, _ = process.communicate(timeout=30)
    assert output.strip() == expected


def test_caches_of_folders_that_are_gone_are_removed(photos: Path, cache: Path) -> None:
    load("folder", data_dir=photos)
    moved = photos.rename(photos.with_name("moved"))
    load("folder", data_dir=moved)
    assert [json.loads(meta.read_text())["path"] for meta in cache.glob("*/meta.json")] == [str(moved)]


def test_too_little_space_is_said_before(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(VitabError, match=r"^the decoded pictures need 0\.0 GB in .*, which has 0\.0 GB free; set XDG_"):
        load("folder", data_dir=photos)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_one_line(photos: Path, cache: Path) -> None:
    load("folder", data_dir=photos)
    (folder,) = cache.iterdir()
    for path in folder.iterdir():
        if path.suffix == ".pixels":
            Path(f"{path}.part").symlink_to("/dev/full")
    (folder / "meta.json").unlink()
    with pytest.raises(VitabError, match=r"^cannot write decoded pictures to .* \(.*\); set XDG_CACHE_HOME"):
        load("folder", data_dir=photos)


def test_progress_names_the_size_and_the_place(photos: Path, cache: Path) -> None:
    seen: list[Progress] = []
    with progress_listener(seen.append):
        load("folder", data_dir=photos)
        load("folder", data_dir=photos)
    (folder,) = cache.iterdir()
    assert seen == [Progress(photos, done, 8, 8 * 32 * 32 * 3, folder) for done in (0, 8)]


def test_unreadable_pictures_are_listed_in_one_line_or_left_out(photos: Path, cache: Path) -> None:
    for i in range(12):
        (photos / "a" / f"bad{i:02}.png").write_bytes(b"no picture")
        for name in "ab":
            Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(photos / name / f"good{i:02}.png")
    (photos / "b" / "odd.tif").write_bytes((photos / "b" / "1.png").read_bytes()[:99])
    with pytest.raises(UsageError) as caught:
        load("folder", data_dir=photos)
    line = str(caught.value)
    assert line.startswith(f"{photos}: cannot read 13 of 45 pictures: a/bad")
    assert line.count("(not a PNG, JPEG, WebP, BMP, TIFF or GIF file)") == 9
    assert line.count("b/odd.tif (image file is truncated)") == 1
    assert line.endswith("; and 3 more; fix or remove them, or leave them out with --skip-unreadable")
    assert "\n" not in line
    skipping = load("folder", data_dir=photos, reading=Reading(skip_unreadable=True))
    assert skipping.skipped["unreadable"] == 13
    assert len(skipping.train_labels) + len(skipping.test_labels) == 32
    for bad in [*photos.glob("a/bad*"), photos / "b" / "odd.tif"]:
        bad.unlink()
    assert load("folder", data_dir=photos).fingerprint != skipping.fingerprint


def test_a_class_whose_pictures_cannot_be_read_is_named(photos: Path, cache: Path) -> None:
    for path in (photos / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"photos: no test picture of class b can be read: cannot read 4 of 8 pictures"
    ):
        load("folder", data_dir=photos, reading=Reading(skip_unreadable=True))


def test_groups_of_a_pattern_stay_together(tmp_path: Path, cache: Path) -> None:
    for i in range(24):
        path = tmp_path / "own" / "ab"[i % 2] / f"patient{i // 4}-{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * (i // 4), 0, 0)).save(path)
    for pattern in ("patient([0-9]+)", "patient[0-9]+"):
        dataset = load("folder", data_dir=tmp_path / "own", reading=Reading(group_pattern=pattern))
        train, test = (set(images[:, 0, 0, 0].tolist()) for images in (dataset.train_images, dataset.test_images))
        assert train | test == {0, 10, 20, 30, 40, 50}
        assert not train & test
        assert dataset.train_groups is not None
        shades = dataset.train_images[:, 0, 0, 0]
        assert all(len(set(shades[dataset.train_groups == group].tolist())) == 1 for group in set(dataset.train_groups))
    with pytest.raises(
        UsageError, match=r"--group-pattern '-1\?\$' must find a group in every name, got none in 24 of 24"
    ):
        load("folder", data_dir=tmp_path / "own", reading=Reading(group_pattern="-1?$"))
