"""Each encoding against the formula that defines it, element by element."""

import cmath
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.small import POOLS, POSITIONS, build, config, distance, scrambled
from vit import ConfigError, ViTConfig, get_ops
from vit.parameters import Layout, Views
from vit.positions import POSITIONS as REGISTRY
from vit.positions import Position

OPS = get_ops("numpy", dtype="float64")


def position(config: ViTConfig, runs: int = 1) -> tuple[Position, Views, Views]:
    """An encoding with random parameters, its parameters and its gradients."""
    kind = REGISTRY[config.position]
    layout = Layout(kind.declare(config))
    rng = np.random.default_rng(0)
    parameters, gradients = (Views(layout, rng.normal(size=(runs, layout.size))) for _ in range(2))
    return kind(config, OPS, parameters, gradients), parameters, gradients


def turned(qkv: np.ndarray, config: ViTConfig) -> np.ndarray:
    """What rotation makes of unbiased projections (R, B, T, 3, H, K), at scale one."""
    qkv = qkv.copy()
    position(config)[0].rotate_queries_keys(qkv, np.zeros((len(qkv), 3 * config.width)), 1.0)
    return qkv


def test_the_registry_holds_the_four_with_a_line_each() -> None:
    assert tuple(REGISTRY) == POSITIONS
    for kind in REGISTRY.values():
        assert 10 < len(kind.description) < 80
        assert "\n" not in kind.description


@pytest.mark.parametrize(("grid", "width"), [(2, 4), (3, 24), (4, 8), (5, 16)])
def test_sinusoidal_table(grid: int, width: int) -> None:
    tokens = np.zeros((1, 1, grid * grid, width))
    position(config(image_size=grid, patch_size=1, width=width, position="sinusoidal"))[0].add_to_tokens(tokens)
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
    position(small, runs=2)[0].rotate_queries_keys(result, bias.reshape(2, -1), 0.25)
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
    before = np.random.default_rng(0).normal(size=(2, 3, 2, 17, 17))
    after = before.copy()
    position(config(position=name, pool="cls"), runs=2)[0].add_to_scores(after)
    assert np.array_equal(before, after)


@pytest.mark.parametrize("name", ["none", "rope"])
def test_none_and_rope_add_nothing_to_tokens(name: str) -> None:
    tokens = np.zeros((1, 2, 16, 16))
    position(config(position=name))[0].add_to_tokens(tokens)
    assert not tokens.any()


def test_learned_adds_its_table_and_sums_its_gradient() -> None:
    learned, parameters, gradients = position(config(position="learned"), runs=2)
    rng = np.random.default_rng(1)
    before, upstream = rng.normal(size=(2, 2, 3, 16, 16))
    after = before.copy()
    learned.add_to_tokens(after)
    for run in range(2):
        for image in range(3):
            np.testing.assert_allclose(after[run, image], before[run, image] + parameters["pos_embed"][run, 0])
    kept = upstream.copy()
    learned.add_to_tokens_backward(upstream)
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


def test_a_fusible_encoding_rotates_by_its_rotation_alone() -> None:
    """The fused attention of a GPU reads `rotation`; a hook that it does not call would be lost there."""
    with pytest.raises(TypeError, match=r"Own is fusible, so it must not override add_to_scores, rotate_queries_keys"):
        type(
            "Own",
            (Position,),
            {"description": "own", "fusible": True, "rotate_queries_keys": None, "add_to_scores": None},
        )


def test_a_rotation_is_applied_whoever_sets_it() -> None:
    rope, other = position(config(position="rope"))[0], position(config(position="none"))[0]
    other.rotation = rope.rotation
    small = config(position="rope")
    qkv = np.random.default_rng(0).normal(size=(1, 2, small.tokens, 3, small.heads, small.head_width))
    bias = np.random.default_rng(1).normal(size=(1, 3 * small.width))
    first, second = qkv.copy(), qkv.copy()
    rope.rotate_queries_keys(first, bias, 0.5)
    other.rotate_queries_keys(second, bias, 0.5)
    assert np.array_equal(first, second)
    assert not np.allclose(first[:, :, -1, 0], 0.5 * (qkv + bias.reshape(1, 1, 1, 3, small.heads, -1))[:, :, -1, 0])
