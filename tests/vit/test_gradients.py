"""Every backward pass against float64 central differences, with a random upstream gradient."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.small import BOTH, ENCODINGS, POOLS, POSITIONS, batch, config, scrambled
from vit import ViT, ViTConfig, get_ops
from vit.layers import Attention, Block, Branch, Dropout, Head, LayerNorm, Linear, Mlp, PatchEmbed
from vit.parameters import Layout, Parameter, Views, zeros
from vit.positions import POSITIONS as REGISTRY
from vit.positions import BlockHook, Hooks, Position, encoding
from vit.workspace import Draws, Workspace

TOLERANCE = 1e-8
STEP = 1e-4
OFFSETS = (-2.0, -1.0, 1.0, 2.0)
STENCIL = np.array([1.0, -8.0, 8.0, -1.0]) / (12 * STEP)  # fourth-order central difference
OPS = get_ops("numpy", dtype="float64")
RUNS, IMAGES, CAPACITY = 2, 3, 4
DRAWS = Draws(seeds=(3, 4), step=5, lane=6)

Arrays = dict[str, np.ndarray]


def directions(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Two random directions and two random coordinates."""
    size = int(np.prod(shape))
    coordinates = np.zeros((2, size))
    coordinates[[0, 1], rng.choice(size, size=2, replace=size < 2)] = 1.0
    return np.concatenate([rng.normal(size=(2, *shape)), coordinates.reshape(2, *shape)])


def relative_errors(numeric: Iterable[float], gradient: np.ndarray, along: np.ndarray) -> np.ndarray:
    exact = np.array([np.sum(gradient * direction) for direction in along])
    scales = [np.linalg.norm(gradient)] * 2 + [np.abs(gradient).max()] * 2
    scales = np.maximum(scales, 1e-3)  # some gradients vanish, such as that of a bias that all scores share
    return np.abs(np.array(list(numeric)) - exact) / scales


def check(value: Callable[[], float], places: Arrays, gradients: Arrays) -> None:
    """`value` as a function of the arrays in `places`, which are moved in place and put back."""
    rng = np.random.default_rng(0)
    assert places.keys() == gradients.keys()
    for name, place in places.items():
        start, along, slopes = place.copy(), directions(place.shape, rng), []
        for direction in along:
            values = []
            for offset in OFFSETS:
                place[...] = start + STEP * offset * direction
                values.append(value())
            slopes.append(float(STENCIL @ values))
        place[...] = start
        errors = relative_errors(slopes, gradients[name], along)
        assert errors.max() < TOLERANCE, (name, errors)


def workspace(declared: list[Parameter]) -> Workspace:
    """Random parameters, and gradients full of NaN: a backward pass must overwrite them."""
    layout, none = Layout(declared), Views(Layout([]), np.empty((RUNS, 0)))
    parameters = Views(layout, np.random.default_rng(1).normal(scale=0.5, size=(RUNS, layout.size)))
    gradients = Views(layout, np.full((RUNS, layout.size), np.nan))
    return Workspace(OPS, parameters, parameters, gradients, CAPACITY, True, none, none)


def named(views: Views, *without: str) -> Arrays:
    return {name: view for name, view in views.items() if name not in without}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng((2, seed)).normal(size=(RUNS, IMAGES, *shape))


def branch_of(seed: int, *shape: int) -> Branch:
    bias = np.random.default_rng((3, seed)).normal(size=(RUNS, shape[-1]))
    return Branch(normal(seed, *shape), bias, np.full(bias.shape, np.nan))


def make_hooks(config: ViTConfig, ws: Workspace) -> Hooks:
    return encoding(config.position).hooks(config, ws)


class ScoresByHand(BlockHook):
    """A learned (H, T, T), added to the scores with array expressions."""

    def __init__(self, workspace: Workspace, config: ViTConfig, block: int) -> None:
        super().__init__(workspace, config)
        self.bias, self.dbias = (views[f"score_bias.{block}"] for views in (workspace.parameters, workspace.gradients))

    def scores(self, scores: np.ndarray, qkv: np.ndarray) -> None:
        scores += self.bias[:, None]

    def scores_backward(self, dscores: np.ndarray, qkv: np.ndarray, dqkv: np.ndarray) -> None:
        self.dbias[...] = dscores.sum(axis=1)


@dataclass(frozen=True)
class ByHand(Position):
    """An encoding with a hook of its own."""

    description = "a learned bias on every score"

    def declare(self, config: ViTConfig) -> list[Parameter]:
        shape = config.heads, config.tokens, config.tokens
        return [Parameter(f"score_bias.{i}", shape, zeros) for i in range(config.depth)]

    def block_hooks(self, config: ViTConfig, workspace: Workspace) -> list[BlockHook]:
        return [ScoresByHand(workspace, config, i) for i in range(config.depth)]


@pytest.fixture
def score_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "score_bias", ByHand)


