"""`vitab export`: the files of a trained run, and bad input in one line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ablations.models import TrainedModel
from ablations.models.trained import dataset_of
from ablations.storage import Store
from tests.support import own_encoding
from tests.support.evaluations import digests, refused, succeeds, vitab
from tests.support.exports import import_timm
from tests.support.trained_models import keys_of, make_diverged, make_old

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("runs")


def test_timm(store: Store) -> None:
    key = keys_of(store, "arms")["rope,2,0"]
    before = digests(store.root)
    lines = succeeds(vitab("export", "rope,depth=2", "--format", "timm", "--out", "new/m"))
    assert lines == [
        f"run {key[:16]}: rope, depth 2, patch 4, seed 0, trained on digits",
        "wrote new/m: timm.create_model('local-dir:new/m', pretrained=True).eval()",
    ]
    assert sorted(path.name for path in Path("new").rglob("*")) == ["config.json", "m", "model.safetensors"]
    weights, trained = load_file("new/m/model.safetensors"), store.checkpoint(key)
    assert weights.keys() == trained.keys()
    assert all(np.array_equal(weights[name], trained[name]) for name in trained)
    config = json.loads(Path("new/m/config.json").read_bytes())
    assert config["label_names"] == [str(digit) for digit in range(10)]
    assert config["pretrained_cfg"]["mean"] == list(TrainedModel.load(store, key).preprocessing.mean)
    assert digests(store.root) == before


@pytest.mark.slow
def test_timm_classifies_the_test_images_as_the_run_did(store: Store, pictures: Path) -> None:
    timm = import_timm()
    import torch

    for study, arm in (("token", "rope(base=10),2,0"), ("colour", "learned,1,0")):
        key = keys_of(store, study)[arm]
        succeeds(vitab("export", key[:12], "--format", "timm", "--out", study))
        model = timm.create_model(f"local-dir:{study}", pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        images = dataset_of(store, key, pictures).test_images[:50]
        with torch.inference_mode():
            found = model(torch.stack([transform(Image.fromarray(image.squeeze())) for image in images])).softmax(1)
        np.testing.assert_allclose(found.numpy(), store.predictions(key)["probabilities"][:50], rtol=0, atol=1e-5)


def test_onnx(store: Store, pictures: Path) -> None:
    pytest.importorskip("onnx", reason="needs onnx")
    for study, arm, shape in (("token", "rope(base=10),2,0", (1, 8, 8)), ("colour", "learned,1,0", (3, 32, 32))):
        key = keys_of(store, study)[arm]
        arguments = ("export", arm.partition(",")[0], "--study", study, "--format", "onnx", "--out", f"{study}.onnx")
        label, wrote = succeeds(vitab(*arguments))
        assert label.startswith(f"run {key[:16]}: ")
        sizes = ", ".join(map(str, shape))
        classes = len(TrainedModel.load(store, key).class_names)
        assert wrote == f"wrote {study}.onnx: image, uint8 (N, {sizes}) -> logits, probabilities (N, {classes})"
        assert not list(Path().glob(".*"))
        runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
        session = runtime.InferenceSession(f"{study}.onnx")
        images = dataset_of(store, key, pictures).test_images
        _, found = session.run(None, {"image": images.transpose(0, 3, 1, 2)})
        np.testing.assert_allclose(found, store.predictions(key)["probabilities"], rtol=0, atol=1e-5)


def test_an_onnx_file_is_replaced_and_an_empty_folder_is_used() -> None:
    Path("empty").mkdir()
    succeeds(vitab("export", "none,depth=1", "--format", "timm", "--out", "empty"))
    pytest.importorskip("onnx", reason="needs onnx")
    Path("m.onnx").write_text("old")
    succeeds(vitab("export", "none,depth=1", "--format", "onnx", "--out", "m.onnx"))
    assert Path("m.onnx").stat().st_size > 10_000


def test_a_run_of_an_older_version(store: Store) -> None:
    key = keys_of(store, "arms")["none,1,0"]
    make_old(store, key)
    result = vitab("export", key, "--format", "timm", "--out", "m")
    assert re.match(f"note: the checkpoint of run {key[:16]} is of an older version", result.stderr)
    assert result.stderr.count("\n") == 1
    assert json.loads(Path("m/config.json").read_bytes())["label_names"][9] == "9"


@pytest.mark.parametrize("target", [pytest.param("timm", marks=pytest.mark.slow), "onnx"])
def test_the_example_of_the_documentation(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    if target == "timm":
        import_timm()
    else:
        pytest.importorskip("onnxruntime", reason="needs onnx and onnxruntime")
    text = (ROOT / "docs" / "export.md").read_text()
    (code,) = re.findall(rf"<!-- example: {target} -->\n```python\n(.*?)```", text, re.DOTALL)
    out = {"timm": "rope-timm", "onnx": "rope.onnx"}[target]
    succeeds(vitab("export", "rope,depth=1", "--format", target, "--out", out))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)).save("photo.png")
    exec(code, {})
    predicted = json.loads(vitab("predict", "rope,depth=1", "photo.png", "--json").stdout)
    assert capsys.readouterr().out.strip() == predicted["predictions"][0]["classes"][0]["class"]


BAD = [
    (["rope,depth=1", "--format", "tim", "--out", "m"], "--format must be timm or onnx, got 'tim'"),
    (["rope,depth=1", "--format", "timm"], "Missing option '--out'"),
    (["rope,depth=1", "--out", "m"], "Missing option '--format'"),
    (["learned", "--format", "timm", "--out", "m"], "no run of study arms is 'learned'"),
    (["rope", "--format", "timm", "--out", "m"], "'rope' means 2 arms of study arms: rope,depth=1; rope,depth=2"),
    (["rope", "--format", "timm", "--out", "m", "--study", "x"], "no study 'x' in runs; studies there: "),
    (
        ["rope,depth=1", "--format", "timm", "--out", "full"],
        "--out must be a new or empty folder with --format timm, got full",
    ),
    (
        ["rope,depth=1", "--format", "timm", "--out", "full/file"],
        "--out must be a new or empty folder with --format timm, got full/file",
    ),
    (["rope,depth=1", "--format", "timm", "--out", "full/file/m"], "--out full/file is not writable (full/file/m: Not"),
    (
        ["rope,depth=1", "--format", "onnx", "--out", "full"],
        "--out must be a file with --format onnx, got the folder full",
    ),
    (
        ["rope,depth=1", "--format", "onnx", "--out", "no/m.onnx"],
        "--out must be in a folder that exists, got no/m.onnx",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(arguments: list[str], message: str) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("here")
    assert refused(vitab("export", *arguments)).startswith(f"error: {message}")
    assert sorted(path.name for path in Path().iterdir()) == ["full", "runs"]
    assert [path.read_text() for path in Path("full").iterdir()] == ["here"]


def test_an_encoding_in_a_file_is_not_exported_to_timm() -> None:
    own_encoding.write(Path("mine.py"))
    tiny = ("--set", "per_class=5", "--set", "width=8", "--depth", "1", "--patch", "4", "--epochs", "1", "--seeds", "1")
    succeeds(vitab("run", "--grid", "smoke", "--study", "own", "--position", "mine.py:Mine", *tiny, "--workers", "1"))
    error = refused(vitab("export", "Mine", "--format", "timm", "--out", "m"))
    assert error.startswith("error: timm has no model with position 'Mine'; --format timm exports none, learned, ")
    assert not Path("m").exists()


def test_a_diverged_run(store: Store) -> None:
    key = keys_of(store, "arms")["rope,1,0"]
    make_diverged(store, key)
    result = vitab("export", key, "--format", "timm", "--out", "m")
    assert (result.exit_code, result.stderr) == (1, f"error: run {key[:16]} diverged; it has no usable model\n")
    assert not Path("m").exists()


@pytest.mark.parametrize(("target", "out"), [("timm", "m"), ("onnx", "m.onnx")])
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, target: str, out: str) -> None:
    if target == "onnx":
        pytest.importorskip("onnx", reason="needs onnx")

    def fails(path: Path, content: bytes) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ablations.storage.write_file", fails)
    result = vitab("export", "rope,depth=1", "--format", target, "--out", out)
    assert result.exit_code == 1
    assert re.fullmatch(r"error: cannot write .*: No space left on device\n", result.stderr)
    assert [path.name for path in Path().iterdir()] == ["runs"]
