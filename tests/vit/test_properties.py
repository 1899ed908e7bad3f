"""What must hold whatever the numbers are: symmetries, independence of runs, reproducibility, results that keep."""

import itertools

import numpy as np
import pytest

from tests.support.small import (
    ENCODINGS,
    POOLS,
    batch,
    build,
    config,
    distance,
    scrambled,
    without_key_bias,
    worst,
)
from vit import ConfigError, ViT
from vit.engine import AdamWConfig, Engine
from vit.model import one_hot
from vit.workspace import Draws

TRAINING = AdamWConfig(learning_rate=0.01, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8, clip_norm=1.0)


def train(model: ViT, steps: int = 10, size: int = 13, threads: int = 1, run: int | None = None) -> np.ndarray:
    """Losses (steps, R). Run r trains on the batches of row r, or of row `run` where it is given."""
    small = model.config
    engine = Engine(model, TRAINING, batch_size=size, threads=threads)
    losses = []
    for step in range(steps):
        images, labels = batch(small, size, runs=3, seed=step, dtype=str(model.ops.dtype))
        chosen = slice(len(model.seeds)) if run is None else slice(run, run + 1)
        targets = one_hot(labels[chosen], small.classes, smoothing=0.1)
        losses.append(engine.step(images[chosen], targets, 0.01 * (step + 1) / steps))
    return np.array(losses)


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def shuffle_patches(images: np.ndarray, patch: int, order: np.ndarray) -> np.ndarray:
    runs, size, side, _, channels = images.shape
    grid = images.reshape(runs, size, side // patch, patch, side // patch, patch, channels).swapaxes(3, 4)
    patches = grid.reshape(runs, size, -1, patch, patch, channels)[:, :, order]
    return patches.reshape(grid.shape).swapaxes(3, 4).reshape(images.shape)


class TestPermutation:
    order = np.random.default_rng(5).permutation(16)

    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("position", ENCODINGS)
    def test_only_none_is_blind_to_the_order_of_patches(self, position: str, pool: str) -> None:
        small = config(position=position, pool=pool)
        model, (images, _) = scrambled(small), batch(small, 4)
        logits = model.forward(images)
        moved = distance(model.forward(shuffle_patches(images, 2, self.order)), logits)
        assert moved < 1e-12 if position == "none" else moved > 1e-3

    def test_gradients_of_none_are_blind_too(self) -> None:
        small = config(position="none", pool="cls")
        model, (images, labels) = scrambled(small), batch(small, 4)
        model.loss_and_gradients(images, labels)
        before = model.gradients(run=0)
        model.loss_and_gradients(shuffle_patches(images, 2, self.order), labels)
        after = model.gradients(run=0)
        assert np.max([np.abs(after[name] - before[name]).max() for name in before]) < 1e-13


class TestRuns:
    """R = 3 side by side equals three times R = 1."""

    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("position", ENCODINGS)
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
    def test_logits_and_gradients(self, position: str, pool: str, dtype: str, tolerance: float) -> None:
        small = config(position=position, pool=pool)
        images, labels = batch(small, 5, runs=3, dtype=dtype)
        together = scrambled(small, (3, 4, 5), dtype)
        losses = together.loss_and_gradients(images, labels)
        logits = together.forward(images)
        assert losses.shape == (3,)
        for run, seed in enumerate((3, 4, 5)):
            alone = scrambled(small, (seed,), dtype)
            own = slice(run, run + 1)
            assert losses[run] == pytest.approx(alone.loss_and_gradients(images[own], labels[own])[0], rel=tolerance)
            assert distance(logits[run], alone.forward(images[own])[0]) < tolerance
            assert worst(together.gradients(run=run), alone.gradients(run=0)) < 10 * tolerance

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 1e-4)])
    @pytest.mark.parametrize("dropout", [0.0, 0.2])
    def test_ten_steps(self, dtype: str, tolerance: float, dropout: float) -> None:
        small = config(position="learned", pool="cls", dropout=dropout, drop_path=dropout)
        together = scrambled(small, (3, 4, 5), dtype)
        losses = train(together)
        for run, seed in enumerate((3, 4, 5)):
            alone = scrambled(small, (seed,), dtype)
            assert distance(losses[:, run], train(alone, run=run)[:, 0]) < tolerance
            states = together.state_dict(run=run), alone.state_dict(run=0)
            assert worst(*map(without_key_bias, states)) < 10 * tolerance


