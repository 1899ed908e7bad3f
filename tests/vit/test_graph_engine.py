"""The step that a GPU runs: what is captured, what is replayed, and that it trains as the CPU does."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from tests.support.cuda_device import CpuDevice, cuda_ops
from tests.support.small import config, distance, without_key_bias, worst
from vit import ViT, get_ops, one_hot
from vit.backend.cuda.ops import CudaOps
from vit.engine import Engine
from vit.graph_engine import PLAIN, AdamWConfig, DeviceAugmentation, GraphEngine
from vit.optim import warmup_cosine

SHAPE: dict[str, Any] = {"width": 32, "heads": 2, "depth": 2}  # head width 16, which the attention kernel has
STEPS, BATCH = 5, 6


def model(ops: Any, seeds: tuple[int, ...] = (0,), **changes: Any) -> ViT:
    return ViT(config(**SHAPE | changes), ops, list(seeds))


def dataset(runs: int, images: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "images": rng.integers(0, 256, (images, 8, 8, 2), dtype=np.uint8),
        "labels": rng.integers(0, 5, images),
        "mean": rng.random((runs, 2)).astype(np.float32),
        "std": 0.2 + rng.random((runs, 2)).astype(np.float32),
        "smoothing": 0.1 * np.arange(1, runs + 1),
    }


def order_and_rates(runs: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.stack([np.random.default_rng((epoch, r)).permutation(40)[: STEPS * BATCH] for r in range(runs)])
    rates = [
        [(1 + r) * warmup_cosine(epoch * STEPS + i, 3 * STEPS, 4, 1e-2) for i in range(STEPS)] for r in range(runs)
    ]
    return order, np.array(rates)


def recorder(engine: GraphEngine) -> Any:
    device = engine.ops.device
    assert isinstance(device, CpuDevice)
    return device.recorder


def train(
    engine: GraphEngine, runs: int, epochs: int, recipe: DeviceAugmentation = PLAIN, at_once: int = STEPS
) -> list[np.ndarray]:
    data = engine.resident(**dataset(runs))
    totals = []
    for epoch in range(epochs):
        engine.start_epoch(*order_and_rates(runs, epoch))
        for start in range(0, STEPS, at_once):
            engine.train(data, recipe, min(at_once, STEPS - start), STEPS)
        totals.append(engine.totals)
    return totals


class TestAgainstTheCpu:
    @pytest.mark.parametrize("position", ["none", "learned", "sinusoidal", "rope"])
    def test_losses_and_weights_of_three_epochs(self, position: str) -> None:
        """Fifteen steps, gathered, normalised, clipped and decayed on the device, against the CPU's engine."""
        runs, training = 2, AdamWConfig(weight_decay=[0.05, 0.2], clip_norm=0.5)
        engine = GraphEngine(model(cuda_ops(), (3, 4), position=position), training, BATCH)
        totals = train(engine, runs, 3)
        data, losses = dataset(runs), np.zeros((3, runs))
        states = []
        for run, seed in enumerate((3, 4)):
            alone = model(get_ops("numpy"), (seed,), position=position)
            own = AdamWConfig(weight_decay=training.weight_decay[run], clip_norm=0.5)  # type: ignore[index]
            cpu = Engine(alone, own, BATCH, threads=1)
            normal = (data["images"] / 255 - data["mean"][run]) / data["std"][run]
            targets = one_hot(data["labels"], 5, float(data["smoothing"][run]))
            for epoch in range(3):
                order, rates = order_and_rates(runs, epoch)
                for i in range(STEPS):
                    chosen = order[run, i * BATCH : (i + 1) * BATCH]
                    images = normal[chosen][None].astype(np.float32)
                    loss = cpu.step(images, targets[chosen][None].astype(np.float32), float(rates[run, i]))
                    losses[epoch, run] += BATCH * float(loss[0])
            cpu.close()
            states.append(alone.state_dict())
        np.testing.assert_allclose([t[:, 0] for t in totals], losses, rtol=2e-5)
        for run, state in enumerate(states):
            ours = engine.model.state_dict(run)
            assert worst(without_key_bias(ours), without_key_bias(state)) < 2e-3

    def test_right_answers_are_counted(self) -> None:
        engine = GraphEngine(model(cuda_ops()), AdamWConfig(learning_rate=0), BATCH)
        data = engine.resident(**dataset(1))
        order, rates = order_and_rates(1, 0)
        engine.start_epoch(order, 0 * rates)
        engine.train(data, PLAIN, STEPS, STEPS)
        right = engine.evaluate(data, order).argmax(axis=-1) == dataset(1)["labels"][order]
        assert engine.totals[0, 1] == right.sum()

    def test_bf16_stays_near_float32(self) -> None:
        engines = [GraphEngine(model(cuda_ops(p), (1, 2)), AdamWConfig(), BATCH) for p in ("float32", "bf16")]
        float32, bf16 = (train(engine, 2, 2) for engine in engines)
        np.testing.assert_allclose([t[:, 0] for t in bf16], [t[:, 0] for t in float32], rtol=2e-2)
        assert not np.array_equal(bf16, float32)