class TestLayers:
    def test_linear(self) -> None:
        ws = workspace([Parameter("layer.weight", (5, 6), zeros), Parameter("layer.bias", (5,), zeros)])
        layer, x, upstream = Linear(ws, "layer"), normal(0, 4, 6), normal(1, 4, 5)
        layer.forward(x)
        gradients = {"x": layer.backward(upstream).copy(), **named(ws.gradients)}
        check(lambda: np.sum(layer.forward(x) * upstream), {"x": x, **named(ws.parameters)}, gradients)

    @pytest.mark.parametrize("with_branch", [False, True])
    def test_layer_norm(self, with_branch: bool) -> None:
        ws = workspace(LayerNorm.declare("norm", 8))
        layer, x, branch = LayerNorm(ws, "norm"), normal(0, 4, 8), branch_of(1, 4, 8)
        to_stream, to_normal = normal(2, 4, 8), normal(3, 4, 8)
        given = branch if with_branch else None

        def value() -> float:
            stream, normalised = layer.forward(x, given)
            return float(np.sum(stream * to_stream) + np.sum(normalised * to_normal))

        value()
        dstream = to_stream.copy()
        layer.backward(to_normal, dstream)
        places, gradients = {"x": x, **named(ws.parameters)}, {"x": dstream, **named(ws.gradients)}
        if with_branch:
            places |= {"branch": branch.value, "bias": branch.bias}
            gradients |= {"branch": dstream, "bias": branch.dbias}
        check(value, places, gradients)

    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("position", [*POSITIONS, "score_bias"])
    @pytest.mark.usefixtures("score_bias")
    def test_attention(self, position: str, pool: str) -> None:
        small = config(image_size=4, position=position, pool=pool, depth=1)
        ws = workspace(Attention.declare("attn", small) + encoding(position).declare(small))
        layer = Attention(ws, "attn", small, make_hooks(small, ws).blocks[0])
        x, upstream = normal(0, small.tokens, 16), normal(1, small.tokens, 16)
        layer.forward(x)
        outside = ("attn.proj.bias", "pos_embed")
        gradients = {"x": layer.backward(upstream).copy(), **named(ws.gradients, *outside)}
        places = {"x": x, **named(ws.parameters, *outside)}
        check(lambda: np.sum(layer.forward(x).value * upstream), places, gradients)

    @pytest.mark.parametrize("mlp_ratio", [4.0, 1.3])
    def test_mlp(self, mlp_ratio: float) -> None:
        small = config(mlp_ratio=mlp_ratio)
        ws = workspace(Mlp.declare("mlp", small))
        layer, x, upstream = Mlp(ws, "mlp"), normal(0, 4, 16), normal(1, 4, 16)
        layer.forward(x)
        gradients = {"x": layer.backward(upstream).copy(), **named(ws.gradients, "mlp.fc2.bias")}
        places = {"x": x, **named(ws.parameters, "mlp.fc2.bias")}
        check(lambda: np.sum(layer.forward(x).value * upstream), places, gradients)

    @pytest.mark.parametrize(("rate", "path_rate"), [(0.3, 0.0), (0.0, 0.5), (0.3, 0.5)])
    def test_dropout(self, rate: float, path_rate: float) -> None:
        layer = Dropout(workspace([]), "blocks.0.drop", rate, path_rate)
        x, upstream = normal(0, 4, 8), normal(1, 4, 8)
        kept = layer.forward(x, DRAWS) / x
        assert 0.2 < np.mean(kept != 0) < 0.8
        np.testing.assert_allclose(kept[kept != 0], 1 / (1 - rate) / (1 - path_rate))
        gradient = layer.backward(upstream).copy()
        check(lambda: np.sum(layer.forward(x, DRAWS) * upstream), {"x": x}, {"x": gradient})

    @pytest.mark.parametrize("draws", [None, DRAWS], ids=["plain", "dropping"])
    @pytest.mark.parametrize("position", POSITIONS)
    def test_block(self, position: str, draws: Draws | None) -> None:
        """From a stream and its pending branch to the sum of the stream and the branch that come out."""
        small = config(image_size=4, position=position, pool="cls", dropout=0.2)
        ws = workspace(Block.declare("blocks.0", small) + encoding(position).declare(small))
        block = Block(ws, "blocks.0", small, make_hooks(small, ws).blocks[0], drop_path=0.3)
        x, branch, upstream = normal(0, 5, 16), branch_of(1, 5, 16), normal(2, 5, 16)

        def value() -> float:
            stream, pending = block.forward(x, branch, draws)
            return float(np.sum((stream + pending.value + pending.bias[:, None, None]) * upstream))

        value()
        dstream = upstream.copy()
        block.backward(dstream, dstream)
        outside = ("pos_embed", "blocks.0.mlp.fc2.bias") if draws is None else ("pos_embed",)
        places = {"x": x, "branch": branch.value, "bias": branch.bias, **named(ws.parameters, *outside)}
        gradients = {"x": dstream, "branch": dstream, "bias": branch.dbias, **named(ws.gradients, *outside)}
        check(value, places, gradients)

    @pytest.mark.parametrize("draws", [None, DRAWS], ids=["plain", "dropping"])
    @pytest.mark.parametrize(("position", "pool"), BOTH)
    def test_patch_embed(self, position: str, pool: str, draws: Draws | None) -> None:
        small = config(image_size=6, position=position, pool=pool, dropout=0.3)
        ws = workspace(PatchEmbed.declare(small) + encoding(position).declare(small))
        layer = PatchEmbed(ws, small, make_hooks(small, ws).tokens)
        images, upstream = normal(0, 6, 6, 2), normal(1, small.tokens, 16)
        OPS.patchify(images, small.patch_size, out=layer.inputs(images.shape[1]))
        layer.forward(draws)
        layer.backward(upstream)
        check(lambda: np.sum(layer.forward(draws) * upstream), named(ws.parameters), named(ws.gradients))

    @pytest.mark.parametrize("pool", POOLS)
    def test_head(self, pool: str) -> None:
        small = config(pool=pool, image_size=4)
        ws = workspace(Head.declare(small))
        layer, x, branch = Head(ws, small), normal(0, small.tokens, 16), branch_of(1, small.tokens, 16)
        upstream, dstream = normal(2, 5), np.full(x.shape, np.nan)
        layer.forward(x, branch)
        layer.backward(upstream, dstream)
        places = {"x": x, "branch": branch.value, "bias": branch.bias, **named(ws.parameters)}
        gradients = {"x": dstream, "branch": dstream, "bias": branch.dbias, **named(ws.gradients)}
        check(lambda: np.sum(layer.forward(x, branch) * upstream), places, gradients)