class TestSeeds:
    def test_same_seed_other_position_same_other_weights(self) -> None:
        texts = [text for text in ENCODINGS if "half" not in text]  # which reorders rows of the saved weights
        states = {p: build(config(position=p, pool="cls"), (7,)).state_dict(run=0) for p in texts}
        for name, weights in states["none"].items():
            assert all(np.array_equal(weights, states[p][name]) for p in texts), name

    def test_a_seed_gives_its_weights_wherever_it_stands(self) -> None:
        small = config(position="learned")
        models = build(small, (1, 2)), build(small, (2, 1))
        assert same_bits(models[0].state_dict(run=0), models[1].state_dict(run=1))
        assert not np.array_equal(
            models[0].state_dict(run=0)["head.weight"], models[0].state_dict(run=1)["head.weight"]
        )

    def test_initial_values(self) -> None:
        state = build(config(width=64, position="learned", pool="cls")).state_dict(run=0)
        for name, value in state.items():
            if name.endswith("bias"):
                assert not value.any(), name
            elif "norm" in name:
                assert (value == 1).all(), name
        drawn = [v.ravel() for name, v in state.items() if not name.endswith("bias") and "norm" not in name]
        assert np.all([0.02 < np.abs(values).max() <= 0.04 for values in drawn])
        everything = np.concatenate(drawn)
        assert everything.std() == pytest.approx(0.02 * 0.87962566, rel=0.01)  # of a normal cut at two deviations
        assert abs(everything.mean()) < 2e-4
        first, second = (state[f"blocks.{i}.mlp.fc1.weight"].ravel() for i in range(2))
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


class TestReproducibility:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("size", [3, 13, 32])
    def test_threads_and_repetition_change_no_bit(self, dtype: str, size: int) -> None:
        small = config(position="rope", dropout=0.1, drop_path=0.1)
        results = []
        for threads in (1, 1, 2, 4):
            model = build(small, (0, 1, 2), dtype)
            results.append((train(model, size=size, steps=5, threads=threads), model.state_dict(run=1)))
        (losses, state), *others = results
        assert np.isfinite(losses).all()
        for other_losses, other_state in others:
            assert np.array_equal(losses, other_losses)
            assert same_bits(state, other_state)

    def test_gradients_twice(self) -> None:
        small = config(position="learned", pool="cls")
        model = scrambled(small, dtype="float32")
        images, labels = batch(small, 9, dtype="float32")
        model.loss_and_gradients(images, labels)
        first = model.gradients(run=0)
        model.loss_and_gradients(images[:, ::-1], labels)
        model.loss_and_gradients(images, labels)
        assert same_bits(first, model.gradients(run=0))


def adamw(state: dict, gradient: dict, moments: dict, step: int, rate: float) -> dict:
    """The update of Loshchilov and Hutter after clipping to a global norm of one, in plain NumPy."""
    norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
    clip = min(1.0, 1.0 / (norm + 1e-6))
    updated = {}
    for name, weights in state.items():
        m, v = moments.setdefault(name, [np.zeros_like(weights), np.zeros_like(weights)])
        m[...] = 0.9 * m + 0.1 * clip * gradient[name]
        v[...] = 0.999 * v + 0.001 * (clip * gradient[name]) ** 2
        decay = 0.05 if name.endswith("weight") and "norm" not in name else 0.0
        direction = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        updated[name] = weights - rate * decay * weights - rate * direction
    return updated