class TestStacks:
    @pytest.mark.parametrize("precision", ["float32", "bf16"])
    def test_three_runs_are_three_times_one(self, precision: str) -> None:
        together = GraphEngine(model(cuda_ops(precision), (5, 6, 7), dropout=0.2), AdamWConfig(), BATCH)
        data, totals = dataset(3), train(together, 3, 2, DeviceAugmentation(1, True))
        for run, seed in enumerate((5, 6, 7)):
            alone = GraphEngine(model(cuda_ops(precision), (seed,), dropout=0.2), AdamWConfig(), BATCH)
            parts = [data[name][[run]] for name in ("mean", "std", "smoothing")]
            own = alone.resident(data["images"], data["labels"], *parts)
            for epoch in range(2):
                order, rates = order_and_rates(3, epoch)
                alone.start_epoch(order[[run]], rates[[run]])
                alone.train(own, DeviceAugmentation(1, True), STEPS, STEPS)
                np.testing.assert_allclose(alone.totals[0], totals[epoch][run], rtol=1e-6)
            difference = worst(
                without_key_bias(together.model.state_dict(run)), without_key_bias(alone.model.state_dict())
            )
            assert difference < 1e-5

    def test_a_run_alone_may_rest(self) -> None:
        """A rate of 0 leaves its weights alone but for nothing, not even decay."""
        engine = GraphEngine(model(cuda_ops(), (5, 6)), AdamWConfig(weight_decay=0.5), BATCH)
        before = engine.model.parameters.flat.copy()
        order, rates = order_and_rates(2, 0)
        rates[1] = 0
        engine.start_epoch(order, rates)
        engine.train(engine.resident(**dataset(2)), PLAIN, STEPS, STEPS)
        assert np.array_equal(engine.model.parameters.flat[1], before[1])
        assert not np.array_equal(engine.model.parameters.flat[0], before[0])