class TestWholeModel:
    @pytest.mark.parametrize("draws", [None, DRAWS], ids=["plain", "dropping"])
    @pytest.mark.parametrize(("position", "pool"), [*BOTH, ("score_bias", "cls")])
    @pytest.mark.usefixtures("score_bias")
    def test_random_upstream(self, position: str, pool: str, draws: Draws | None) -> None:
        small = config(image_size=4, position=position, pool=pool, dropout=0.1, drop_path=0.3)
        model = scrambled(small, seeds=(3, 4))
        network = model.network(CAPACITY)
        network.workspace.gradients.flat[...] = np.nan
        images, upstream = normal(0, 4, 4, 2), normal(1, 5)
        network.load(images)
        network.logits(draws)
        network.backward(upstream)
        check(
            lambda: np.sum(network.logits(draws) * upstream),
            named(model.parameters),
            named(network.workspace.gradients),
        )

    def test_loss_with_soft_targets(self) -> None:
        logits, weights = normal(0, 5), np.abs(normal(1, 5))
        targets = weights / weights.sum(axis=-1, keepdims=True)
        losses, gradient, scratch = np.empty((RUNS, IMAGES)), np.empty_like(logits), np.empty_like(logits)
        OPS.cross_entropy(logits, targets, 0.25, losses=losses, dlogits=gradient)

        def value() -> float:
            OPS.cross_entropy(logits, targets, 0.25, losses=losses, dlogits=scratch)
            return 0.25 * float(losses.sum())

        check(value, {"x": logits}, {"x": gradient})


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits (R, B, C) and labels (B,) to the mean over B, (R,)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, np.broadcast_to(labels[:, None], (*logits.shape[:2], 1)), axis=-1)
    return np.mean(np.log(np.exp(shifted).sum(axis=-1)) - chosen[..., 0], axis=-1)


class TestPublicModel:
    """`loss_and_gradients` against a loss computed here from `forward` alone."""

    def slope(self, models: ViT, state: Arrays, name: str, along: np.ndarray, data: tuple) -> float:
        """The four runs of `models` hold the four points of the stencil."""
        images, labels = data
        for run, offset in enumerate(OFFSETS):
            models.load_state_dict({**state, name: state[name] + STEP * offset * along}, run=run)
        return float(STENCIL @ cross_entropy(models.forward(np.repeat(images, 4, axis=0)), labels[0]))

    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("position", ENCODINGS)
    def test_every_parameter(self, position: str, pool: str) -> None:
        """On a grid of 3 x 3 patches."""
        small = config(image_size=6, position=position, pool=pool)
        model, models = scrambled(small), scrambled(small, seeds=(1, 2, 3, 4))
        data = batch(small, 3)
        loss = model.loss_and_gradients(*data)
        assert loss == pytest.approx(cross_entropy(model.forward(data[0]), data[1][0]), rel=1e-12)
        gradients, state = model.gradients(run=0), model.state_dict(run=0)
        assert gradients.keys() == state.keys()
        rng = np.random.default_rng(0)
        for name, gradient in gradients.items():
            along = directions(gradient.shape, rng)
            slopes = [self.slope(models, state, name, direction, data) for direction in along]
            errors = relative_errors(slopes, gradient, along)
            assert errors.max() < TOLERANCE, (name, errors)

    @pytest.mark.parametrize("position", ["none", "rope"])
    def test_the_gradient_of_a_key_bias_vanishes_where_keys_do_not_turn(self, position: str) -> None:
        """Softmax does not see what all keys share."""
        small = config(position=position)
        model = scrambled(small)
        model.loss_and_gradients(*batch(small, 3))
        query, key, value = np.abs(model.gradients(run=0)["blocks.0.attn.qkv.bias"]).reshape(3, -1)
        assert (key.max() < 1e-14) == (position == "none")
        assert min(query.max(), value.max()) > 1e-5