class TestEngine:
    @pytest.mark.parametrize("size", [1, 2, 7, 13, 24])
    def test_a_step_is_adamw_on_the_gradients_of_the_model(self, size: int) -> None:
        """However the batch divides into lanes."""
        small = config(position="learned", pool="cls")
        model, oracle = scrambled(small), scrambled(small)
        engine = Engine(model, TRAINING, batch_size=size, threads=2)
        moments: dict = {}
        for step in range(1, 4):
            images, labels = batch(small, size, seed=step)
            expected = oracle.loss_and_gradients(images, labels)
            actual = engine.step(images, one_hot(labels, small.classes, smoothing=0.0), 0.01)
            assert actual == pytest.approx(expected, rel=1e-11)
            oracle.load_state_dict(adamw(oracle.state_dict(run=0), oracle.gradients(run=0), moments, step, 0.01), run=0)
            states = model.state_dict(run=0), oracle.state_dict(run=0)
            assert worst(*map(without_key_bias, states)) < 1e-10

    def test_smoothed_targets(self) -> None:
        targets = one_hot(np.array([[0, 2]]), 4, smoothing=0.1)
        np.testing.assert_allclose(targets[0], [[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]], rtol=1e-6)

    def test_dropout_and_drop_path_act_in_training_only(self) -> None:
        plain, dropping = config(), config(dropout=0.5)
        paths = config(drop_path=0.5)
        images, labels = batch(plain, 8)
        targets = one_hot(labels, plain.classes, smoothing=0.0)
        losses, trained = [], []
        for small in (plain, dropping, paths):
            model = scrambled(small)
            losses.append(model.loss_and_gradients(images, labels)[0])
            gradients = model.gradients(run=0)
            if small is plain:
                expected = gradients
            assert same_bits(gradients, expected)
            trained.append(Engine(model, TRAINING, batch_size=8, threads=1).step(images, targets, 0.01)[0])
        assert losses[0] == losses[1] == losses[2]
        assert trained[0] == pytest.approx(losses[0], rel=1e-12)
        assert min(abs(trained[0] - trained[1]), abs(trained[0] - trained[2])) > 1e-3


class TestDraws:
    def test_every_seed_step_lane_and_layer_draws_its_own_and_always_the_same(self) -> None:
        places = [((seed,), step, lane, name) for seed in (0, 1) for step in (1, 2) for lane in (0, 1) for name in "ab"]
        draws = [Draws(seeds, step, lane).keep(name, (200,), 0.5)[0] for seeds, step, lane, name in places]
        again = [Draws(seeds, step, lane).keep(name, (200,), 0.5)[0] for seeds, step, lane, name in places]
        assert np.array_equal(draws, again)
        correlation = np.corrcoef(draws) - np.eye(len(draws))
        assert np.abs(correlation).max() < 0.35

    def test_what_is_kept_makes_up_for_what_is_not(self) -> None:
        keep = Draws((0, 1), 1, 0).keep("x", (100_000,), 0.2)
        assert set(np.unique(keep)) == {0.0, 1.25}
        np.testing.assert_allclose(keep.mean(axis=1), 1, atol=0.01)

    def test_each_step_of_training_drops_anew(self) -> None:
        """At learning rate 0 nothing else changes from step to step."""
        small = config(dropout=0.3)
        engine = Engine(scrambled(small), TRAINING, batch_size=4, threads=1)
        images, labels = batch(small, 4)
        targets = one_hot(labels, small.classes, smoothing=0.0)
        losses = [engine.step(images, targets, 0.0)[0] for _ in range(4)]
        assert len(set(losses)) == 4


