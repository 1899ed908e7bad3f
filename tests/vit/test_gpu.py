"""On a real GPU: every operation, the whole model, captured steps and a run of the trainer."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.data import load_for
from ablations.training.trainer import train
from benchmarks.gpu import comparisons
from benchmarks.gpu.comparisons import Check
from vit import ViT, get_ops
from vit.backend import cupy_precisions, cupy_problem
from vit.graph_engine import AdamWConfig, DeviceAugmentation, GraphEngine
from vit.positions import POSITIONS

PROBLEM = cupy_problem()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(PROBLEM is not None, reason=f"no GPU here: {PROBLEM}"),
    pytest.mark.filterwarnings("default"),  # of CuPy's own
]


@pytest.fixture(params=["float32", "tf32", "bf16"])
def ops(request: pytest.FixtureRequest) -> Any:
    if request.param not in cupy_precisions():
        pytest.skip(f"this chip has no {request.param} products")
    return get_ops("cupy", precision=request.param)


ALL = (*POSITIONS, "rope(base=10)", "cpe(where=each)", "lie-rope(block=16, heads=shared)", "rope+learned")
PARTS: dict[str, Callable[[Any], Iterator[Check]]] = {
    "operations": comparisons.operations,
    "draws": comparisons.draws,
    "gradients": partial(comparisons.gradients, positions=ALL),
    "stacks": comparisons.stacks,
    "training": partial(comparisons.training, positions=ALL),
}


@pytest.mark.parametrize("part", PARTS)
def test_checks(ops: Any, part: str) -> None:
    checks = list(PARTS[part](ops))
    assert checks
    assert [check for check in checks if not check.passed] == []


def test_replays_give_the_bits_of_steps_that_run_as_they_are(ops: Any) -> None:
    weights = []
    for captured in (True, False):
        config = comparisons.small("rope", dropout=0.1, drop_path=0.2)
        engine = GraphEngine(ViT(config, ops, seeds=[1, 2]), AdamWConfig(), 4, ema=0.9)
        if not captured:
            engine._run = lambda key, work, *kept: work()  # type: ignore[method-assign]
        rng = np.random.default_rng(1)
        moments = np.full((2, 3), 0.5)
        images = rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
        data = engine.resident(images, rng.integers(0, 7, 20), moments, moments)
        for _ in range(2):
            engine.start_epoch(np.stack([rng.permutation(20)] * 2), np.full((2, 5), 1e-3))
            engine.train(data, DeviceAugmentation(2, True, True, 0.5, 0.4, 1.0), 5, 5)
        optimizer = engine.optimizer
        weights.append([ops.to_numpy(x) for x in (optimizer.parameters, optimizer.second, optimizer.average)])
        assert int(ops.to_numpy(optimizer.counter)[0]) == optimizer.step == 10
    assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True))


def test_models_side_by_side_do_not_disturb_each_other(ops: Any) -> None:
    """Two engines share a stream, scratch memory and kernels."""
    config = comparisons.small("rope", pool="mean")
    images, labels = comparisons.images_and_labels(config, 1, 6)
    targets = np.eye(config.classes, dtype=np.float32)[labels]

    def engine() -> GraphEngine:
        return GraphEngine(ViT(config, ops, seeds=[5]), AdamWConfig(), 6)

    alone, first, second = engine(), engine(), engine()
    expected = [ops.to_numpy(alone.step(images, targets, 1e-3)) for _ in range(5)]
    for loss in expected:
        for each in (first, second):
            assert np.array_equal(ops.to_numpy(each.step(images, targets, 1e-3)), loss)


def test_a_run_of_the_trainer_is_nearly_the_cpus() -> None:
    config = RunConfig(depth=1, width=32, heads=2, patch=4, epochs=3, warmup_epochs=1.0, per_class=40)
    data = load_for(config)
    cpu, gpu = train(config, data), train(config, data, backend="cupy")
    for ours, theirs in zip(gpu.metrics, cpu.metrics, strict=True):
        np.testing.assert_allclose(ours.train_loss, theirs.train_loss, rtol=1e-3)
    again = train(config, data, backend="cupy")
    assert all(np.array_equal(again.state[name], gpu.state[name]) for name in gpu.state)