class TestCapture:
    def test_the_first_step_runs_the_second_is_captured_the_others_replay(self) -> None:
        engine = GraphEngine(model(cuda_ops()), AdamWConfig(), BATCH)
        data = engine.resident(**dataset(1))
        engine.start_epoch(*order_and_rates(1, 0))
        seen = []
        for _ in range(4):
            engine.train(data, PLAIN, 1, STEPS)
            seen.append((recorder(engine).captures, recorder(engine).replays))
        assert seen == [(0, 0), (1, 1), (1, 2), (1, 3)]

    def test_other_epochs_rates_and_orders_are_not_captured_again(self) -> None:
        engine = GraphEngine(model(cuda_ops()), AdamWConfig(), BATCH)
        train(engine, 1, 3)
        assert recorder(engine).captures == 1
        assert recorder(engine).replays == 3 * STEPS - 1

    def test_another_recipe_or_data_set_is_a_graph_of_its_own(self) -> None:
        engine = GraphEngine(model(cuda_ops()), AdamWConfig(), BATCH)
        train(engine, 1, 1)
        train(engine, 1, 1)
        assert recorder(engine).captures == 2
        train(engine, 1, 1, DeviceAugmentation(flip=True))
        assert recorder(engine).captures == 3

    def test_replays_give_the_bits_of_steps_that_run_as_they_are(self) -> None:
        def uncaptured(ops: CudaOps) -> GraphEngine:
            engine = GraphEngine(model(ops, (1, 2), dropout=0.1, pool="cls"), AdamWConfig(), BATCH, ema=0.9)
            engine._run = lambda key, work, *kept: work()  # type: ignore[method-assign]
            return engine

        captured = GraphEngine(model(cuda_ops("bf16"), (1, 2), dropout=0.1, pool="cls"), AdamWConfig(), BATCH, ema=0.9)
        plain = uncaptured(cuda_ops("bf16"))
        assert np.array_equal(train(captured, 2, 2), train(plain, 2, 2))
        assert recorder(plain).captures == 0
        for name in ("parameters", "first", "second", "average", "copy"):
            assert np.array_equal(getattr(captured.optimizer, name), getattr(plain.optimizer, name)), name

    def test_the_number_of_steps_at_once_changes_nothing(self) -> None:
        engines = [GraphEngine(model(cuda_ops()), AdamWConfig(), BATCH) for _ in range(2)]
        assert np.array_equal(train(engines[0], 1, 2, at_once=5), train(engines[1], 1, 2, at_once=2))
        assert np.array_equal(engines[0].model.parameters.flat, engines[1].model.parameters.flat)

    def test_evaluation_has_a_graph_for_each_number_of_images(self) -> None:
        engine = GraphEngine(model(cuda_ops()), AdamWConfig(), BATCH)
        data = engine.resident(**dataset(1))
        order = np.arange(2 * BATCH + 1)[None]  # two full batches and one image
        first = engine.evaluate(data, order).copy()
        assert recorder(engine).captures == 1  # the full batches; the single image ran once
        assert np.array_equal(engine.evaluate(data, order), first)
        assert recorder(engine).captures == 2
        normal = (dataset(1)["images"] / 255 - dataset(1)["mean"][0]) / dataset(1)["std"][0]
        images = normal[order].astype(np.float32)
        assert distance(first, engine.logits(images)) < 1e-6
        assert distance(first, model(get_ops("numpy", "float64")).forward(images)) < 1e-4

    def test_logits_of_images_that_the_device_has_already(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Batches of them are views with gaps between the runs."""
        engine = GraphEngine(model(cuda_ops(), (1, 2)), AdamWConfig(), BATCH)
        images = np.random.default_rng(0).normal(size=(2, 2 * BATCH + 1, 8, 8, 2)).astype(np.float32)
        expected = engine.logits(images).copy()
        given: list[np.ndarray] = []
        load = engine.evaluated.load
        monkeypatch.setattr(engine.ops, "asarray", lambda array: array)  # as CuPy's does with an array of its own
        monkeypatch.setattr(engine.evaluated, "load", lambda part: (given.append(part), load(part)))
        assert np.array_equal(engine.logits(images), expected)
        assert all(part.flags.c_contiguous for part in given)

    def test_arrays_of_a_graph_live_as_long_as_it_does(self) -> None:
        ops = cuda_ops()

        def capture() -> tuple[Any, Any]:
            x, weight, out = (ops.zeros((1, 4, 4)) for _ in range(3))
            return ops.capture(lambda: ops.matmul(x, weight, out=out)), weakref.ref(x)

        graph, kept = capture()
        graph._replayable.calls.clear()  # the recorder's own hold on them
        gc.collect()
        assert kept() is not None
        del graph
        gc.collect()
        assert kept() is None

    def test_a_failed_capture_leaves_the_engine_usable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = GraphEngine(model(cuda_ops()), AdamWConfig(), BATCH)
        data = engine.resident(**dataset(1))
        engine.start_epoch(*order_and_rates(1, 0))
        engine.train(data, PLAIN, 1, STEPS)
        with monkeypatch.context() as broken:
            broken.setattr(engine.optimizer, "update", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.train(data, PLAIN, 1, STEPS)
        engine.train(data, PLAIN, 1, STEPS)
        assert engine.optimizer.step == int(engine.optimizer.counter[0]) == 2
