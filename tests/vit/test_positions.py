"""Each encoding against the formula that defines it, element by element."""

import cmath
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.linalg import expm, expm_frechet
from threadpoolctl import threadpool_limits

from tests.support.small import ENCODINGS, POOLS, POSITIONS, batch, build, config, distance, scrambled
from vit import ConfigError, ViT, ViTConfig
from vit.engine import AdamWConfig, Engine
from vit.model import attention_is_fusible, one_hot
from vit.positions import POSITIONS as REGISTRY
from vit.positions import BlockHook, Hooks, Position, _encoding, encoding, part_names
from vit.positions.base import patch_coordinates
from vit.positions.cpe import ConvolutionPosition
from vit.positions.exponential import exponential, exponential_gradient
from vit.positions.learned import LearnedPosition
from vit.positions.sinusoidal import sinusoidal_table
from vit.positions.tables import resize_square
from vit.workspace import Workspace


def parts(config: ViTConfig, runs: int = 1) -> tuple[Hooks, ViT, Workspace]:
    """The hooks of an encoding with random parameters, the model, and the workspace with both."""
    model = scrambled(config, seeds=tuple(range(runs)))
    model.derive()
    workspace = model.network(8).workspace
    return encoding(config.position).hooks(config, workspace), model, workspace


def turned(qkv: np.ndarray, config: ViTConfig) -> np.ndarray:
    """What the hook of the first block makes of unbiased projections (R, B, T, 3, H, K), at scale one."""
    qkv = qkv.copy()
    hooks, _, _ = parts(config, len(qkv))
    hooks.blocks[0].queries_keys(qkv, np.zeros((len(qkv), 3 * config.width)), 1.0)
    return qkv


def added_scores(config: ViTConfig, runs: int = 1) -> np.ndarray:
    """What the hook of the first block adds to the scores (R, B, H, T, T) of two images, whatever the queries."""
    scores = np.zeros((runs, 2, config.heads, config.tokens, config.tokens))
    qkv = np.zeros((runs, 2, config.tokens, 3, config.heads, config.head_width))
    parts(config, runs)[0].blocks[0].scores(scores, qkv)
    return scores


def test_every_encoding_describes_itself() -> None:
    assert tuple(REGISTRY)[:1] == ("none",)
    assert {*POSITIONS} <= {*REGISTRY}
    assert {name for text in ENCODINGS for name in part_names(text)} == {*REGISTRY}
    for name, kind in REGISTRY.items():
        assert kind.name == name
        assert 10 < len(kind.description) < 80
        assert "\n" not in kind.description
        assert kind.acts_on in ("nothing", "tokens", "block input", "queries and keys", "scores")
        assert {*kind.other_grids} <= {"extend", "interpolate", "resize", "unchanged"}
        assert (kind.source != "") == (name != "none")
        for option in fields(kind):
            assert option.metadata["meaning"]
            assert option.metadata["accepts"](option.default)


@pytest.mark.parametrize(("grid", "width"), [(2, 4), (3, 24), (4, 8), (5, 16)])
def test_sinusoidal_table(grid: int, width: int) -> None:
    tokens = np.zeros((1, 1, grid * grid, width))
    parts(config(image_size=grid, patch_size=1, width=width, position="sinusoidal"))[0].tokens.forward(tokens)
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            for i in range(quarter):
                frequency = 10000.0 ** -(i / (quarter - 1)) if i else 1.0
                x, y = column * frequency, row * frequency
                values = [math.sin(x), math.cos(x), math.sin(y), math.cos(y)]
                assert tokens[0, 0, row * grid + column, i::quarter] == pytest.approx(values, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("grid", "head_width"), [(2, 4), (3, 12), (4, 8), (5, 16)])
def test_rope_turns_pairs_of_queries_and_keys(grid: int, head_width: int, pool: str) -> None:
    heads = 2
    small = config(image_size=grid, patch_size=1, width=heads * head_width, heads=heads, position="rope", pool=pool)
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(2, 3, small.prefix + grid * grid, 3, heads, head_width))
    result, expected = turned(qkv, small), qkv.copy()
    for row in range(grid):
        for column in range(grid):
            token = small.prefix + row * grid + column
            for pair in range(head_width // 2):
                coordinate, i = (column, pair) if pair < head_width // 4 else (row, pair - head_width // 4)
                turn = cmath.rect(1.0, coordinate * 100.0 ** (-4 * i / head_width))
                before = qkv[:, :, token, :2, :, 2 * pair] + 1j * qkv[:, :, token, :2, :, 2 * pair + 1]
                expected[:, :, token, :2, :, 2 * pair] = (before * turn).real
                expected[:, :, token, :2, :, 2 * pair + 1] = (before * turn).imag
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13)
    assert np.array_equal(result[:, :, : small.prefix], qkv[:, :, : small.prefix])
    assert np.array_equal(result[:, :, :, 2], qkv[:, :, :, 2])


