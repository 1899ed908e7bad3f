"""Positional encodings in a model against PyTorch, from the files that ``golden/make_encodings.py`` made."""

import json
from math import prod
from pathlib import Path

import numpy as np
import pytest

from tests.support.small import distance
from vit import ViT, ViTConfig, get_ops
from vit.backend import Ops

FILES = sorted((Path(__file__).parents[1] / "golden" / "encodings").glob("*.npz"))
TOLERANCE = 1e-10
NAMES = {
    "learned-axial",
    "sinusoidal-1d",
    "rope",
    "rope-mixed",
    "rope-dinov3",
    "rope+learned",
    "rope+sinusoidal",
    "relative-bias",
    "relative-bias-mlp",
    "relative-keys",
    "alibi-2d",
    "cpe",
    "lie-rope",
}


class Case:
    def __init__(self, file: Path) -> None:
        with np.load(file) as arrays:
            self.fields = json.loads(str(arrays["config"]))
            self.shapes = json.loads(str(arrays["parameters"]))
            self.images = arrays["images"].astype(np.float64)[None]
            self.labels = arrays["labels"][None]
            self.logits, self.loss = arrays["logits"], arrays["loss"]
            self.state = self.split(arrays["state"].astype(np.float64))
            self.gradient = self.split(arrays["gradient"])
        self.zeros = {name for name, expected in self.gradient.items() if np.abs(expected).max() < 1e-14}

    def split(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.cumsum([prod(shape) for _, shape in self.shapes])
        assert len(flat) == ends[-1]
        pieces = np.split(flat, ends[:-1])
        return {name: piece.reshape(shape) for (name, shape), piece in zip(self.shapes, pieces, strict=True)}

    def model(self, ops: Ops) -> ViT:
        model = ViT(ViTConfig(**self.fields), ops=ops, seeds=[0])
        model.load_state_dict(self.state, run=0)
        return model


@pytest.fixture(params=FILES, ids=[file.stem for file in FILES], scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(params=["reference", "numpy", "numpy float32"])
def ops_and_tolerance(request: pytest.FixtureRequest) -> tuple[Ops, float]:
    if request.param == "reference":
        return Ops(np, "float64"), TOLERANCE
    if request.param == "numpy":
        return get_ops("numpy", dtype="float64"), TOLERANCE
    return get_ops("numpy", dtype="float32"), 1e-4


def test_logits(case: Case, ops_and_tolerance: tuple[Ops, float]) -> None:
    ops, tolerance = ops_and_tolerance
    logits = case.model(ops).forward(case.images)
    assert logits.dtype == ops.dtype
    assert distance(logits[0], case.logits) < tolerance


def test_loss_and_every_gradient(case: Case, ops_and_tolerance: tuple[Ops, float]) -> None:
    ops, tolerance = ops_and_tolerance
    model = case.model(ops)
    loss = model.loss_and_gradients(case.images, case.labels)
    assert distance(loss, case.loss[None]) < tolerance
    gradient = model.gradients(run=0)
    assert gradient.keys() == case.gradient.keys()
    for name, expected in case.gradient.items():
        if name in case.zeros:
            assert gradient[name].shape == expected.shape
            assert np.abs(gradient[name]).max() < tolerance, name
        else:
            assert distance(gradient[name], expected) < tolerance, name


def test_gradients_vanish_only_where_they_must() -> None:
    """Where the class token alone counts and gets no position, and for a bias that all pairs of tokens share."""
    for case in map(Case, FILES):
        cls = case.fields["pool"] == "cls"
        for name in case.zeros:
            assert name.startswith("blocks.1.attn.rel_pos") if cls else name.endswith("rel_pos.mlp.fc2.bias"), name
        others = [np.abs(expected).max() for name, expected in case.gradient.items() if name not in case.zeros]
        assert min(others) > 1e-4


def test_every_encoding_is_compared_with_both_pools_and_both_parities_of_the_grid() -> None:
    seen: dict[str, set[object]] = {}
    for fields in (Case(file).fields for file in FILES):
        name = fields["position"].partition("(")[0]
        seen.setdefault(name, set()).update([fields["pool"], fields["image_size"] // fields["patch_size"]])
    assert seen == {name: {"mean", "cls", 3, 4} for name in NAMES}
