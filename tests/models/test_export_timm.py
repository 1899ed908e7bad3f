"""Exports to timm: `timm.create_model` makes the same model, with its preprocessing."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from ablations.errors import UsageError
from ablations.models import TrainedModel
from ablations.models.export import timm_files
from tests.support.exports import COLOUR, GREY, ONE_PATCH, import_timm, logits, made, pictures

TABLES = ("learned", "learned-axial", "sinusoidal", "sinusoidal-1d", "learned+sinusoidal")
ROTARY = (
    "rope",
    "rope(base=10)",
    "rope(coordinates=centred)",
    "rope-mixed",
    "rope-dinov3",
    "rope-dinov3(base=30,jitter=2,pairs=half)",
    "rope+learned",
    "rope-mixed+sinusoidal+learned-axial",
)
RELATIVE = (
    "relative-bias",
    "relative-bias(shared=true)",
    "relative-bias-mlp(hidden=5)",
    "relative-bias-mlp(hidden=5,mode=cr,shared=true)",
)
ARCHITECTURES = {
    **dict.fromkeys(("none", *TABLES), "vit_tiny_patch16_224"),
    **dict.fromkeys(ROTARY, "vit_small_patch16_rope_224"),
    **dict.fromkeys(RELATIVE, "vit_relpos_small_patch16_224"),
}
LACKING = (
    "lie-rope",
    "lie-rope(block=2)",
    "relative-keys",
    "alibi-2d",
    "cpe",
    "cpe+rope",
    "relative-bias+learned",
    "relative-bias-mlp+rope",
)


def write(model: TrainedModel, folder: Path) -> Path:
    folder.mkdir()
    for name, content in timm_files(model).items():
        (folder / name).write_bytes(content)
    return folder


def load(folder: Path, **arguments: Any) -> Any:
    return import_timm().create_model(f"local-dir:{folder}", pretrained=True, **arguments).eval()


def as_timm_sees_them(model: Any, images: list[Image.Image]) -> Any:
    """Pictures as a batch, by the preprocessing that timm reads from the files of a model."""
    import torch
    from timm.data import create_transform, resolve_model_data_config

    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return torch.stack([transform(image) for image in images])


def timm_logits(model: Any, images: np.ndarray) -> np.ndarray:
    import torch

    batch = as_timm_sees_them(model, [Image.fromarray(image.squeeze()) for image in images])
    with torch.inference_mode():
        return model(batch).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [COLOUR, GREY], ids=["mean", "class token"])
@pytest.mark.parametrize("position", ARCHITECTURES)
def test_the_same_logits(tmp_path: Path, caplog: pytest.LogCaptureFixture, position: str, shape: dict) -> None:
    model = made(position, **shape)
    theirs = load(write(model, tmp_path / "m"))
    images = pictures(model, 3)
    np.testing.assert_allclose(timm_logits(theirs, images), logits(model, images), rtol=0, atol=1e-5)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.slow
@pytest.mark.parametrize("position", ["none", "learned", "rope", "rope-dinov3", "relative-bias"])
def test_a_single_patch(tmp_path: Path, position: str) -> None:
    model = made(position, **ONE_PATCH)
    images = pictures(model, 3)
    theirs = load(write(model, tmp_path / "m"))
    np.testing.assert_allclose(timm_logits(theirs, images), logits(model, images), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_pictures_of_other_sizes_are_cut_and_resized_as_by_vitab(tmp_path: Path) -> None:
    model = made("rope", **GREY)
    theirs = load(write(model, tmp_path / "m"))
    y, x = np.mgrid[:40, :80]
    Image.fromarray((127 + 60 * np.sin(x / 7) + 60 * np.cos(y / 5)).astype(np.uint8)).save(tmp_path / "wide.png")
    ours = model.preprocessing.normalise(model.preprocessing.read(tmp_path / "wide.png")[None])[0]
    with Image.open(tmp_path / "wide.png") as picture:
        batch = as_timm_sees_them(theirs, [picture])
    np.testing.assert_allclose(batch[0, 0].numpy(), ours[..., 0], rtol=0, atol=1.01 / (255 * 0.2))  # one grey value


@pytest.mark.slow
def test_another_head_for_fine_tuning(tmp_path: Path) -> None:
    model = made("rope-mixed", **COLOUR)
    theirs = load(write(model, tmp_path / "m"), num_classes=7)
    assert theirs.head.weight.shape == (7, 16)
    state = model.model.state_dict()
    np.testing.assert_array_equal(theirs.state_dict()["rope.freqs"].numpy(), state["rope.freqs"])
    np.testing.assert_array_equal(theirs.norm.weight.detach().numpy(), state["norm.weight"])


# -- the files, without timm --


@pytest.mark.parametrize("position", ARCHITECTURES)
def test_what_the_config_says(position: str) -> None:
    model = made(position, **GREY)
    config = json.loads(timm_files(model)["config.json"])
    arguments, pretrained = config["model_args"], config["pretrained_cfg"]
    assert config["architecture"] == ARCHITECTURES[position]
    assert config["label_names"] == ["class 0 ä", "class 1 ä", "class 2 ä"]
    assert (config["num_classes"], pretrained["num_classes"], pretrained["classifier"]) == (3, 3, "head")
    assert (pretrained["mean"], pretrained["std"], pretrained["input_size"]) == ([0.3], [0.2], [1, 10, 10])
    assert (pretrained["interpolation"], pretrained["crop_pct"], pretrained["crop_mode"]) == ("bicubic", 1.0, "center")
    shape = [arguments[name] for name in ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads")]
    assert shape == [10, 2, 1, 16, 2, 2]
    assert (arguments["mlp_ratio"], arguments["class_token"], arguments["global_pool"]) == (2.5, True, "token")


def test_the_weights_carry_the_run(tmp_path: Path) -> None:
    model = made("rope+learned", **COLOUR)
    with safe_open(write(model, tmp_path / "m") / "model.safetensors", framework="numpy") as file:
        about = json.loads(file.metadata()["vitab"])
        assert set(file.keys()) == model.model.state_dict().keys()
    assert about["key"] == model.key
    assert about["config"] == model.config.canonical()
    assert about["preprocessing"]["class_names"] == list(model.class_names)


@pytest.mark.parametrize("position", LACKING)
def test_what_timm_lacks_is_refused(position: str) -> None:
    with pytest.raises(UsageError) as caught:
        timm_files(made(position, **COLOUR))
    assert str(caught.value) == (
        f"timm has no model with position {position!r}; --format timm exports none, learned, learned-axial, "
        "sinusoidal, sinusoidal-1d, rope, rope-mixed, rope-dinov3, relative-bias, relative-bias-mlp, and sums of "
        "tables and one rotary encoding; --format onnx exports every built-in encoding"
    )


def test_timm_divides_by_zero_where_swin_has_one_patch() -> None:
    with pytest.raises(UsageError, match=r"^timm cannot compute position 'relative-bias-mlp' for a single patch \(it"):
        timm_files(made("relative-bias-mlp", **ONE_PATCH))
    assert timm_files(made("relative-bias-mlp(mode=cr)", **ONE_PATCH))