@pytest.mark.parametrize("name", POSITIONS)
def test_queries_are_biased_and_scaled_before_they_turn(name: str) -> None:
    small = config(position=name, pool="cls")
    rng = np.random.default_rng(0)
    qkv, bias = rng.normal(size=(2, 3, 17, 3, 2, 8)), rng.normal(size=(2, 3, 2, 8))
    result = qkv.copy()
    parts(small, runs=2)[0].blocks[0].queries_keys(result, bias.reshape(2, -1), 0.25)
    expected = qkv + bias[:, None, None]
    expected[:, :, :, 0] *= 0.25
    np.testing.assert_allclose(result, turned(expected, small), rtol=1e-12, atol=1e-13)


def scores(small: ViTConfig) -> np.ndarray:
    """Scores (N, N) of one and the same query against one and the same key, by where they stand."""
    q, k, v = np.random.default_rng(0).normal(size=(3, small.heads, small.head_width))
    qkv = turned(np.tile(np.stack([q, k, v]), (1, 1, small.grid**2, 1, 1, 1)), small)
    return np.einsum("nhk,mhk->nm", qkv[0, 0, :, 0], qkv[0, 0, :, 1])


def test_rope_scores_depend_on_displacement_only() -> None:
    small = config(image_size=6, patch_size=1, width=24, position="rope")
    by_displacement: dict[tuple[int, int], list[float]] = {}
    for (query, key), score in np.ndenumerate(scores(small)):
        displacement = key // 6 - query // 6, key % 6 - query % 6
        by_displacement.setdefault(displacement, []).append(score)
    assert len(by_displacement) == 11 * 11
    assert max(max(values) - min(values) for values in by_displacement.values()) < 1e-12
    distinct = sorted(values[0] for values in by_displacement.values())
    assert np.diff(distinct).min() > 1e-6


@pytest.mark.parametrize("name", ["none", "learned", "sinusoidal"])
def test_the_others_do_not_turn(name: str) -> None:
    assert np.ptp(scores(config(position=name))) < 1e-13


@pytest.mark.parametrize("name", POSITIONS)
def test_no_encoding_of_the_four_touches_scores(name: str) -> None:
    assert not added_scores(config(position=name, pool="cls"), runs=2).any()


@pytest.mark.parametrize("name", ["none", "rope"])
def test_none_and_rope_add_nothing_to_tokens(name: str) -> None:
    tokens = np.zeros((1, 2, 16, 16))
    parts(config(position=name))[0].tokens.forward(tokens)
    assert not tokens.any()


def test_learned_adds_its_table_and_sums_its_gradient() -> None:
    hooks, _, workspace = parts(config(position="learned"), runs=2)
    learned, parameters, gradients = hooks.tokens, workspace.parameters, workspace.gradients
    rng = np.random.default_rng(1)
    before, upstream = rng.normal(size=(2, 2, 3, 16, 16))
    after = before.copy()
    learned.forward(after)
    for run in range(2):
        for image in range(3):
            np.testing.assert_allclose(after[run, image], before[run, image] + parameters["pos_embed"][run, 0])
    kept = upstream.copy()
    learned.backward(upstream)
    assert np.array_equal(upstream, kept)
    np.testing.assert_allclose(gradients["pos_embed"][:, 0], kept[:, 0] + kept[:, 1] + kept[:, 2], rtol=1e-13)


@pytest.fixture
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "golden" / "resize.npz") as arrays:
        return dict(arrays)


class TestResize:
    """Loading a learned table of another grid of patches."""

    def loaded(self, table: np.ndarray, grid: int) -> np.ndarray:
        fields: dict[str, Any] = {
            "patch_size": 1,
            "width": table.shape[-1],
            "position": "learned",
            "pool": "cls",
        }
        source = scrambled(config(image_size=4, **fields))
        target = build(config(image_size=grid, **fields))
        state = {**source.state_dict(run=0), "pos_embed": table}
        target.load_state_dict(state, run=0)
        for name, value in target.state_dict(run=0).items():
            assert name == "pos_embed" or np.array_equal(value, state[name])
        return target.state_dict(run=0)["pos_embed"]

    @pytest.mark.parametrize("grid", [3, 6])
    def test_equals_pytorch(self, golden: dict[str, np.ndarray], grid: int) -> None:
        assert distance(self.loaded(golden["table"], grid), golden[f"to_{grid}"]) < 1e-9

    def test_the_same_grid_changes_no_bit(self, golden: dict[str, np.ndarray]) -> None:
        assert np.array_equal(self.loaded(golden["table"], 4), golden["table"])

    @pytest.mark.parametrize("grid", [1, 2, 5, 9])
    def test_keeps_a_constant_table(self, grid: int) -> None:
        np.testing.assert_allclose(self.loaded(np.full((1, 16, 8), 0.7), grid), np.full((1, grid**2, 8), 0.7))

    def test_keeps_rows_and_columns_apart(self) -> None:
        """A table that depends on the column alone still does, and is not transposed."""
        table = np.tile(np.arange(4.0)[None, :, None], (4, 1, 8)).reshape(1, 16, 8)
        resized = self.loaded(table, 6).reshape(6, 6, 8)
        assert np.ptp(resized, axis=0).max() < 1e-12
        assert (np.diff(resized[0, :, 0]) > 0.3).all()

    def test_refuses_what_is_no_square(self) -> None:
        with pytest.raises(ConfigError, match=r"pos_embed.*15"):
            self.loaded(np.zeros((1, 15, 8)), 4)


