"""Pickled batches: nothing in them is executed, and what is wrong is named."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.data import load
from ablations.errors import UsageError
from tests.support.archives import IMAGES, assert_is_cifar100, cifar100_python, planes


class Runs:
    """Pickles to a call of any callable."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call[0], self.call[1:]


def hostile(target: Path) -> Iterator[tuple[str, bytes]]:
    yield "os.mkdir", pickle.dumps({"data": Runs(os.mkdir, str(target))})
    yield "builtins.eval", pickle.dumps({"data": Runs(eval, f"__import__('os').mkdir({str(target)!r})")})
    yield "numpy.load", b"cnumpy\nload\n(V" + str(target).encode() + b"\ntR."
    yield "numpy.ndarray.tofile", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    yield "a change of _reconstruct", b"cnumpy.core.multiarray\n_reconstruct\n}V__call__\nI1\nsb."
    yield "a call of ndarray", b"cnumpy\nndarray\n((I9\ntI1\ntR."
    yield "something other than numbers", pickle.dumps({"data": np.array([None], dtype=object)}, protocol=2)


@pytest.mark.parametrize("case", range(7))
@pytest.mark.parametrize("file", ["train", "meta"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, case: int, file: str) -> None:
    target = tmp_path / "made-by-the-pickle"
    asked, data = list(hostile(target))[case]
    root = cifar100_python(tmp_path / "data")
    (root / file).write_bytes(data)
    with pytest.raises(UsageError, match=rf"{file}: not a readable CIFAR python file \(.*\); fetch") as caught:
        load("cifar100", data_dir=root)
    assert not target.exists()
    assert asked in str(caught.value).replace("posix.", "os.")
    assert_is_cifar100(load("cifar100", data_dir=cifar100_python(tmp_path / "good")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": planes(IMAGES["train"])[:, :-1]}, r"'data' is u1 \(40, 3071\)"),
        ({"data": planes(IMAGES["train"]).astype(np.int16)}, "'data' is i2"),
        ({"data": [1, 2]}, "'data' must be an array"),
        ({"data": planes(IMAGES["train"])[:-1]}, "40 coarse_labels for 39 images"),
        ({"fine_labels": ["a"] * 40}, "'fine_labels' must be a list of integers"),
        ({"fine_labels": [100] * 40}, "fine labels must be 0 to 99, got 100 to 100"),
        ({"fine_labels": None}, "'fine_labels' must be a list of integers"),
    ],
)
def test_wrong_python_batches_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    root = cifar100_python(tmp_path)
    batch = pickle.loads((root / "train").read_bytes())
    (root / "train").write_bytes(pickle.dumps(batch | change, protocol=2))
    with pytest.raises(UsageError, match=message) as caught:
        load("cifar100", data_dir=root)
    assert str(root / "train") in str(caught.value)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_truncated_pickle_is_refused(tmp_path: Path, cut: int) -> None:
    path = cifar100_python(tmp_path) / "train"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UsageError, match=r"train: not a readable CIFAR python file"):
        load("cifar100", data_dir=tmp_path)
