"""Runs trained as on a GPU, through the trainer: the same batches and nearly the same numbers as on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.data import load_for
from ablations.storage import RunRecord
from ablations.training import gpu_stack as device_stack
from ablations.training import stack
from ablations.training.checkpoint import Checkpointer
from ablations.training.stack import StackedRun
from ablations.training.timing import calibrate
from ablations.training.trainer import train, train_together
from tests.support.cuda_device import CpuDevice, cuda_ops
from vit import get_ops
from vit.backend.cuda.training import TABLE_BYTES
from vit.graph_engine import DeviceAugmentation, GraphEngine

CONFIG = RunConfig(depth=1, width=32, heads=2, patch=4, epochs=3, warmup_epochs=1.0, batch_size=48, per_class=40)


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A "cupy" backend on the CPU."""

    def ops(backend: str = "numpy", dtype: str = "float32", precision: str | None = None) -> Any:
        return get_ops(backend, dtype, precision) if backend == "numpy" else cuda_ops(precision or "bf16")

    monkeypatch.setattr(stack, "get_ops", ops)
    monkeypatch.setattr(device_stack, "STEPS_AT_ONCE", 2)


def dataset() -> Any:
    return load_for(CONFIG)


def run(backend: str, **changes: Any) -> RunRecord:
    checkpointer = changes.pop("checkpointer", None)
    return train(RunConfig(**{**CONFIG.__dict__, **changes}), dataset(), backend=backend, checkpointer=checkpointer)


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9}, {"weight_decay": 0.5, "clip_norm": 0.1}], ids=["plain", "ema", "decay"]
)
def test_a_run_is_the_cpus(changes: dict[str, Any]) -> None:
    cpu, device = run("numpy", **changes), run("cupy", **changes)
    for ours, theirs in zip(device.metrics, cpu.metrics, strict=True):
        assert ours.learning_rate == theirs.learning_rate
        np.testing.assert_allclose(ours.train_loss, theirs.train_loss, rtol=1e-4)
        np.testing.assert_allclose(ours.validation_loss, theirs.validation_loss, rtol=1e-3)
    difference = np.abs(device.predictions["probabilities"] - cpu.predictions["probabilities"]).max()
    assert difference < 2e-3
    assert np.array_equal(device.predictions["labels"], cpu.predictions["labels"])


def test_batches_that_the_host_makes_are_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """MixUp and erasing of large pictures."""
    changes = {"mixup": 0.4, "erase": 0.5}
    config = RunConfig(**{**CONFIG.__dict__, **changes})
    recipe = device_stack.recipe_on_device(config, dataset(), 64)
    assert recipe == DeviceAugmentation(mixup=0.4, erase=0.5)
    assert device_stack.recipe_on_device(config, dataset(), 63) is None
    assert device_stack.recipe_on_device(CONFIG, dataset(), 63) == DeviceAugmentation()
    monkeypatch.setattr(CpuDevice, "shared_bytes", TABLE_BYTES + 63)
    cpu, device = run("numpy", **changes), run("cupy", **changes)
    np.testing.assert_allclose([m.train_loss for m in device.metrics], [m.train_loss for m in cpu.metrics], rtol=1e-4)


@pytest.mark.slow
def test_bf16_is_another_run_that_learns_as_well() -> None:
    float32, bf16 = run("cupy"), run("cupy", precision="bf16")
    assert not np.array_equal(float32.predictions["probabilities"], bf16.predictions["probabilities"])
    np.testing.assert_allclose(bf16.metrics[-1].train_loss, float32.metrics[-1].train_loss, rtol=3e-2)


def together(
    seeds: tuple[int, ...], checkpointers: Callable[[int], Checkpointer] = lambda seed: Checkpointer(), **changes: Any
) -> dict[int, Any]:
    data, outcomes = dataset(), {}
    configs = [RunConfig(**{**CONFIG.__dict__, **changes, "seed": seed}) for seed in seeds]
    members = [StackedRun(config, data, checkpointers(config.seed)) for config in configs]
    train_together(
        members, data, lambda member, outcome: outcomes.update({member.config.seed: outcome}), backend="cupy"
    )
    return outcomes


