"""Attention maps and rollout have the values of formulas written out; `vitab attention` writes them as a figure."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from ablations.cli import app
from ablations.models import TrainedModel
from ablations.models.attention import attention, rollout, to_patches
from ablations.models.trained import dataset_of
from ablations.reporting.figures import attention_maps
from ablations.storage import Store
from tests.support.evaluations import refused, succeeds, vitab
from tests.support.trained_models import keys_of, make_old, save_pictures
from vit import ViT, ViTConfig

RUN = "rope,depth=2"


@pytest.fixture
def picture(store: Store) -> Path:
    data = dataset_of(store, keys_of(store, "arms")["rope,2,0"])
    return save_pictures(data.test_images[:1], Path("p"))[0]


# -- values --


def by_hand(model: ViT, image: np.ndarray) -> list[np.ndarray]:
    """Attention (H, T, T) of each block in float64, from the weights, for an encoding without effect (`none`)."""
    c, state = model.config, {name: value.astype(np.float64) for name, value in model.state_dict().items()}
    grid, p = c.grid, c.patch_size
    patches = image.reshape(grid, p, grid, p, c.channels).transpose(0, 2, 4, 1, 3).reshape(grid * grid, -1)
    x = patches @ state["patch_embed.proj.weight"].reshape(c.width, -1).T + state["patch_embed.proj.bias"]
    if c.prefix:
        x = np.concatenate([state["cls_token"][0], x])

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    from scipy.special import erf

    found = []
    for i in range(c.depth):
        name = f"blocks.{i}"
        qkv = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").reshape(len(x), 3, c.heads, -1)
        q, k, v = qkv.transpose(1, 2, 0, 3)
        scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(c.head_width))
        found.append(scores / scores.sum(axis=-1, keepdims=True))
        x = x + linear((found[-1] @ v).transpose(1, 0, 2).reshape(len(x), -1), f"{name}.attn.proj")
        hidden = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        x = x + linear(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, f"{name}.mlp.fc2")
    return found


def test_attention_is_that_of_the_formulas(store: Store) -> None:
    key = keys_of(store, "arms")["none,2,0"]
    model, image = TrainedModel.load(store, key), dataset_of(store, key).test_images[5]
    found = attention(model, image)
    assert found.shape == (2, 2, 4, 4)
    p = model.preprocessing
    normalised = (image / 255 - np.array(p.mean)) / np.array(p.std)
    np.testing.assert_allclose(found, by_hand(model.model, normalised), rtol=1e-4)
    assert np.abs(found - 1 / 4).max() > 0.005


def paths(attention: np.ndarray) -> np.ndarray:
    """Rollout as the sum over all paths of a token through the blocks."""
    depth, heads, tokens, _ = attention.shape
    found = np.zeros((tokens, tokens))
    for path in np.ndindex(*[tokens] * (depth + 1)):
        weight = 1.0
        for block in range(depth):
            source, target = path[block], path[block + 1]
            mean = sum(attention[block, head, target, source] for head in range(heads)) / heads
            weight *= 0.5 * mean + 0.5 * (source == target)
        found[path[-1], path[0]] += weight
    return found


@pytest.mark.parametrize(("study", "arm"), [("arms", "rope,2,0"), ("token", "rope(base=10),2,0")])
def test_rollout_is_the_sum_over_all_paths(store: Store, study: str, arm: str) -> None:
    key = keys_of(store, study)[arm]
    found = attention(TrainedModel.load(store, key), dataset_of(store, key).test_images[0])
    np.testing.assert_allclose(rollout(found), paths(found), rtol=1e-6)
    np.testing.assert_allclose(rollout(found).sum(axis=-1), 1)


def test_rollout_of_the_last_block_comes_first() -> None:
    first, second = np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.8, 0.2]])
    found = rollout(np.stack([first, second])[:, None])
    np.testing.assert_allclose(found, [[0.75, 0.25], [0.3, 0.7]])  # [[1, 0], [.4, .6]] times [[.75, .25], [0, 1]]
    two_heads = np.stack([[2 * first - np.eye(2), np.eye(2)], [second, second]])
    np.testing.assert_allclose(rollout(two_heads), found)


def test_maps_are_the_mean_over_query_patches_or_the_row_of_the_class_token() -> None:
    shape = {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 2, "width": 4, "depth": 1, "heads": 1}
    values = np.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_array_equal(to_patches(values, ViTConfig(**shape, position="none")), [[[6, 7], [8, 9]]])
    values = np.arange(25.0).reshape(1, 5, 5)
    token = to_patches(values, ViTConfig(**shape, position="none", pool="cls"))
    np.testing.assert_array_equal(token, [[[1, 2], [3, 4]]])


# -- figure --


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that commands draw."""
    figures: list[Figure] = []
    draw = attention_maps.attention_figure
    monkeypatch.setattr(attention_maps, "attention_figure", lambda *a, **k: figures.append(draw(*a, **k)) or figures[0])
    return figures