class TestFusedAttention:
    """A GPU fuses attention where only the rotation and the bias of the scores change it."""

    @pytest.mark.parametrize("name", ENCODINGS)
    def test_is_found_from_the_hooks(self, name: str) -> None:
        assert attention_is_fusible(config(position=name)) == (not {"lie-rope", "relative-keys"} & {*part_names(name)})

    def test_an_override_prevents_it(self) -> None:
        hooks, _, workspace = parts(config(position="rope"))
        small = config(position="rope")
        assert hooks.blocks[0].fusible
        for name in ("queries_keys", "scores"):
            kind = type("Own", (BlockHook,), {name: lambda *arguments: None})
            assert not kind(workspace, small).fusible

    def test_two_biases_are_added_one_after_the_other(self) -> None:
        name = "alibi-2d+relative-bias"
        small = config(position=name)
        assert not attention_is_fusible(small)
        both = added_scores(small)
        first, second = (added_scores(config(position=part)) for part in ("alibi-2d", "relative-bias"))
        np.testing.assert_allclose(both, first + second, rtol=1e-12)


class TestScores:
    """Encodings of the scores depend on the displacement of two patches, and on nothing else."""

    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("distance_name", ["euclidean", "manhattan"])
    def test_alibi(self, distance_name: str, pool: str) -> None:
        small = config(image_size=3, patch_size=1, heads=4, pool=pool, position=f"alibi-2d(distance={distance_name})")
        scores = added_scores(small)
        for h, q, k in np.ndindex(4, 9, 9):
            dy, dx = q // 3 - k // 3, q % 3 - k % 3
            length = math.hypot(dx, dy) if distance_name == "euclidean" else abs(dx) + abs(dy)
            found = scores[0, 1, h, small.prefix + q, small.prefix + k]
            assert found == pytest.approx(-(2.0 ** (-2 * (h + 1))) * length, rel=1e-14)
        if small.prefix:
            assert not scores[..., 0, :].any()
            assert not scores[..., :, 0].any()

    @pytest.mark.parametrize("pool", POOLS)
    def test_relative_bias_is_a_look_up(self, pool: str) -> None:
        small = config(image_size=3, patch_size=1, pool=pool, position="relative-bias")
        _, model, _ = parts(small, 2)
        scores = added_scores(small, 2)
        for run, h, q, k in np.ndindex(2, 2, 9, 9):
            table = model.parameters["blocks.0.attn.rel_pos.relative_position_bias_table"][run]
            entry = (q // 3 - k // 3 + 2) * 5 + q % 3 - k % 3 + 2
            assert scores[run, 0, h, small.prefix + q, small.prefix + k] == table[entry, h]

    @pytest.mark.parametrize("name", ["relative-bias-mlp(hidden=7)", "relative-bias-mlp(hidden=7,mode=cr)"])
    def test_relative_bias_mlp_depends_on_displacement(self, name: str) -> None:
        scores = added_scores(config(image_size=4, patch_size=1, position=name))
        by_displacement: dict[tuple[int, ...], set[float]] = {}
        for h, q, k in np.ndindex(2, 16, 16):
            place = h, q // 4 - k // 4, q % 4 - k % 4
            by_displacement.setdefault(place, set()).add(scores[0, 0, h, q, k])
        assert len(by_displacement) == 2 * 49
        assert all(len(values) == 1 for values in by_displacement.values())
        assert len({min(values) for values in by_displacement.values()}) > 90


class TestRotations:
    @pytest.mark.parametrize("name", ["rope-mixed", "rope-dinov3", "rope(base=10)"])
    def test_rotary_scores_depend_on_displacement_only(self, name: str) -> None:
        table = scores(config(image_size=4, patch_size=1, position=name))
        by_displacement: dict[tuple[int, int], list[float]] = {}
        for (query, key), score in np.ndenumerate(table):
            displacement = key // 4 - query // 4, key % 4 - query % 4
            by_displacement.setdefault(displacement, []).append(score)
        assert max(max(values) - min(values) for values in by_displacement.values()) < 1e-12
        assert np.ptp([values[0] for values in by_displacement.values()]) > 0.1

    def test_lie_rope_keeps_lengths(self) -> None:
        small = config(position="lie-rope(block=4)")
        qkv = np.random.default_rng(0).normal(size=(2, 3, small.tokens, 3, small.heads, small.head_width))
        after = turned(qkv, small)
        np.testing.assert_allclose(np.linalg.norm(after, axis=-1), np.linalg.norm(qkv, axis=-1), rtol=1e-12)
        assert np.abs(after - qkv)[:, :, 1:, :2].max() > 0.1
        assert np.array_equal(after[:, :, 0], qkv[:, :, 0])  # the first patch is at the origin

    def test_initial_frequencies_of_rope_mixed(self) -> None:
        """Magnitudes of rope-vit, a direction per head, two orthogonal halves."""
        small = config(width=32, position="rope-mixed", depth=3)
        x, y = build(small, seeds=(0, 1)).parameters["rope.freqs"].swapaxes(0, 1)  # (R, depth, H, K/2)
        magnitude = np.hypot(x, y).reshape(2, 3, 2, 2, 4)
        np.testing.assert_allclose(magnitude, np.broadcast_to(10.0 ** -(np.arange(4) / 4), magnitude.shape), rtol=1e-12)
        angle = np.arctan2(y, x).reshape(2, 3, 2, 2, 4)
        assert np.ptp(angle, axis=-1).max() < 1e-12
        np.testing.assert_allclose(np.cos(angle[..., 1, :] - angle[..., 0, :]), 0, atol=1e-12)
        assert len(np.unique(angle[..., 0, 0].round(9))) == 12


class TestDinov3:
    POSITION = "rope-dinov3(shift=0.2,jitter=1.5,rescale=2)"

    def angles(self, model: ViT, step: int | None) -> np.ndarray:
        model.derive(step)
        return np.arctan2(model.tables["sin"], model.tables["cos"])[:, 0].copy()

    def test_coordinates_change_in_training_only(self) -> None:
        small = config(position=self.POSITION, width=8, heads=1)
        model = build(small, seeds=(0, 1))
        plain = self.angles(model, None)
        assert np.array_equal(plain[0], plain[1])
        hooks, _, _ = parts(config(position="rope-dinov3", width=8, heads=1))
        fixed = hooks.blocks[0].rotation
        assert fixed is not None
        np.testing.assert_allclose(model.tables["cos"][0], fixed.cos[0], rtol=1e-12)
        first, again, second = self.angles(model, 1), self.angles(model, 1), self.angles(model, 2)
        assert np.array_equal(first, again)
        assert not np.allclose(first, second)
        assert not np.allclose(first[0], first[1])

    def test_the_draws_stay_in_their_ranges(self) -> None:
        """The longest wave is slow enough to be read back: c = angle period / 2 pi."""
        small = config(position=self.POSITION, width=16, heads=1)
        model = build(small, seeds=tuple(range(200)))
        period = 100.0 ** (4 * 3 / 16)
        edge = self.angles(model, 5)[:, :, 3] * period / (2 * np.pi)  # rows, -0.75 to 0.75 without changes
        stretch = (edge[:, -1] - edge[:, 0]) / 1.5
        assert 1 / 3 < stretch.min() < 0.6
        assert 1.8 < stretch.max() < 3
        shift = (edge[:, -1] + edge[:, 0]) / 2 / stretch
        assert -0.2 < shift.min() < -0.15
        assert 0.15 < shift.max() < 0.2

    def test_a_run_trained_alone_or_in_a_stack_draws_the_same(self) -> None:
        small = config(position=self.POSITION)
        together, alone = build(small, seeds=(3, 4)), build(small, seeds=(4,))
        assert np.array_equal(self.angles(together, 7)[1], self.angles(alone, 7)[0])

    def test_half_split_pairs_are_an_order_of_rows(self) -> None:
        halves, plain = (build(config(position=f"rope-dinov3{o}"), seeds=(3,)) for o in ("(pairs=half)", ""))
        images, labels = batch(plain.config, 3)
        state = halves.state_dict()
        assert np.array_equal(halves.forward(images), plain.forward(images))
        weight, other = state["blocks.0.attn.qkv.weight"], plain.state_dict()["blocks.0.attn.qkv.weight"]
        assert np.array_equal(weight[:8], other[[0, 2, 4, 6, 1, 3, 5, 7]])
        assert np.array_equal(weight[32:], other[32:])
        halves.load_state_dict(state)
        assert np.array_equal(halves.forward(images), plain.forward(images))
        halves.loss_and_gradients(images, labels)
        plain.loss_and_gradients(images, labels)
        gradients = halves.gradients()["blocks.1.attn.qkv.bias"], plain.gradients()["blocks.1.attn.qkv.bias"]
        assert np.array_equal(gradients[0][:8], gradients[1][[0, 2, 4, 6, 1, 3, 5, 7]])


class TestSpelling:
    @pytest.mark.parametrize(
        ("given", "standard"),
        [
            ("rope(base=100)", "rope"),
            ("rope( base = 1e1 )", "rope(base=10)"),
            ("rope(coordinates=centred,base=0.5e2)", "rope(base=50,coordinates=centred)"),
            (" learned + rope ", "rope+learned"),
            ("sinusoidal+rope(base=100.0)", "rope+sinusoidal"),
            ("relative-bias(shared=false)", "relative-bias"),
            ("rope-dinov3(jitter=1.25)", "rope-dinov3(jitter=1.25)"),
            ("lie-rope(block=4,layers=own)", "lie-rope(block=4)"),
            ("learned+cpe+rope", "cpe+rope+learned"),
        ],
    )
    def test_standard_form(self, given: str, standard: str) -> None:
        assert str(encoding(given)) == standard
        assert str(encoding(standard)) == standard
        assert encoding(standard) == encoding(given)

    @pytest.mark.parametrize("name", ENCODINGS)
    def test_is_its_own_standard_form(self, name: str) -> None:
        assert str(encoding(str(encoding(name)))) == str(encoding(name))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("rop", "position must be one of none, learned, .*, or FILE.py:CLASS, got 'rop'"),
            ("", "position must be NAME or NAME.OPTION=VALUE, ...., got ''"),
            ("rope(", "position must be NAME or NAME.OPTION=VALUE"),
            ("rope(base)", "options of position rope must be OPTION=VALUE, got 'base'"),
            ("rope(base=)", "options of position rope must be OPTION=VALUE, got 'base='"),
            ("rope(base=10,base=20)", "option base of position rope must be given once"),
            (
                "rope(bas=10)",
                "options of position rope must be one of base, coordinates, got 'bas' .did you mean base",
            ),
            ("none(x=1)", "options of position none do not exist, got 'x'"),
            ("rope(base=ten)", "base of position rope must be a number above 1, got 'ten'"),
            ("rope(base=1)", "base of position rope must be a number above 1, got '1'"),
            ("rope(base=nan)", "base of position rope must be a number above 1, got 'nan'"),
            ("rope(base=inf)", "base of position rope must be a number above 1, got 'inf'"),
            ("rope(coordinates=middle)", "coordinates of position rope must be index or centred, got 'middle'"),
            ("lie-rope(block=2.5)", "block of position lie-rope must be an integer of at least 2, got '2.5'"),
            ("relative-bias(shared=yes)", "shared of position relative-bias must be true or false, got 'yes'"),
            ("none+rope", "position must not add 'none' to another encoding, got 'rope.none'"),
            ("rope+rope(base=10)", "position must not contain 'rope' twice"),
            (
                "rope+rope-mixed",
                "position must contain at most one encoding of queries and keys, got rope-mixed",
            ),
        ],
    )
    def test_a_wrong_one_is_one_clear_line(self, given: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            encoding(given)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"position": "lie-rope(block=3)"}, "block of position 'lie-rope' must divide the head width 8"),
            (
                {"position": "rope-mixed", "width": 12},
                "position 'rope-mixed', got 2, a head width of 6",
            ),
            ({"position": "rope-dinov3", "width": 12}, "multiples of 4 with position 'rope-dinov3'"),
            ({"position": "cpe", "depth": 1}, "depth must be at least 2 with position 'cpe', got 1"),
            (
                {"position": "sinusoidal-1d", "width": 15, "heads": 1},
                "width must be even",
            ),
            ({"position": "cpe+learned", "depth": 1}, "depth must be at least 2"),
        ],
    )
    def test_a_model_that_it_does_not_support(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            config(**changes)


class TestSums:
    def test_learned_and_sinusoidal_tables(self) -> None:
        """The checkpoint holds the learned table; the fixed one is computed."""
        small = config(position="sinusoidal+learned")
        hooks, model, workspace = parts(small)
        tokens = np.zeros((1, 2, 16, 16))
        hooks.tokens.forward(tokens)
        expected = workspace.parameters["pos_embed"][0, 0] + sinusoidal_table(*patch_coordinates(4), 16)
        np.testing.assert_allclose(tokens[0, 1], expected, rtol=1e-12)
        assert encoding("sinusoidal+learned").fixed_state(small) == {}
        state = model.state_dict()
        model.load_state_dict(state)
        assert np.array_equal(model.state_dict()["pos_embed"], state["pos_embed"])

    def test_parts_have_tables_of_their_own(self) -> None:
        small = config(position="rope-mixed+learned-axial")
        model = scrambled(small)
        model.derive()
        for part in ("rope-mixed", "learned-axial"):
            alone = scrambled(config(position=part))
            state = {name: value for name, value in model.state_dict().items() if name in alone.layout.parameters}
            alone.load_state_dict(state)
            alone.derive()
            for name, table in alone.tables.items():
                (found,) = (value for key, value in model.tables.items() if key.endswith(f" {name}"))
                assert np.array_equal(found, table)


class Changed(BlockHook):
    """Overrides one backward method only."""

    def queries_keys_backward(self, qkv: np.ndarray, dqkv: np.ndarray, scale: float, *, dbias: np.ndarray) -> None:
        super().queries_keys_backward(qkv, dqkv, scale, dbias=dbias)
        dqkv *= 2


@dataclass(frozen=True)
class ChangedPosition(Position):
    """Doubles the gradient of queries and keys."""

    description: ClassVar[str] = "an encoding of a test"

    def block_hooks(self, config: ViTConfig, workspace: Workspace) -> list[BlockHook]:
        return [Changed(workspace, config)] * config.depth


@dataclass(frozen=True)
class SecondConvolution(ConvolutionPosition):
    """The same buffers as `cpe`, and other parameters."""

    def _blocks(self, config: ViTConfig) -> dict[int, str]:
        return {i: f"second.{i}" for i in range(config.depth)}


class TestSumsOfAnyParts:
    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setitem(REGISTRY, "changed", ChangedPosition)
        monkeypatch.setitem(REGISTRY, "second", SecondConvolution)
        yield
        _encoding.cache_clear()

    def legal_pairs(self) -> list[str]:
        names = [name for name in REGISTRY if name not in ("none", "changed", "second")]
        turning = {name for name in names if REGISTRY[name].acts_on == "queries and keys"}
        return [f"{a}+{b}" for a, b in combinations(names, 2) if not {a, b} <= turning]

    def test_every_pair_trains(self) -> None:
        """One step of each, captured; a replay that differs from the direct pass is an error."""
        pairs = self.legal_pairs()
        assert len(pairs) > 60
        for name in pairs:
            small = config(image_size=6, position=name, width=32, heads=2)
            engine = Engine(build(small), AdamWConfig(), 4, threads=1)
            images, labels = batch(small, 4)
            losses = [engine.step(images, one_hot(labels, 5), 0.01)[0] for _ in range(2)]
            assert np.isfinite(losses).all(), name
            assert losses[0] != losses[1], name
            assert engine.lanes[0].tapes, name

    def test_a_backward_override_alone_counts(self) -> None:
        """It is not fused on a GPU, and it acts in a sum as it does alone."""
        assert not attention_is_fusible(config(position="changed"))
        gradients = {}
        for name in ("learned", "changed+learned"):
            model = scrambled(config(position=name, depth=1))
            model.loss_and_gradients(*batch(model.config, 3))
            gradients[name] = np.split(model.gradients()["blocks.0.attn.qkv.weight"], 3)[0]
        np.testing.assert_allclose(gradients["changed+learned"], 2 * gradients["learned"], rtol=1e-12)

    def test_parts_do_not_share_buffers(self) -> None:
        """Two convolutions before each block: their gradients are those of central differences."""
        model = scrambled(config(image_size=6, position="second(where=each)+cpe(where=each)"))
        images, labels = batch(model.config, 3)
        model.loss_and_gradients(images, labels)
        gradients, state = model.gradients(), model.state_dict()
        for name in ("pos_block.1.proj.0.weight", "second.1.weight", "second.0.bias"):
            direction, losses = np.random.default_rng(0).normal(size=state[name].shape), []
            for offset in (1e-5, -1e-5):
                model.load_state_dict({**state, name: state[name] + offset * direction})
                losses.append(model.loss_and_gradients(images, labels)[0])
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(np.sum(gradients[name] * direction), rel=1e-6), name

    def test_parameters_of_the_same_name_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        twin = dataclass(frozen=True)(type("Twin", (LearnedPosition,), {"description": "the same table again"}))
        monkeypatch.setitem(REGISTRY, "twin", twin)
        with pytest.raises(ConfigError, match="names of parameters must differ, got two of pos_embed"):
            build(config(position="twin+learned"))

    def test_two_fixed_tables_are_exported_as_their_sum(self) -> None:
        small = config(position="sinusoidal+sinusoidal-1d")
        tables = [encoding(name).fixed_state(small)["pos_embed"] for name in ("sinusoidal", "sinusoidal-1d")]
        np.testing.assert_allclose(encoding(small.position).fixed_state(small)["pos_embed"], sum(tables), rtol=1e-6)

    def test_a_class_that_overrides_hooks_is_refused(self) -> None:
        with pytest.raises(TypeError, match="Own must override token_hook and block_hooks, not hooks"):
            type("Own", (Position,), {"description": "own", "hooks": None})

    def test_other_grids_are_among_four_words(self) -> None:
        with pytest.raises(TypeError, match=r"Own.other_grids must be among extend, interpolate, resize, unchanged"):
            type("Own", (Position,), {"description": "own", "other_grids": "stretch"})

    def test_a_wrong_number_of_hooks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ChangedPosition, "block_hooks", lambda self, config, workspace: [])
        with pytest.raises(ConfigError, match="position 'changed' must return one hook for each of 2 blocks, got 0"):
            build(config(position="changed")).network(1)


