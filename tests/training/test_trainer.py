"""One config to one record: reproducible, honest about the test set, and every field does what it says."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from ablations.config import RunConfig, vit_config
from ablations.data import Dataset, load, split, subset
from ablations.data.loader import DataLoader
from ablations.errors import VitabError
from ablations.storage import RunRecord
from ablations.training import stack, timing
from ablations.training.stack import Stack, StackedRun
from ablations.training.timing import calibrate, epoch_times
from ablations.training.trainer import EpochMetrics, train, train_together
from vit import ViT, cost, get_ops
from vit.engine import Engine
from vit.optim import warmup_cosine

DIGITS = load("digits")
FEW = subset(DIGITS, per_class=20)
BASE = RunConfig(patch=4, depth=1, width=16, epochs=3, batch_size=32, warmup_epochs=1.0, validation=0.2)
STEPS = 5  # of 160 training images
EVERYTHING: dict[str, Any] = {
    "dropout": 0.1,
    "drop_path": 0.1,
    "crop_padding": 1,
    "flip": True,
    "erase": 0.2,
    "mixup": 0.2,
    "cutmix": 0.5,
    "trivial_augment": True,
    "ema": 0.9,
}


def run(dataset: Dataset = FEW, threads: int = 1, **changes: Any) -> RunRecord:
    return train(replace(BASE, **changes), dataset, threads=threads)


def outcome(record: RunRecord) -> dict[str, np.ndarray]:
    """Every number of a record that is no time."""
    curves = ("epoch", "learning_rate", "train_loss", "validation_loss", "validation_accuracy")
    scores = ("test_accuracy", "test_loss", "validation_accuracy", "parameters", "flops")
    return {
        **{name: np.array([getattr(metrics, name) for metrics in record.metrics]) for name in curves},
        **{f"final {name}": np.array(getattr(record, name)) for name in scores},
        **record.predictions,
        **record.state,
    }


def same_bits(first: RunRecord, second: RunRecord) -> bool:
    a, b = outcome(first), outcome(second)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)


def model_of(config: RunConfig, dataset: Dataset = FEW) -> ViT:
    shape = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    return ViT(shape, get_ops("numpy"), [config.seed])


def first_batch(config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    images, targets = next(DataLoader.of(config, FEW).epoch(1))
    return images[None], targets[None]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each step of the engine is given, and the weights after it."""
    taken: list[dict[str, Any]] = []
    original = Engine.step

    def step(engine: Engine, images: np.ndarray, targets: np.ndarray, learning_rate: float) -> np.ndarray:
        loss = original(engine, images, targets, learning_rate)
        weights = engine.model.parameters.flat.copy()
        taken.append({"images": images, "targets": targets, "rate": learning_rate, "loss": loss, "weights": weights})
        return loss

    monkeypatch.setattr(Engine, "step", step)
    return taken