@pytest.mark.slow
def test_three_runs_together_are_three_alone() -> None:
    changes = {"crop_padding": 1, "flip": True, "dropout": 0.1, "drop_path": 0.1, "erase": 0.3, "cutmix": 1.0}
    for seed, record in together((0, 1, 2), **changes).items():
        alone = run("cupy", seed=seed, **changes)
        assert record.stack == 3
        np.testing.assert_allclose(record.test_loss, alone.test_loss, rtol=1e-4)
        np.testing.assert_allclose(
            [m.train_loss for m in record.metrics], [m.train_loss for m in alone.metrics], rtol=1e-5
        )


@pytest.mark.slow
def test_runs_that_smooth_labels_differently_have_their_own_targets() -> None:
    data, outcomes = dataset(), {}
    configs = [RunConfig(**{**CONFIG.__dict__, "seed": seed, "label_smoothing": seed / 5}) for seed in (0, 1)]
    members = [StackedRun(config, data) for config in configs]
    train_together(members, data, lambda member, out: outcomes.update({member.config.seed: out}), backend="cupy")
    for config in configs:
        alone = train(config, data, backend="cupy")
        losses = [m.train_loss for m in outcomes[config.seed].metrics]
        np.testing.assert_allclose(losses, [m.train_loss for m in alone.metrics], rtol=1e-5)


@pytest.mark.slow
def test_a_run_that_diverges_ends_alone() -> None:
    data, outcomes = dataset(), {}
    configs = [RunConfig(**{**CONFIG.__dict__, "seed": seed}) for seed in (0, 1)]
    wild = RunConfig(**{**CONFIG.__dict__, "seed": 1, "learning_rate": 1e30, "warmup_epochs": 0.0})
    members = [StackedRun(config, data) for config in (configs[0], wild)]
    with np.errstate(all="ignore"):
        train_together(members, data, lambda member, out: outcomes.update({member.config.seed: out}), backend="cupy")
    assert (outcomes[1].diverged, outcomes[1].metrics) == (1, [])
    assert outcomes[1].test_accuracy == 1 / data.classes
    np.testing.assert_allclose(outcomes[0].test_loss, run("cupy").test_loss, rtol=1e-5)


class StopOnce:
    """Says stop the third time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= 3


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9, "precision": "bf16", "dropout": 0.1}], ids=["plain", "ema in bf16"]
)
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = run("cupy", **changes)
    path = tmp_path / "resume.bin"
    with pytest.raises(KeyboardInterrupt):
        run("cupy", checkpointer=Checkpointer(path, {"run": "it"}, stop=StopOnce()), **changes)
    snapshot = Checkpointer(path, {"run": "it"}).load()
    assert snapshot is not None
    assert 0 < snapshot.progress["optimizer_step"] < whole.config.epochs * 7
    assert snapshot.progress["optimizer_step"] % 7, "in the middle of an epoch"
    resumed = run("cupy", checkpointer=Checkpointer(path, {"run": "it"}), **changes)
    assert np.array_equal(resumed.predictions["probabilities"], whole.predictions["probabilities"])
    assert [m.train_loss for m in resumed.metrics] == [m.train_loss for m in whole.metrics]
    for name, value in whole.state.items():
        assert np.array_equal(resumed.state[name], value), name


@pytest.mark.slow
def test_the_host_is_few_steps_ahead_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a snapshot, Ctrl-C and a sign of life come when they are due, and not when an epoch is over."""
    ahead: list[int] = []
    start = GraphEngine.train

    def train(engine: GraphEngine, *arguments: Any) -> None:
        start(engine, *arguments)
        recorder = engine.ops.device.recorder  # type: ignore[attr-defined]
        ahead.append(recorder.replays - recorder.seen)

    monkeypatch.setattr(GraphEngine, "train", train)
    run("cupy", batch_size=8)
    assert len(ahead) > 50
    assert max(ahead) == 2 * device_stack.STEPS_AT_ONCE


def test_calibration_times_steps_that_change_nothing() -> None:
    assert calibrate(CONFIG, dataset(), backend="cupy", stack=2) > 0