@pytest.mark.parametrize(
    ("run", "study", "arm", "title"),
    [
        (RUN, "arms", "rope,2,0", "Attention to the patches, mean over query patches"),
        ("depth=2", "token", "rope(base=10),2,0", "Attention of the class token to the patches"),
    ],
)
def test_a_panel_for_each_block_and_head(
    store: Store, picture: Path, drawn: list[Figure], run: str, study: str, arm: str, title: str
) -> None:
    assert succeeds(vitab("attention", run, picture, "--study", study, "--out", "map.png")) == ["wrote map.png"]
    (figure,) = drawn
    key = keys_of(store, study)[arm]
    model = TrainedModel.load(store, key)
    image = dataset_of(store, key).test_images[0]
    texts = [text.get_text() for text in figure.texts]
    assert texts[0].startswith(f"{title}\nrun {key[:16]}: ")
    best = int(model.probabilities(image[None])[0].argmax())
    assert texts[1].startswith(f"predicted class\n{best}\n")
    assert texts[2] == "Â₂ Â₁\nÂ = ½ A + ½ I\nA: mean over heads"
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in panels] == ["picture", "head 1", "head 2", "", "", "rollout"]
    assert [ax.get_ylabel() for ax in panels] == ["", "block 1", "", "block 2", "", ""]
    assert np.array_equal(panels[0].images[0].get_array(), image.repeat(3, axis=-1))
    found = attention(model, image)
    maps = to_patches(found, model.vit_config).reshape(4, 2, 2)
    flow = to_patches(rollout(found), model.vit_config)
    for values, panel in zip([*maps, flow], panels[1:], strict=True):
        colours = np.asarray(panel.images[0].get_array())
        brightness = 0.68 + 0.32 * image / 255
        blue = (colours / brightness)[..., 2].reshape(2, 4, 2, 4)
        np.testing.assert_allclose(blue, blue[:, :1, :, :1].repeat(4, axis=1).repeat(4, axis=3), atol=1e-6)
        order = np.argsort(values.ravel())  # the more attention, the less blue
        assert (np.diff(blue[:, 0, :, 0].ravel()[order]) <= 1e-6).all()
    bars = [ax for ax in figure.axes if not ax.images]
    assert [ax.get_xlabel() for ax in bars] == ["share of the attention", "share"]
    np.testing.assert_allclose(bars[0].get_xlim(), (0, maps.max()))
    np.testing.assert_allclose(bars[1].get_xlim(), (flow.min(), flow.max()))
    figure.canvas.draw()
    sheet = figure.bbox.bounds
    for text in figure.texts:
        left, bottom, width, height = text.get_window_extent().bounds
        assert left >= 0
        assert bottom >= 0
        assert left + width <= sheet[2]
        assert bottom + height <= sheet[3]


@pytest.mark.parametrize(
    ("name", "start"),
    [("map.png", b"\x89PNG"), ("map.PDF", b"%PDF"), ("map.svg", b"<?xml"), ("attention.png", b"\x89")],
)
def test_the_same_file_again_in_the_format_of_its_suffix(store: Store, picture: Path, name: str, start: bytes) -> None:
    option = [] if name == "attention.png" else ["--out", name]
    contents = []
    for _ in range(2):
        assert succeeds(vitab("attention", RUN, picture, *option)) == [f"wrote {name}"]
        contents.append(Path(name).read_bytes())
    assert contents[0].startswith(start)
    assert contents[0] == contents[1]
    assert sorted(path.name for path in Path().iterdir()) == sorted([name, "p", "runs"])


def test_colour_pictures_of_any_size_from_standard_input_and_an_old_checkpoint(store: Store, pictures: Path) -> None:
    key = keys_of(store, "colour")["learned,1,0"]
    make_old(store, key)
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3)).astype(np.uint8)).save(content, "JPEG")
    arguments = ["attention", key, "-", "--data-dir", str(pictures)]
    result = CliRunner().invoke(app, arguments, input=content.getvalue())
    assert (result.exit_code, result.stdout) == (0, "wrote attention.png\n")
    assert result.stderr.startswith(f"note: the checkpoint of run {key[:16]} is of an older version")
    with Image.open("attention.png") as drawn:
        assert drawn.size == (1344, 774)


# -- bad input --

BAD = [
    ([RUN, "p/00000.png", "--out", "map.gif"], "--out must end in .png, .pdf, .svg, got map.gif"),
    ([RUN, "p/00000.png", "--out", "map"], "--out must end in .png, .pdf, .svg, got map"),
    ([RUN, "p/00000.png", "--out", "no/map.png"], "--out must be in a folder that exists, got no/map.png"),
    ([RUN, "p/00000.png", "--out", "folder.png"], "--out must be a file, got the folder folder.png"),
    ([RUN, "p/00000.png", "--out", "m" * 300 + ".png"], "m.png: File name too long"),
    ([RUN], "Missing argument 'PICTURE'"),
    ([RUN, "p"], "cannot read image p (Is a directory); fix or remove it"),
    ([RUN, "none.png"], "cannot read image none.png (No such file or directory)"),
    (
        [RUN, "runs/studies/arms.json"],
        "cannot read image runs/studies/arms.json (not a PNG, JPEG, WebP, BMP, TIFF or GIF file",
    ),
    (["rope", "p/00000.png"], "'rope' means 2 arms of study arms"),
    (["learned", "p/00000.png"], "no run of study arms is 'learned'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments)[:60] for arguments, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(
    store: Store, picture: Path, arguments: list[str], message: str
) -> None:
    Path("folder.png").mkdir()
    assert message in refused(vitab("attention", *arguments))
    assert sorted(path.name for path in Path().iterdir()) == ["folder.png", "p", "runs"]


def test_a_file_that_cannot_be_written(store: Store, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ablations.storage.write_file", fails)
    result = vitab("attention", RUN, picture)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: cannot write attention.png: No space left on device\n"
