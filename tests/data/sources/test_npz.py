"""Arrays in an .npz file, named as by Keras or MedMNIST; images are streamed, not loaded."""

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.data.sources import divide, find_source, open_source
from ablations.errors import UsageError

GENERATOR = np.random.default_rng(0)
X = {
    part: GENERATOR.integers(0, 256, (n, 5, 5, 3), dtype=np.uint8)
    for part, n in (("train", 9), ("val", 6), ("test", 6))
}
Y = {part: np.arange(len(x)) % 3 for part, x in X.items()}


def npz(path: Path, compressed: bool = False, **arrays: Any) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("image", "label"), [("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("X_{}", "Y_{}"), ("{}_x", "{}_y")]
)
def test_keras_and_medmnist(tmp_path: Path, compressed: bool, image: str, label: str) -> None:
    arrays = {image.format(part): X[part] for part in X} | {label.format(part): Y[part][:, None] for part in X}
    source = open_source("npz", npz(tmp_path / "a.npz", compressed, **arrays, note=np.arange(3)))
    assert source.parts.tolist() == ["train"] * 9 + ["validation"] * 6 + ["test"] * 6
    assert source.labels.tolist() == np.concatenate(list(Y.values())).tolist()
    assert (source.class_names, source.skipped) == (("0", "1", "2"), {"with another name": 1})
    assert source.names[9] == f"{image.format('val')}[0]"
    everything = np.concatenate(list(X.values()))
    for i in (*range(21), 20, 3, 3, 12, 0):
        np.testing.assert_array_equal(source.read(i), everything[i])
    assert find_source("npz", tmp_path) == tmp_path / "a.npz"


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("data", "target"), ("x_train", "y_train")])
def test_arrays_without_parts(tmp_path: Path, names: tuple[str, str]) -> None:
    images = np.concatenate(list(X.values()))[..., 0]
    labels = np.array(["b", "a", "c"] * 7)
    source = open_source("npz", npz(tmp_path / "a.npz", **dict(zip(names, (images, labels), strict=True))))
    assert source.class_names == ("a", "b", "c")
    assert set(source.parts) == ({"train"} if "train" in names[0] else {""})
    np.testing.assert_array_equal(source.read(20), images[20])
    assert (divide(source).parts == "test").sum() == 4


def test_class_names_axes_and_byte_orders(tmp_path: Path) -> None:
    first = np.moveaxis(X["train"], -1, 1)
    path = npz(
        tmp_path / "a.npz",
        x_train=first.astype(">u2") * 256,
        y_train=Y["train"].astype(float),
        x_test=np.asfortranarray(X["test"].astype(np.float32)),
        y_test=Y["test"],
        class_names=np.array(["ant", "bee", "cow"]),
    )
    source = open_source("npz", path)
    assert source.class_names == ("ant", "bee", "cow")
    image = source.read(4)
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(image, X["train"][4].astype(np.uint16) * 256)
    np.testing.assert_array_equal(source.read(10), X["test"][1].astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, r"arrays must be named like x_train, y_train, .* got x_test, x_train, y_test$"),
        ({"X_train": X["train"]}, "both x_train and X_train could be the train part; keep one"),
        ({"y_train": Y["train"][:8]}, r"y_train must have one label for each of the 9 images, .* got int64 \(8,\)"),
        ({"y_train": np.eye(3)[Y["train"]]}, r"one label for each of the 9 images, .* got float64 \(9, 3\)"),
        ({"y_train": Y["train"] + 0.5}, "y_train must be whole numbers or text, got fractions"),
        (
            {"x_train": X["train"].reshape(9, 75)},
            r"x_train must be numbers \(n, height, width\) .* got uint8 \(9, 75\)",
        ),
        ({"x_train": np.zeros((9, 5, 5, 7))}, "with 1, 3 or 4 channels, got float64"),
        ({"x_train": np.array([None] * 9)}, "x_train must be numbers"),
        ({"class_names": np.array(["a", "b"])}, "labels must be 0 to 1, as there are 2 class names"),
        (
            {"y_test": Y["test"] + 5},
            "the parts train and test must have the same classes, got 0, 1, 2, 5, 6, 7 in only",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {"x_train": X["train"], "y_train": Y["train"], "x_test": X["test"], "y_test": Y["test"]} | changes
    path = npz(tmp_path / "a.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UsageError, match=message) as caught:
        divide(open_source("npz", path))
    assert "\n" not in str(caught.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    many = np.tile(X["train"], (100, 1, 1, 1))
    path = npz(tmp_path / "a.npz", x=many, y=np.tile(Y["train"], 100))
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[:-40]):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"a.npz: not an .npz file"):
            open_source("npz", path)
    place = whole.index(many.tobytes()) + many.nbytes // 2
    path.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
    source = open_source("npz", path)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"a.npz: x is damaged \(Bad CRC-32"):
            source.read(899)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"no array")
    with pytest.raises(UsageError, match=r"not a readable .npz file"):
        open_source("npz", path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_is_listed_and_read_without_being_in_memory(tmp_path: Path, compressed: bool) -> None:
    images = np.zeros((4096, 64, 64), dtype=np.uint8)
    images[4095] = 7
    path = npz(tmp_path / "a.npz", compressed, x=images, y=np.arange(4096) % 2)
    tracemalloc.start()
    source = open_source("npz", path)
    content = source.read(4095)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(content, np.ndarray)
    assert content.min() == 7
    assert peak < images.nbytes / 4
