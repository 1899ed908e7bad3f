"""Exports to ONNX: ONNX Runtime computes what the model does, for every encoding."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ablations.errors import UsageError
from ablations.models.export import onnx_model
from tests.support import own_encoding
from tests.support.exports import ALL, COLOUR, GREY, ONE_PATCH, logits, made, pictures

REASON = "needs onnx and onnxruntime"
TOLERANCE = 1e-5


def run(content: bytes, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities of images (n, h, w, c), by ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime", reason=REASON)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(content, options)
    found, probabilities = session.run(["logits", "probabilities"], {"image": images.transpose(0, 3, 1, 2)})
    return found, probabilities


@pytest.fixture(autouse=True)
def _onnx() -> None:
    pytest.importorskip("onnx", reason=REASON)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(COLOUR, id="mean", marks=pytest.mark.slow),
        pytest.param(GREY, id="class token"),
        pytest.param(ONE_PATCH, id="one patch", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("position", ALL)
def test_the_same_logits_and_probabilities(position: str, shape: dict) -> None:
    model = made(position, **shape)
    content = onnx_model(model)
    for count in (1, 3):
        images = pictures(model, count)
        found, probabilities = run(content, images)
        np.testing.assert_allclose(found, logits(model, images), rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(probabilities, model.probabilities(images), rtol=0, atol=TOLERANCE)


def test_what_the_file_says() -> None:
    import onnx

    model = made("rope", **GREY)
    content = onnx_model(model)
    file = onnx.load_model_from_string(content)
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert (metadata["key"], metadata["version"], metadata["resize"]) == (model.key, file.producer_version, "crop")
    assert json.loads(metadata["class_names"]) == ["class 0 ä", "class 1 ä", "class 2 ä"]
    assert json.loads(metadata["config"]) == model.config.canonical()
    assert (file.producer_name, file.ir_version, [(o.domain, o.version) for o in file.opset_import]) == (
        *("vitab", 9),
        [("", 20)],
    )
    values = {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*file.graph.input, *file.graph.output)
    }
    assert values == {
        "image": (onnx.TensorProto.UINT8, ["N", 1, 10, 10]),
        "logits": (onnx.TensorProto.FLOAT, ["N", 3]),
        "probabilities": (onnx.TensorProto.FLOAT, ["N", 3]),
    }
    assert onnx_model(model) == content


def test_parameters_have_their_names_and_fixed_tables_are_stored_once() -> None:
    import onnx

    model = made("rope", **COLOUR)
    constants = {
        constant.name: onnx.numpy_helper.to_array(constant)
        for constant in onnx.load_model_from_string(onnx_model(model)).graph.initializer
    }
    state = model.model.state_dict()
    for name, array in state.items():
        expected = array.T if name.endswith("weight") and array.ndim == 2 else array
        np.testing.assert_array_equal(constants[name], expected)
    tables = [array for name, array in constants.items() if name not in state and array.shape == (1, 9, 8)]
    assert len(tables) == 2  # cosines and sines


def test_an_encoding_in_a_file_whose_hooks_are_a_bias(tmp_path: Path) -> None:
    file = own_encoding.write(tmp_path / "mine.py")
    model = made(f"{file}:Mine(start=2)+rope", **GREY)
    images = pictures(model, 3)
    found, _ = run(onnx_model(model), images)
    np.testing.assert_allclose(found, logits(model, images), rtol=0, atol=TOLERANCE)
    assert np.abs(found - logits(made("rope", **GREY), images)).max() > 0.01


def test_an_encoding_in_a_file_with_operations_of_its_own(tmp_path: Path) -> None:
    file = own_encoding.write(tmp_path / "mine.py", by_hand=True)
    with pytest.raises(UsageError) as caught:
        onnx_model(made(f"{file}:Mine+rope", **GREY))
    assert str(caught.value) == (
        "position 'Mine' computes with operations of its own, which are not exported; exported are the built-in "
        "encodings, and those whose hooks are tables, rotations and biases of the scores"
    )


def test_a_built_in_encoding_changed_in_a_file_is_not_taken_for_it(tmp_path: Path) -> None:
    source = (
        "from dataclasses import dataclass\n"
        "from vit.positions.lie_rope import LieRotaryPosition\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine(LieRotaryPosition):\n"
        "    description = 'changed'\n"
    )
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(UsageError, match=r"^position 'Mine' computes with operations of its own"):
        onnx_model(made(f"{tmp_path / 'mine.py'}:Mine", **COLOUR))


def test_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "ablations.models.export.graph", raising=False)
    with pytest.raises(UsageError) as caught:
        onnx_model(made("rope", **COLOUR))
    assert str(caught.value) == "--format onnx needs the package onnx: pip install 'vitab[onnx]'"