class TestReproducibility:
    @pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "with everything"])
    def test_same_bits_twice_and_for_any_threads(self, changes: dict[str, Any]) -> None:
        first = run(**changes)
        for threads in (1, 2, 4):
            assert same_bits(run(threads=threads, **changes), first)

    def test_the_seed_matters(self) -> None:
        first, second = run(), run(seed=1)
        assert not np.array_equal(first.predictions["probabilities"], second.predictions["probabilities"])

    def test_the_seed_draws_the_first_weights(self) -> None:
        for config in (BASE, replace(BASE, seed=1)):
            own = Stack([StackedRun(config, FEW)], FEW, threads=1)
            assert np.array_equal(own.model.parameters.flat, model_of(config).parameters.flat)
            own.close()

    def test_arms_of_a_seed_are_fed_alike(self, steps: list[dict[str, Any]]) -> None:
        for position in ("none", "rope"):
            run(position=position, **EVERYTHING)
        arms = steps[: len(steps) // 2], steps[len(steps) // 2 :]
        assert len(arms[0]) == 3 * STEPS
        for mine, other in zip(*arms, strict=True):
            assert all(np.array_equal(mine[name], other[name]) for name in ("images", "targets", "rate"))
            assert not np.array_equal(mine["weights"], other["weights"])


class TestRecord:
    @pytest.mark.parametrize("changes", [{}, {"ema": 0.8}, {"position": "learned", "pool": "cls"}], ids=str)
    def test_is_that_of_its_weights(self, changes: dict[str, Any]) -> None:
        config = replace(BASE, **changes)
        record, loader = train(config, FEW, threads=1), DataLoader.of(config, FEW)
        model = model_of(config)
        model.load_state_dict(record.state)
        probabilities = softmax(model.forward(loader.normalise(FEW.test_images)[None])[0].astype(float), axis=1)
        predictions, labels = record.predictions, FEW.test_labels
        np.testing.assert_allclose(predictions["probabilities"], probabilities, atol=1e-5)
        assert predictions["probabilities"].dtype == np.float32
        assert predictions["labels"].dtype == predictions["predicted"].dtype == np.int64
        assert np.array_equal(predictions["labels"], labels)
        assert np.array_equal(predictions["predicted"], predictions["probabilities"].argmax(axis=1))
        assert record.test_accuracy == np.mean(predictions["predicted"] == labels)
        assert record.test_loss == pytest.approx(-np.log(probabilities[range(len(labels)), labels]).mean(), rel=1e-5)
        held_out = loader.normalise(FEW.train_images[loader.validation])
        validation = softmax(model.forward(held_out[None])[0].astype(float), axis=1)
        last, own = record.metrics[-1], loader.validation_labels
        assert last.validation_loss == pytest.approx(-np.log(validation[range(len(own)), own]).mean(), rel=1e-5)
        assert last.validation_accuracy == np.mean(validation.argmax(axis=1) == own) == record.validation_accuracy

    def test_what_it_cost(self) -> None:
        record, model = run(), model_of(BASE)
        assert record.config == BASE
        assert record.parameters == sum(value.size for value in record.state.values()) == cost.parameters(model.config)
        assert record.flops == 3 * cost.forward_flops(model.config) * 3 * STEPS * 32

    def test_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By a clock that goes one second at every look: one epoch of training is one second."""
        clock = itertools.count()
        monkeypatch.setattr(stack, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
        record = run()
        assert [(m.seconds, m.images_per_s) for m in record.metrics] == [(1.0, STEPS * 32.0)] * 3
        assert record.train_seconds == 3
        assert record.seconds > record.train_seconds

    def test_metrics_come_after_each_epoch(self, steps: list[dict[str, Any]]) -> None:
        seen: list[tuple[int, EpochMetrics]] = []
        record = train(BASE, FEW, threads=1, on_epoch=lambda metrics: seen.append((len(steps), metrics)))
        assert [metrics for _, metrics in seen] == record.metrics
        assert [count for count, _ in seen] == [STEPS, 2 * STEPS, 3 * STEPS]
        assert [metrics.epoch for metrics in record.metrics] == [1, 2, 3]
        for epoch, metrics in enumerate(record.metrics):
            own = steps[epoch * STEPS : (epoch + 1) * STEPS]
            assert metrics.train_loss == pytest.approx(np.mean([step["loss"][0] for step in own]), rel=1e-6)
            assert metrics.learning_rate == own[-1]["rate"][0]


class Watched:
    """A dataset that tells when its test part is read."""

    def __init__(self, dataset: Dataset, log: list[str]) -> None:
        self._dataset, self._log = dataset, log

    def __getattr__(self, name: str) -> Any:
        if name.startswith("test_"):
            self._log.append(name)
        return getattr(self._dataset, name)


class TestTestSet:
    def test_is_used_once_after_the_last_epoch(self) -> None:
        log: list[str] = []
        watched: Any = Watched(FEW, log)
        train(BASE, watched, threads=1, on_epoch=lambda metrics: log.append(f"epoch {metrics.epoch}"))
        assert log[:5] == ["epoch 1", "epoch 2", "epoch 3", "test_labels", "test_images"], "how many there are, first"
        assert log.count("test_images") == 1

    def test_is_not_used_to_calibrate(self) -> None:
        log: list[str] = []
        watched: Any = Watched(FEW, log)
        calibrate(BASE, watched, threads=1)
        assert not log

    def test_changes_nothing_but_its_own_scores(self) -> None:
        other = replace(FEW, test_images=255 - FEW.test_images[::-1], test_labels=FEW.test_labels[::-1].copy())
        first, second = outcome(run()), outcome(run(other))
        test = {"final test_accuracy", "final test_loss", "labels", "predicted", "probabilities"}
        for name in first.keys() - test:
            assert np.array_equal(first[name], second[name]), name
        assert not np.array_equal(first["probabilities"], second["probabilities"])

    def test_nor_is_the_validation_part_trained_on(self, steps: list[dict[str, Any]]) -> None:
        """Whatever its pixels are, the weights are the same."""
        _, held = split(FEW.train_labels, BASE.validation, BASE.seed)
        images = FEW.train_images.copy()
        images[held] = 255 - images[held]
        first, second = run(), run(replace(FEW, train_images=images))
        assert all(np.array_equal(first.state[name], second.state[name]) for name in first.state)
        assert [m.train_loss for m in first.metrics] == [m.train_loss for m in second.metrics]
        assert [m.validation_loss for m in first.metrics] != [m.validation_loss for m in second.metrics]


class TestLearning:
    def test_loss_decreases(self) -> None:
        losses = [metrics.train_loss for metrics in run(epochs=10, learning_rate=5e-3, label_smoothing=0.0).metrics]
        assert losses[0] < 2.5  # of a model that knows nothing: log 10
        assert losses[-1] < 0.7 * losses[0]

    def test_rope_reads_digits(self) -> None:
        config = RunConfig(patch=2, depth=2, width=48, epochs=12, batch_size=32, learning_rate=4e-3, warmup_epochs=1.0)
        record = train(config, DIGITS, threads=1)
        assert record.validation_accuracy > 0.8
        assert record.test_accuracy > 0.8

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_loss_that_is_not_finite_ends_the_run(self, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
        original, calls = Engine.step, itertools.count(1)

        def step(engine: Engine, *args: Any) -> np.ndarray:
            loss = original(engine, *args)
            return np.array([value]) if next(calls) == STEPS + 2 else loss

        monkeypatch.setattr(Engine, "step", step)
        seen: list[EpochMetrics] = []
        record = train(BASE, FEW, threads=1, on_epoch=seen.append)
        assert [metrics.epoch for metrics in seen] == [1]
        assert next(calls) == STEPS + 3  # no step after it
        assert record.metrics == seen
        assert record.diverged == 2
        assert record.flops == run(epochs=1, warmup_epochs=0.0).flops * (STEPS + 2) // STEPS
        assert record.seconds > record.train_seconds > seen[0].seconds
        assert (record.test_accuracy, record.validation_accuracy) == (0.1, 0.1)
        assert record.test_loss == pytest.approx(np.log(10))
        np.testing.assert_array_equal(
            record.predictions["probabilities"], np.full((len(FEW.test_labels), 10), 0.1, np.float32)
        )
        np.testing.assert_array_equal(record.predictions["labels"], FEW.test_labels)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_learning_rate_far_too_large_diverges_with_the_same_bits(self, threads: int) -> None:
        record, again = run(learning_rate=1e30, threads=threads), run(learning_rate=1e30)
        assert record.diverged == 1
        assert any(np.isnan(value).any() for value in record.state.values())
        for name, value in record.state.items():
            assert value.dtype == np.float32
            assert value.tobytes() == again.state[name].tobytes()

    def test_weights_that_are_not_finite_after_the_last_step_diverge_too(self) -> None:
        """No loss is computed after it, but its weights are those that are evaluated."""
        record = run(learning_rate=1e30, epochs=1, warmup_epochs=0.0, batch_size=1000)
        assert (record.diverged, record.metrics) == (1, [])

    @pytest.mark.parametrize("batch_size", [BASE.batch_size, 1000], ids=["in a step", "at validation"])
    def test_the_time_of_earlier_attempts_counts(self, batch_size: int) -> None:
        member = StackedRun(replace(BASE, learning_rate=1e30, warmup_epochs=0.0, batch_size=batch_size), FEW)
        member.epoch_before = member.seconds_before = 100.0
        ended: list[Any] = []
        train_together([member], FEW, lambda _, record: ended.append(record), threads=1)
        assert ended[0].diverged == 1
        assert 100 < ended[0].train_seconds <= ended[0].seconds < 200

    def test_a_test_loss_that_is_not_finite_diverges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tested = Stack.test_probabilities
        monkeypatch.setattr(Stack, "test_probabilities", lambda stack: np.nan * tested(stack))
        record = run()
        assert (record.diverged, len(record.metrics)) == (BASE.epochs, BASE.epochs)
        assert record.train_seconds == sum(metrics.seconds for metrics in record.metrics)
        assert all(np.isfinite(value).all() for value in record.state.values())

    def test_a_run_that_diverges_leaves_no_thread(self) -> None:
        import gc
        import threading

        before = threading.active_count()
        for _ in range(3):
            assert run(learning_rate=1e30, threads=2).diverged == 1
        gc.collect()
        assert threading.active_count() <= before + 1


class TestFields:
    @pytest.mark.parametrize(
        "changes",
        [
            {"dropout": 0.3},
            {"drop_path": 0.9, "depth": 2},
            {"crop_padding": 1},
            {"flip": True},
            {"erase": 1.0},
            {"mixup": 1.0},
            {"cutmix": 1.0},
            {"trivial_augment": True},
            {"label_smoothing": 0.3},
            {"weight_decay": 0.5},
            {"clip_norm": 0.01},
            {"init_std": 0.01},
            {"mlp_ratio": 2.0},
            {"heads": 4},
            {"pool": "cls"},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_each_changes_the_training(self, changes: dict[str, Any]) -> None:
        plain = run(epochs=2, **{name: value for name, value in changes.items() if name == "depth"})
        changed = run(epochs=2, **changes)
        assert [m.train_loss for m in changed.metrics] != [m.train_loss for m in plain.metrics]
        assert np.isfinite(changed.metrics[-1].validation_loss)

    def test_no_clipping_is_a_limit_never_reached(self) -> None:
        assert same_bits(replace_config(run(clip_norm=0.0)), replace_config(run(clip_norm=1e6)))

    def test_clipping_shrinks_the_gradient_that_the_optimiser_sees(self) -> None:
        """Adam forgets the scale of a gradient, but the first moments show it."""
        norms = {}
        for limit in (0.0, 0.01):
            config = replace(BASE, clip_norm=limit)
            own = Stack([StackedRun(config, FEW)], FEW, threads=1)
            own.step(*first_batch(config), np.array([1e-3]))
            norms[limit] = np.linalg.norm(own.engine.optimizer.first) / 0.1
            own.close()
        assert norms[0.0] > 0.1
        assert norms[0.01] == pytest.approx(0.01, rel=1e-3)

    def test_weight_decay_pulls_weights_and_nothing_else(self) -> None:
        """At a learning rate times decay of 1 / 2, in one step."""
        weights = {}
        for decay in (0.0, 0.5):
            config = replace(BASE, weight_decay=decay, position="learned", pool="cls")
            own = Stack([StackedRun(config, FEW)], FEW, threads=1)
            before = own.model.state_dict()
            own.step(*first_batch(config), np.array([1.0]))
            weights[decay] = own.model.state_dict()
            own.close()
        for name, value in before.items():
            decays = name.endswith("weight") and "norm" not in name
            np.testing.assert_allclose(weights[0.5][name], weights[0.0][name] - 0.5 * decays * value, atol=1e-5)

    @pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0, 2.0])
    def test_warmup_then_cosine(self, warmup: float, steps: list[dict[str, Any]]) -> None:
        record = run(epochs=4, warmup_epochs=warmup, learning_rate=4e-3)
        rates = np.array([step["rate"][0] for step in steps])
        rise = round(warmup * STEPS)
        assert rates.max() == 4e-3
        np.testing.assert_allclose(rates[:rise], 4e-3 * np.arange(1, rise + 1) / max(rise, 1))
        assert (np.diff(rates[max(rise, 1) :]) < 0).all()
        assert 0 < rates[-1] < 4e-3 * 0.03
        assert rates.tolist() == [warmup_cosine(i, 4 * STEPS, rise, 4e-3) for i in range(4 * STEPS)]
        assert [metrics.learning_rate for metrics in record.metrics] == rates[STEPS - 1 :: STEPS].tolist()

    def test_label_smoothing_is_in_the_targets_of_training_only(self, steps: list[dict[str, Any]]) -> None:
        run(label_smoothing=0.3, epochs=1, warmup_epochs=0.0)
        for step in steps:
            np.testing.assert_allclose(np.unique(step["targets"]), [0.03, 0.73], rtol=1e-6)

    @pytest.mark.parametrize(
        ("changes", "count", "size"),
        [
            ({}, 5, 32),
            ({"batch_size": 50}, 3, 50),
            ({"batch_size": 1000}, 1, 160),
            ({"data_fraction": 0.5}, 2, 32),
            ({"data_fraction": 0.1, "batch_size": 64}, 1, 16),
            ({"validation": 0.5}, 3, 32),
        ],
        ids=str,
    )
    def test_steps_and_batches(
        self, changes: dict[str, Any], count: int, size: int, steps: list[dict[str, Any]]
    ) -> None:
        """An incomplete last batch is left out, and a batch is never larger than the data."""
        record = run(epochs=2, **changes)
        assert [step["images"].shape[:2] for step in steps] == [(1, size)] * (2 * count)
        assert record.flops == 3 * cost.forward_flops(model_of(BASE).config) * 2 * count * size

    def test_a_validation_part_of_no_image_is_refused(self) -> None:
        with pytest.raises(VitabError, match="validation"):
            run(validation=0.001)


def replace_config(record: RunRecord) -> RunRecord:
    return replace(record, config=BASE)


class TestAverage:
    def test_of_constant_weights_is_those_weights(self) -> None:
        config = replace(BASE, ema=0.9)
        own = Stack([StackedRun(config, FEW)], FEW, threads=1)
        start = own.model.state_dict()
        for images, targets in DataLoader.of(config, FEW).epoch(1):
            own.step(images[None], targets[None], np.zeros(1))
        for name, value in own.state().items():
            np.testing.assert_allclose(value, start[name], rtol=1e-6, atol=1e-9)
        own.close()

    def test_is_that_of_the_weights_after_each_step(self, steps: list[dict[str, Any]]) -> None:
        """With a decay that rises to `ema`: (1 + t) / (10 + t) until then."""
        record = run(ema=0.5, learning_rate=0.01)
        average = model_of(BASE).parameters.flat.astype(float)
        for t, step in enumerate(steps, start=1):
            decay = min(0.5, (1 + t) / (10 + t))
            average = decay * average + (1 - decay) * step["weights"]
        model = model_of(BASE)
        model.load_state_dict(record.state)
        np.testing.assert_allclose(model.parameters.flat, average, rtol=1e-4, atol=1e-6)
        assert np.abs(average - steps[-1]["weights"]).max() > 1e-4

    def test_does_not_disturb_the_training(self, steps: list[dict[str, Any]]) -> None:
        averaged, plain = run(ema=0.9), run()
        half = len(steps) // 2
        for mine, other in zip(steps[:half], steps[half:], strict=True):
            assert np.array_equal(mine["weights"], other["weights"])
        assert [m.train_loss for m in averaged.metrics] == [m.train_loss for m in plain.metrics]
        assert averaged.metrics[0].validation_loss != plain.metrics[0].validation_loss


class TestCalibration:
    def test_is_a_time(self) -> None:
        assert 0 < calibrate(BASE, FEW, threads=1) < 10

    @pytest.mark.parametrize("changes", [{}, EVERYTHING, {"batch_size": 1000}], ids=["plain", "everything", "one step"])
    def test_counts_steps_and_a_third_of_them_for_validation(
        self, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By a clock by which each step takes one second."""
        clock = itertools.count()
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
        seconds = calibrate(replace(BASE, **changes), FEW, threads=1)
        batch, count = (160, 1) if "batch_size" in changes else (32, STEPS)
        assert seconds == pytest.approx(count + 40 / batch / 3)

    def test_changes_nothing_of_a_run(self) -> None:
        first = run()
        calibrate(BASE, FEW, threads=2)
        epoch_times([BASE, BASE], [FEW, FEW], seconds=0, threads=2)
        assert same_bits(run(), first)

    def test_runs_are_timed_in_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A step of the first takes one second, of the second two; an epoch has more steps, a third of them more."""
        executed: list[object] = []

        def alternate(works: Any, seconds: float) -> np.ndarray:
            executed.extend(work() for work in works)
            return np.array([[1.0, 2.0]])

        assert epoch_times([BASE], [FEW], seconds=0, threads=1).shape == (5, 1)
        monkeypatch.setattr(timing, "alternate", alternate)
        ((first, second),) = epoch_times([BASE, replace(BASE, depth=2)], [FEW, FEW], seconds=1, threads=1)
        assert (first, second) == pytest.approx((STEPS + 40 / 32 / 3, 2 * (STEPS + 40 / 32 / 3)))
        assert len(executed) == 2