@pytest.mark.parametrize(
    "name", ["rope-dinov3(pairs=half)", "learned-axial", "relative-keys", "relative-bias", "learned"]
)
def test_arrays_of_a_wrong_rank_are_refused_in_one_line(name: str) -> None:
    model = build(config(position=name))
    for key, value in model.state_dict().items():
        if "pos" in key or "qkv" in key:
            with pytest.raises(ConfigError, match=f"{key} must have the shape"):
                model.load_state_dict({**model.state_dict(), key: value.ravel()[:5]})


def test_tables_have_the_same_bits_for_any_number_of_blas_threads() -> None:
    """Products of tables are computed with one thread, as those of lanes are."""
    small = config(position="relative-bias-mlp(hidden=2000)", heads=4, width=32)
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            model = build(small, dtype="float32")
            images, labels = batch(small, 6, dtype="float32")
            engine = Engine(model, AdamWConfig(), 6, threads=1)
            for _ in range(3):
                engine.step(images, one_hot(labels, 5).astype("float32"), 0.01)
            results.append(model.parameters.flat.copy())
    assert np.array_equal(*results)


class TestOtherGrids:
    """A model trained on 4 x 4 patches serves 6 x 6 and 3 x 3."""

    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("name", ENCODINGS)
    @pytest.mark.parametrize("grid", [3, 6])
    def test_the_state_is_adapted(self, name: str, pool: str, grid: int) -> None:
        small, other = (config(image_size=2 * g, position=name, pool=pool) for g in (4, grid))
        model, adapted = scrambled(small), build(other)
        state = model.state_dict()
        adapted.load_state_dict(state)
        images, _ = batch(other, 2)
        assert np.isfinite(adapted.forward(images)).all()
        tables = ("pos_embed", "relative_position_bias_table", "attn.rel_pos")
        for key, value in adapted.state_dict().items():
            if not any(table in key for table in tables):
                assert np.array_equal(value, state[key]), key

    def test_relative_keys_are_resized_by_displacement(self) -> None:
        """Vectors that are linear in the displacement stay so, away from the edges; zero displacement stays zero."""
        name = "blocks.0.attn.rel_pos"
        model, adapted = build(config(position="relative-keys")), build(config(image_size=14, position="relative-keys"))
        ramp = np.broadcast_to(np.arange(-3.0, 4)[None, :, None], (2, 7, 8))
        adapted.load_state_dict({**model.state_dict(), name: ramp})
        found = adapted.state_dict()[name]
        assert np.abs(found[:, 6]).max() < 1e-12
        np.testing.assert_allclose(np.diff(found[0, 3:10, 0]), 7 / 13, rtol=1e-12)

    def test_a_bias_table_is_resized_as_torch_does(self, golden: dict[str, np.ndarray]) -> None:
        """The golden table is for 4 x 4 tokens; displacements of a 3 x 3 grid are 5 x 5, resized to 3 x 3."""
        name = "blocks.0.attn.rel_pos.relative_position_bias_table"
        small, other = (config(image_size=2 * g, pool="cls", position="relative-bias") for g in (3, 2))
        model, adapted = scrambled(small), build(other)
        state = model.state_dict()
        adapted.load_state_dict(state)
        found = adapted.state_dict()[name]
        assert found.shape == (9 + 3, 2)
        assert np.array_equal(found[9:], state[name][25:])
        np.testing.assert_allclose(found[:9], resize_square(state[name][:25], 3), rtol=1e-12)
        assert distance(resize_square(golden["table"][0], 6), golden["to_6"][0]) < 1e-9

    def served(self, name: str, way: str | None, grid: int = 6) -> ViT:
        """A model of a 4 x 4 grid that serves another grid."""
        small = config(position=name, width=32, heads=2)
        other = config(image_size=2 * grid, position=name, width=32, heads=2, trained_grid=4, other_grid=way)
        model = build(other)
        model.load_state_dict(scrambled(small).state_dict())
        model.derive()
        return model

    def rotation(self, model: ViT) -> np.ndarray:
        hooks = encoding(model.config.position).hooks(model.config, model.network(1).workspace)
        rotation = hooks.blocks[0].rotation
        assert rotation is not None
        return np.arctan2(rotation.sin, rotation.cos)[0]

    @pytest.mark.parametrize("name", ["rope(base=10000)", "rope-mixed(base=10000)"])
    def test_rope_extends_or_interpolates(self, name: str) -> None:
        """Slow pairs, whose angles are below pi: coordinates 0 to 5, or the centres of 6 patches among those of 4."""
        extended, squeezed = (self.rotation(self.served(name, way))[..., -1] for way in ("extend", "interpolate"))
        if name.startswith("rope("):
            frequency = 10000.0 ** (-3 / 4)
            rows = np.repeat(np.arange(6), 6)
            np.testing.assert_allclose(extended[0], rows * frequency, rtol=1e-12)
            np.testing.assert_allclose(squeezed[0], ((rows + 0.5) * 4 / 6 - 0.5) * frequency, rtol=1e-12)
        slope = np.linalg.lstsq(np.c_[np.ones(36), np.arange(36) % 6, np.arange(36) // 6], extended.T, rcond=None)[0]
        other = np.linalg.lstsq(np.c_[np.ones(36), np.arange(36) % 6, np.arange(36) // 6], squeezed.T, rcond=None)[0]
        np.testing.assert_allclose(other[1:], slope[1:] * 4 / 6, rtol=1e-9, atol=1e-15)

    @pytest.mark.parametrize("name", ["rope", "rope-mixed", "sinusoidal", "alibi-2d"])
    def test_extended_equals_a_model_of_that_grid(self, name: str) -> None:
        """With the same weights, to the last bit."""
        extended = self.served(name, "extend", 8)
        plain = build(config(image_size=16, position=name, width=32, heads=2))
        plain.load_state_dict(extended.state_dict())
        images, _ = batch(plain.config, 2)
        assert np.array_equal(extended.forward(images), plain.forward(images))

    @pytest.mark.parametrize("name", ["sinusoidal", "sinusoidal-1d"])
    def test_fixed_tables(self, name: str) -> None:
        """Resized as a learned table is; or the formula at the places of the patches in the trained grid."""

        def table(model: ViT) -> np.ndarray:
            tokens = np.zeros((1, 1, model.config.patches, 32))
            encoding(name).hooks(model.config, model.network(1).workspace).tokens.forward(tokens)
            return tokens[0, 0]

        trained = table(build(config(position=name, width=32, heads=2)))
        np.testing.assert_allclose(table(self.served(name, "resize")), resize_square(trained, 6), rtol=1e-12)
        squeezed = table(self.served(name, "interpolate", 12))  # whose patch 3 i + 1 is at the centre of patch i
        at = (3 * np.arange(4) + 1)[:, None] * 12 + 3 * np.arange(4) + 1
        np.testing.assert_allclose(squeezed[at.ravel()], trained, rtol=1e-9, atol=1e-12)

    def test_dinov3_and_lie_rope_normalise_or_extend(self) -> None:
        small = config(position="rope-dinov3", width=32, heads=2)
        trained = self.rotation(build(small))
        same = self.rotation(self.served("rope-dinov3", "interpolate", 12))
        at = ((3 * np.arange(4) + 1)[:, None] * 12 + 3 * np.arange(4) + 1).ravel()
        np.testing.assert_allclose(same[:, at], trained, rtol=1e-9, atol=1e-12)
        extended = self.rotation(self.served("rope-dinov3", "extend", 6))
        inner = (np.arange(1, 5)[:, None] * 6 + np.arange(1, 5)).ravel()  # the middle of the larger image
        np.testing.assert_allclose(extended[:, inner], trained, rtol=1e-9, atol=1e-12)
        lie = self.served("lie-rope", "extend", 6).tables["matrices"][0]
        first = scrambled(config(position="lie-rope", width=32, heads=2))
        first.derive()
        at = (np.arange(4)[:, None] * 6 + np.arange(4)).ravel()
        np.testing.assert_allclose(lie[:, :, at], first.tables["matrices"][0], atol=1e-10)

    def test_relative_bias_mlp(self) -> None:
        """Interpolating, the largest displacement stays the largest; extending, a displacement keeps its bias."""
        name = "relative-bias-mlp(hidden=5)"
        first = scrambled(config(position=name, width=32, heads=2))
        first.derive()
        bias = first.tables["bias"][0, 0]
        extended, squeezed = (self.served(name, way, 7).tables["bias"][0, 0] for way in ("extend", "interpolate"))
        assert extended[0, 0, 2 * 7 + 3] == pytest.approx(bias[0, 0, 2 * 4 + 3], rel=1e-12)
        assert squeezed[0, 0, 48] == pytest.approx(bias[0, 0, 15], rel=1e-12)
        assert squeezed[0, 0, 2 * 7 + 2] == pytest.approx(bias[0, 0, 1 * 4 + 1], rel=1e-12)  # 2 of 6 is 1 of 3

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"trained_grid": 0}, "trained_grid must be an integer of at least 1, got 0"),
            ({"other_grid": "resize"}, "other_grid must be extend or interpolate with position 'rope', got 'resize'"),
            ({"position": "rope+learned", "other_grid": "stretch", "trained_grid": 4}, "must be extend or interpolate"),
            ({"other_grid": "extend"}, "other_grid must be given together with trained_grid, got 'extend' alone"),
        ],
    )
    def test_bad_fields(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            config(**{"position": "rope", **fields})


@pytest.mark.parametrize("size", [2, 3, 8, 17])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponentials_of_skew_matrices(size: int, dtype: str) -> None:
    """The kernel, and the eigenvectors that other array modules use, against SciPy; large, zero and tiny matrices."""
    rng = np.random.default_rng(size)
    triangle = np.triu(rng.uniform(0, 2 * np.pi, (2, 4, size, size)), 1) * [[[[1.0]], [[0.0]], [[1e-6]], [[30.0]]]]
    skew, upstream = (triangle - triangle.swapaxes(-1, -2)).astype(dtype), rng.normal(size=triangle.shape).astype(dtype)
    other = SimpleNamespace(linalg=np.linalg, exp=np.exp, matmul=np.matmul, sinc=np.sinc)
    expected = np.array([[expm(matrix.astype(float)) for matrix in row] for row in skew])
    pairs = zip(skew.reshape(-1, size, size), upstream.reshape(-1, size, size), strict=True)
    gradient = np.array([expm_frechet(s.T.astype(float), g.astype(float), compute_expm=False) for s, g in pairs])
    for xp in (np, other):
        out = np.empty_like(skew)
        exponential(xp, skew, out)
        found = exponential_gradient(xp, skew, upstream)
        tolerance = 1e-10 if dtype == "float64" else 1e-4
        assert np.abs(out - expected).max() < tolerance
        assert np.abs(found.reshape(gradient.shape) - gradient).max() < 10 * tolerance