class TestCallers:
    """What a caller passes in stays as it is; what a caller gets stays as it was."""

    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("position", ENCODINGS)
    def test_arguments_are_never_written(self, position: str, pool: str) -> None:
        small = config(position=position, pool=pool, dropout=0.1, drop_path=0.1)
        model = build(small)
        images, labels = batch(small, 5)
        targets = one_hot(labels, small.classes, smoothing=0.1)
        state = {name: value.copy() for name, value in model.state_dict(run=0).items()}
        for array in (images, labels, targets, *state.values()):
            array.flags.writeable = False
        model.load_state_dict(state, run=0)
        model.forward(images)
        model.loss_and_gradients(images, labels)
        Engine(model, TRAINING, batch_size=5, threads=1).step(images, targets, 0.01)

    def test_results_are_the_callers_own(self) -> None:
        small = config(position="learned")
        model = scrambled(small)
        images, labels = batch(small, 5)
        logits, loss = model.forward(images), model.loss_and_gradients(images, labels)
        gradients, state = model.gradients(run=0), model.state_dict(run=0)
        kept = [array.copy() for array in (logits, loss, *gradients.values(), *state.values())]
        others, other_labels = batch(small, 5, seed=1)
        model.forward(others)
        model.loss_and_gradients(others, other_labels)
        engine = Engine(model, TRAINING, batch_size=5, threads=1)
        engine.step(others, one_hot(other_labels, small.classes, smoothing=0.0), 0.1)
        for array, copy in zip((logits, loss, *gradients.values(), *state.values()), kept, strict=True):
            assert np.array_equal(array, copy)

    @pytest.mark.parametrize("sizes", list(itertools.permutations((1, 4, 7))))
    def test_any_order_of_batch_sizes(self, sizes: tuple[int, ...]) -> None:
        small = config(position="rope", pool="cls")
        images, _ = batch(small, 12)
        whole = scrambled(small).forward(images)
        model, start = scrambled(small), 0
        for size in sizes:
            part = slice(start, start + size)
            assert distance(model.forward(images[:, part]), whole[:, part]) < 1e-12
            start += size

    def test_evaluation_in_lanes_equals_forward(self) -> None:
        small = config(depth=3, pool="cls", dropout=0.1, drop_path=0.1)
        model = scrambled(small, (1, 2))
        images, _ = batch(small, 23, runs=2)
        expected = model.forward(images)
        for threads in (1, 3):
            engine = Engine(model, TRAINING, batch_size=8, threads=threads)
            assert distance(engine.logits(images), expected) < 1e-12
            engine.close()
        lean = model.network(23, training=False)
        lean.load(images)
        assert distance(lean.logits(), expected) < 1e-12

    def test_gradients_outlive_a_forward_of_any_size(self) -> None:
        small = config()
        model = scrambled(small)
        model.loss_and_gradients(*batch(small, 3))
        before = model.gradients(run=0)
        for size in (2, 50):
            model.forward(batch(small, size)[0])
            assert same_bits(model.gradients(run=0), before)

    def test_no_gradients_before_a_loss(self) -> None:
        model = scrambled(config())
        model.forward(batch(config(), 3)[0])
        with pytest.raises(RuntimeError, match="loss_and_gradients"):
            model.gradients(run=0)

    @pytest.mark.parametrize(
        "labels",
        [np.zeros((1, 3), int), np.zeros(5, int), np.zeros((2, 5), int), np.full((1, 5), 5), np.full((1, 5), -1)],
        ids=["too few", "no run axis", "too many runs", "class 5 of 0..4", "class -1"],
    )
    def test_labels_that_do_not_fit_are_refused(self, labels: np.ndarray) -> None:
        small = config()
        with pytest.raises(ConfigError, match="labels"):
            scrambled(small).loss_and_gradients(batch(small, 5)[0], labels)

    @pytest.mark.parametrize(
        "shape", [(5, 8, 8, 2), (2, 5, 8, 8, 2), (1, 5, 2, 8, 8), (1, 5, 8, 8, 3)], ids=lambda shape: str(shape)
    )
    def test_images_that_do_not_fit_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match="images"):
            scrambled(config()).forward(np.zeros(shape))

    @pytest.mark.parametrize("name", ["head.weight", "norm.bias"])
    def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(self, name: str) -> None:
        small = config()
        model, other = build(small), scrambled(small).state_dict(run=0)
        before = model.state_dict(run=0)
        missing = {key: value for key, value in other.items() if key != name}
        for bad in (missing, {**other, name: np.zeros((2, 3))}, {**missing, "stranger": other[name]}):
            with pytest.raises(ConfigError, match=f"{name}|stranger"):
                model.load_state_dict(bad, run=0)
            assert same_bits(model.state_dict(run=0), before)

    @pytest.mark.parametrize("pool", POOLS)
    def test_state_dict_there_and_back(self, pool: str) -> None:
        small = config(position="learned", pool=pool)
        source, target = scrambled(small, (1, 2)), build(small, (3, 4))
        target.load_state_dict(source.state_dict(run=0), run=1)
        assert same_bits(target.state_dict(run=1), source.state_dict(run=0))
        assert same_bits(target.state_dict(run=0), build(small, (3,)).state_dict(run=0))
        images, _ = batch(small, 3, runs=2)
        assert distance(target.forward(images[::-1])[1], source.forward(images)[0]) < 1e-12


def test_every_view_is_aligned_and_owns_its_part_of_the_row() -> None:
    model = build(config(position="learned", pool="cls", width=24, heads=3), (0, 1), "float32")
    train(model, steps=3)
    flat = model.parameters.flat
    assert flat.shape[1] % 64 == 0
    owners = np.zeros(flat.shape, dtype=int)
    for view in model.parameters.values():
        assert np.shares_memory(view, flat)
        offset = (view.__array_interface__["data"][0] - flat.__array_interface__["data"][0]) // flat.itemsize
        assert offset % 64 == 0
        owners[:, offset : offset + view[0].size] += 1
    assert owners.max() == 1
    assert 0 < np.mean(owners == 0) < 0.5
    assert not flat[owners == 0].any()  # padding stays zero through training
