"""Figures of positional encodings: the values that are drawn, against their formulas, and what the captions say."""

import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from scipy.linalg import expm

from ablations.config import GRIDS, RunConfig, standard_position
from ablations.reporting.figures import encoding_panels as panels
from ablations.reporting.figures.encoding_effects import UndrawableError, by_displacement, effects
from ablations.reporting.figures.encodings import COLUMNS, encodings
from ablations.reporting.report import write_report
from tests.reporting.test_report_numbers import unfounded
from tests.support import synthetic_results
from vit import ViT, ViTConfig, get_ops
from vit.positions import POSITIONS, encoding
from vit.positions.learned_axial import COLUMNS as AXIAL_COLUMNS
from vit.positions.learned_axial import ROWS
from vit.positions.lie_rope import GENERATORS
from vit.positions.rope_mixed import FREQUENCIES

GRID, REACH, WIDTH, HEADS = 4, 3, 32, 2
HEAD_WIDTH = WIDTH // HEADS
DY, DX = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]


def model(position: str, **fields) -> ViTConfig:
    fields = {"width": WIDTH, "heads": HEADS, "depth": 2} | fields
    return ViTConfig(image_size=GRID, patch_size=1, channels=1, classes=2, position=position, **fields)


def random_state(config: ViTConfig, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Parameters of an encoding as after training."""
    rng = np.random.default_rng(0)
    return {p.name: scale * rng.normal(size=p.shape) for p in encoding(config.position).declare(config)}


def effects_of(position: str, state: dict[str, np.ndarray] | None = None, **fields) -> dict[str, np.ndarray]:
    config = model(position, **fields)
    return effects(encoding(position), config, random_state(config) if state is None else state)


def over_pairs(score) -> np.ndarray:
    """The mean of score(query, key), patches as (row, column), over the pairs of each displacement."""
    found: dict[tuple[int, int], list[float]] = {}
    for query in np.ndindex(GRID, GRID):
        for key in np.ndindex(GRID, GRID):
            found.setdefault((key[0] - query[0], key[1] - query[1]), []).append(score(query, key))
    return np.array([[np.mean(found[dy, dx]) for dx in range(-REACH, REACH + 1)] for dy in range(-REACH, REACH + 1)])


def test_cosine_similarity_of_zero_rows_is_zero():
    similarity = panels.cosine_similarity(np.array([[3.0, 4.0], [0.0, 0.0], [4.0, -3.0]]))
    assert similarity == pytest.approx(np.diag([1.0, 0.0, 1.0]))


def test_the_mean_of_pairs_by_displacement():
    values = np.random.default_rng(0).normal(size=(2, GRID**2, GRID**2))
    for found, pairs in zip(by_displacement(values), values, strict=True):
        expected = over_pairs(lambda query, key, p=pairs: p[query[0] * GRID + query[1], key[0] * GRID + key[1]])
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("options", ["", "(base=10)", "(coordinates=centred)"])
def test_rope_is_a_mean_of_waves_over_displacement(options, pool):
    base = 10 if "base" in options else 100
    waves = base ** (-4 * np.arange(HEAD_WIDTH // 4) / HEAD_WIDTH)
    expected = np.mean([(np.cos(DX * wave) + np.cos(DY * wave)) / 2 for wave in waves], axis=0)
    found = effects_of(f"rope{options}", pool=pool)
    assert list(found) == ["rotation"]
    np.testing.assert_allclose(found["rotation"], expected, atol=1e-12)


def test_dinov3_waves_are_over_the_image():
    periods = 100 ** (4 * np.arange(HEAD_WIDTH // 4) / HEAD_WIDTH)
    waves = 2 * np.pi * 2 / GRID / periods  # the image is two units wide
    expected = np.mean([(np.cos(DX * wave) + np.cos(DY * wave)) / 2 for wave in waves], axis=0)
    for options in ("", "(shift=0.2,jitter=1.5)", "(pairs=half)"):  # nothing is changed at random after training
        np.testing.assert_allclose(effects_of(f"rope-dinov3{options}")["rotation"], expected, atol=1e-12)


def test_mixed_frequencies_are_those_of_the_trained_model_in_the_mean_over_heads_and_blocks():
    config = model("rope-mixed")
    state = random_state(config)
    found = effects(encoding("rope-mixed"), config, state, seed=3)
    fx, fy = state[FREQUENCIES][..., None, None]
    np.testing.assert_allclose(found["rotation"], np.cos(DX * fx + DY * fy).mean(axis=(0, 1, 2)), atol=1e-12)
    np.testing.assert_array_equal(found["frequencies"], state[FREQUENCIES])
    np.testing.assert_array_equal(found["start"], ViT(config, get_ops(dtype="float64"), [3]).state_dict()[FREQUENCIES])


def test_lie_rotations_are_averaged_over_pairs():
    config = model("lie-rope(block=4)", depth=1)
    state = random_state(config)
    a, b = (np.triu(g, 1) - np.triu(g, 1).swapaxes(-1, -2) for g in state[GENERATORS][:, 0])

    def score(query, key):
        (y, x), (v, u) = (np.array(patch) / (GRID - 1) for patch in (query, key))
        total = 0.0
        for head, group in np.ndindex(a.shape[:2]):
            turns = [expm(c * a[head, group] + d * b[head, group]) for c, d in ((x, y), (u, v))]
            total += turns[0].sum(axis=1) @ turns[1].sum(axis=1)
        return total / WIDTH

    found = effects(encoding(config.position), config, state)
    assert list(found) == ["rotation"]
    np.testing.assert_allclose(found["rotation"], over_pairs(score), atol=1e-10)


def test_tables_are_those_that_are_added_to_tokens():
    rows, columns = np.random.default_rng(0).normal(size=(2, 1, GRID, WIDTH))
    found = effects_of("learned-axial", {ROWS: rows, AXIAL_COLUMNS: columns})
    assert list(found) == ["table"]
    for patch, (y, x) in enumerate(np.ndindex(GRID, GRID)):
        np.testing.assert_allclose(found["table"][patch], rows[0, y] + columns[0, x])
    learned = random_state(model("learned"))["pos_embed"]
    np.testing.assert_allclose(effects_of("learned", {"pos_embed": learned})["table"], learned[0])
    wave = 10000 ** -(3 / (WIDTH / 4 - 1))
    two = effects_of("sinusoidal")["table"][2 * GRID + 1, 3 :: WIDTH // 4]
    assert two == pytest.approx([np.sin(wave), np.cos(wave), np.sin(2 * wave), np.cos(2 * wave)])
    one = effects_of("sinusoidal-1d")["table"]
    assert one[5, 2:4] == pytest.approx([np.sin(5 / 10000 ** (2 / WIDTH)), np.cos(5 / 10000 ** (2 / WIDTH))])


def test_a_convolution_responds_to_ones_by_the_taps_inside_of_the_image():
    config = model("cpe", pool="cls")
    state = random_state(config)
    found = effects(encoding("cpe"), config, state)
    assert list(found) == ["response"]
    kernel, bias = state["pos_block.0.proj.0.weight"][:, 0], state["pos_block.0.proj.0.bias"]
    for patch, (y, x) in enumerate(np.ndindex(GRID, GRID)):
        inside = kernel[:, max(0, 1 - y) : 3 - max(0, y + 2 - GRID), max(0, 1 - x) : 3 - max(0, x + 2 - GRID)]
        np.testing.assert_allclose(found["response"][patch], inside.sum(axis=(1, 2)) + bias, rtol=1e-5)


@pytest.mark.parametrize("distance", ["euclidean", "manhattan"])
def test_alibi_is_its_formula(distance):
    found = effects_of(f"alibi-2d(distance={distance})", pool="cls")
    assert list(found) == ["bias"]
    far = np.hypot(DX, DY) if distance == "euclidean" else np.abs(DX) + np.abs(DY)
    np.testing.assert_allclose(found["bias"], [-(2.0**-4) * far, -(2.0**-8) * far])


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_bias_is_drawn_where_the_key_is(pool):
    config = model("relative-bias", pool=pool)
    state = random_state(config)
    found = effects(encoding("relative-bias"), config, state)
    table = state["blocks.0.attn.rel_pos.relative_position_bias_table"][: DX.size].T.reshape(HEADS, *DX.shape)
    np.testing.assert_allclose(found["bias"], table[:, ::-1, ::-1])  # its rows and columns are of query minus key


def test_the_bias_of_a_network_depends_on_the_displacement():
    found = effects_of("relative-bias-mlp(hidden=8)")
    assert list(found) == ["bias"]
    assert found["bias"].shape == (HEADS, *DX.shape)
    assert found["bias"].min() > 0  # 16 sigmoid
    assert found["bias"].max() < 16
    assert np.ptp(found["bias"], axis=(1, 2)).min() > 0.1


def test_products_are_the_length_of_the_vectors():
    config = model("relative-keys", depth=1)
    state = random_state(config)
    found = effects(encoding("relative-keys"), config, state)
    assert list(found) == ["products"]
    columns, rows = state["blocks.0.attn.rel_pos"]
    vectors = columns[DX + REACH] + rows[DY + REACH]
    np.testing.assert_allclose(found["products"], np.linalg.norm(vectors, axis=-1) / HEAD_WIDTH**0.5)
    queries = np.random.default_rng(1).normal(size=(20000, HEAD_WIDTH)) / HEAD_WIDTH**0.5
    rms = np.sqrt(np.mean((vectors @ queries.T) ** 2, axis=-1))
    np.testing.assert_allclose(found["products"], rms, rtol=0.05)


def test_no_encoding_has_no_effect():
    assert effects_of("none") == {}


def test_parameters_of_another_shape_are_not_drawn():
    with pytest.raises(UndrawableError, match="learned has no parameter pos_embed of the shape"):
        effects_of("learned", {"pos_embed": np.zeros((1, GRID**2, 8))})
    with pytest.raises(UndrawableError):
        effects_of("learned", {})


def study(*positions: str, trained: bool = True, **options) -> synthetic_results.FakeResults:
    made = synthetic_results.make({"position": positions}, (0, 1, 2), **options)
    return synthetic_results.untrained(made) if trained else made


def titles(figure: mpl.figure.Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


SPELLINGS = [
    *POSITIONS,
    "rope(base=10,coordinates=centred)",
    "rope-dinov3(base=50,shift=0.1,jitter=1.2,rescale=1.1)",
    "rope-mixed(base=100)",
    "lie-rope(block=4,layers=shared,heads=shared)",
    "relative-bias(shared=true)",
    "relative-bias-mlp(hidden=16,mode=cr)",
    "alibi-2d(distance=manhattan)",
    "cpe(where=each)",
    "rope+learned",
    "rope-mixed+relative-bias+cpe+learned-axial",
    "alibi-2d+relative-bias",
    "rope+learned+sinusoidal",
]


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if name != "none"])
def test_every_spelling_has_panels_for_all_of_its_parts(spelling, pool, tmp_path):
    drawn = encodings(study("none", standard_position(spelling), base=RunConfig(pool=pool)))
    assert drawn
    for drawing in drawn:
        drawing.save(tmp_path)
        assert "Not drawn" not in drawing.caption
    shown = " ".join(" ".join(titles(drawing.figure)) for drawing in drawn)
    shown = re.sub(r"\s+", " ", shown).replace("- ", "-")
    for part in encoding(spelling).parts:
        assert part.name in shown


def test_few_panels_are_one_figure_and_many_one_for_each_place():
    (few,) = encodings(study("none", "learned", "sinusoidal", "rope"))
    assert few.name == "encodings"
    assert titles(few.figure) == ["learned", "sinusoidal", "rope"]
    assert few.caption.endswith("From 3 trained models, averaged: learned. From formulas: sinusoidal, rope.")
    many = encodings(study(*GRIDS["encodings"].levels))
    assert [drawing.name for drawing in many] == ["encodings_tokens", "encodings_rotations", "encodings_scores"]
    tokens, rotations, scores = (titles(drawing.figure) for drawing in many)
    plain = ["learned", "learned-axial", "sinusoidal", "sinusoidal-1d", "cpe"]
    assert tokens == [*plain, "learned in\nrope+learned"]
    assert rotations == ["rope", "rope-mixed", "rope-mixed\nfrequencies", "rope-dinov3", "lie-rope"]  # one rope
    assert scores == [
        *(f"{name}\nhead {head}" for name in ("relative-bias", "relative-bias-mlp") for head in (1, 2)),
        "relative-keys",
        "alibi-2d\nhead 1",
        "alibi-2d\nhead 2",
    ]


def test_the_figure_shows_the_mean_of_the_trained_models_and_the_bias_around_its_mean():
    results = study("none", "learned", "alibi-2d")
    (drawing,) = encodings(results)
    drawn = {ax.get_title(): ax.images[0] for ax in drawing.figure.axes if ax.get_title()}
    config = ViTConfig(image_size=8, patch_size=2, channels=1, classes=10, width=64, depth=2, heads=2)
    states = [ViT(replace(config, position="learned"), get_ops(), [seed]).state_dict() for seed in (0, 1, 2)]
    similarity = np.mean([panels.cosine_similarity(state["pos_embed"][0]) for state in states], axis=0)
    expected = panels.similarity_mosaic(mpl.figure.Figure().subplots(), similarity).get_array()
    np.testing.assert_allclose(drawn["learned"].get_array().filled(9), expected.filled(9), atol=1e-6)
    slopes = 2.0**-4, 2.0**-8
    for head, slope in enumerate(slopes, start=1):
        image = drawn[f"alibi-2d\nhead {head}"]
        values = -slope * np.hypot(DX, DY)
        np.testing.assert_allclose(image.get_array(), values - values.mean(), atol=1e-12)
        assert image.get_clim() == pytest.approx(
            (-slopes[0] * np.hypot(DX, DY).mean(), slopes[0] * np.hypot(DX, DY).mean())
        )


def test_arrows_lead_from_the_start_to_the_trained_frequencies():
    start, trained = np.random.default_rng(0).normal(size=(2, 2, 3, 2, 4))
    ax = mpl.figure.Figure().subplots()
    image = panels.frequency_plane(ax, start, trained)
    arrows = [each for each in ax.collections if isinstance(each, mpl.quiver.Quiver)]
    assert len(arrows) == len({each.get_facecolor().tobytes() for each in arrows}) == 3
    for block, arrow in enumerate(arrows):
        np.testing.assert_allclose(arrow.get_offsets(), start[:, block].reshape(2, -1).T)
        ends = arrow.get_offsets().T + np.stack([arrow.U, arrow.V])
        np.testing.assert_allclose(ends, trained[:, block].reshape(2, -1))
        assert np.abs(ends).max() < ax.get_xlim()[1]
    assert [image.norm(block) for block in (1, 2, 3)] == [0, 1, 2]


def test_only_trained_models_of_one_setting_that_did_not_diverge_are_averaged():
    axes = {"position": ("none", "learned"), "patch": (2, 4)}
    made = synthetic_results.make(axes, range(4), survives=lambda c: (c.position, c.seed) != ("learned", 0))
    (drawing,) = encodings(synthetic_results.untrained(made))
    assert drawing.caption.startswith("Grid of 4 × 4 patches.")
    assert drawing.caption.endswith("From 3 trained models, averaged: learned.")
    assert (drawing.facts["encodings_models_learned"], drawing.facts["encodings_seed_learned"]) == (3, 1)


def test_a_formula_needs_no_run():
    (drawing,) = encodings(study("none", "learned", "rope", missing=lambda config: config.position == "rope"))
    assert titles(drawing.figure) == ["learned", "rope"]


def test_what_cannot_be_drawn_is_named():
    (drawing,) = encodings(study("none", "rope", "relative-bias", "cpe", trained=False))
    assert titles(drawing.figure) == ["rope"]
    assert drawing.caption.endswith("From formulas: rope. Not drawn: relative-bias, cpe.")
    assert encodings(study("none", "relative-bias", trained=False)) == []
    assert encodings(study("rope")) == []


OWN = """
from dataclasses import dataclass
from vit.positions import Position, TokenHook

class Half(TokenHook):
    def forward(self, tokens):
        tokens[:, :, ::2] += 1

@dataclass(frozen=True)
class Mine(Position):
    description = "mine"
    def token_hook(self, config, workspace):
        return Half()

@dataclass(frozen=True)
class Broken(Position):
    description = "broken"
    def token_hook(self, config, workspace):
        raise RuntimeError("on purpose")

@dataclass(frozen=True)
class Undeclared(Position):
    description = "undeclared"
    def declare(self, config):
        raise RuntimeError("on purpose")
"""


def test_an_encoding_in_a_file_is_measured_like_any_other_or_named(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    own = (standard_position(f"{file}:{name}") for name in ("Mine", "Broken", "Undeclared"))
    gone = f"{tmp_path}/gone.py:Gone@0123456789ab"
    (drawing,) = encodings(study("none", *own, standard_position(f"learned+{file}:Undeclared"), gone, trained=False))
    assert titles(drawing.figure) == ["Mine"]
    assert drawing.caption.endswith(
        "From formulas: Mine. Not drawn: "
        "Broken, Undeclared, Undeclared in Undeclared+learned, learned in Undeclared+learned, Gone."
    )


def test_the_first_heads_are_drawn_and_every_number_is_in_a_table(tmp_path):
    results = study("none", "alibi-2d", "relative-bias", "rope-mixed", base=RunConfig(heads=8))
    folder = write_report(results, tmp_path)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"The first {COLUMNS} of 8 heads are drawn." in text
    assert unfounded(text, folder) == []
    drawn = {drawing.name: titles(drawing.figure) for drawing in encodings(results)}
    assert drawn["encodings_scores"] == [
        f"{name}\nhead {head}" for name in ("alibi-2d", "relative-bias") for head in range(1, COLUMNS + 1)
    ]
