"""The CUDA path on the CPU: the kernels' own sources, cuBLAS's calls and the captured step, as on a GPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import comparisons
from benchmarks.gpu.comparisons import Check, from_device, images_and_labels, small
from tests.support.cuda_device import cuda_ops
from tests.support.cuda_shim import Shim, compiler
from tests.support.small import Slope, SlopeByExpressions
from vit import ViT, one_hot
from vit.backend.cuda.ops import CudaOps
from vit.errors import ConfigError
from vit.graph_engine import AdamWConfig, DeviceAugmentation, GraphEngine
from vit.positions import POSITIONS

pytestmark = pytest.mark.skipif(compiler() is None, reason="g++ is not installed: CUDA kernels cannot run on the CPU")

PRECISIONS = (pytest.param("float32", marks=pytest.mark.slow), "bf16")


@pytest.fixture(scope="module")
def shim(request: pytest.FixtureRequest) -> Shim:
    return Shim(Path(request.config.cache.mkdir("cuda_shim")))


@pytest.fixture(params=PRECISIONS)
def ops(request: pytest.FixtureRequest, shim: Shim) -> CudaOps:
    return cuda_ops(request.param, shim)


@pytest.mark.parametrize(
    "part",
    [
        comparisons.draws,
        lambda ops: comparisons.gradients(ops, ("none", "learned", "sinusoidal", "rope")),
        lambda ops: comparisons.stacks(ops, runs=3, steps=3),
        pytest.param(comparisons.training, marks=pytest.mark.slow),
    ],
    ids=["draws", "whole gradients", "three runs and three times one", "ten losses"],
)
def test_checks_of_a_device(ops: CudaOps, part: Callable[[CudaOps], list[Check]]) -> None:
    checks = list(part(ops))
    assert checks
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_replays_give_the_bits_of_steps_that_run_as_they_are(precision: str, shim: Shim) -> None:
    """Gathered, augmented, dropped, averaged: everything that a step of an epoch does."""
    weights = []
    for captured in (True, False):
        ops = cuda_ops(precision, shim)
        config = small("rope", dropout=0.1, drop_path=0.2)
        engine = GraphEngine(ViT(config, ops, seeds=[1, 2]), AdamWConfig(), 4, ema=0.9)
        if not captured:
            engine._run = lambda key, work, *kept: work()  # type: ignore[method-assign]
        rng = np.random.default_rng(1)
        moments = np.full((2, 3), 0.5)
        data = engine.resident(
            rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8), rng.integers(0, 7, 20), moments, moments
        )
        for epoch in range(2):
            engine.start_epoch(np.stack([rng.permutation(20)] * 2), np.full((2, 5), 1e-3 * (1 + epoch)))
            engine.train(data, DeviceAugmentation(2, True, True, 0.5, 0.4, 1.0), 5, 5)
        logits = engine.evaluate(data, np.arange(7)[None].repeat(2, axis=0))
        optimizer = engine.optimizer
        assert optimizer.average is not None
        arrays = (optimizer.parameters, optimizer.first, optimizer.second, optimizer.average, logits)
        weights.append([array.copy() for array in arrays])
        assert np.isfinite(engine.totals).all()
        assert optimizer.counter[0] == optimizer.step == 10
    assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True))


def test_attention_by_products_is_the_fused_one(ops: CudaOps, monkeypatch: pytest.MonkeyPatch) -> None:
    """More tokens than the fused kernel takes go through products and a softmax, on strided views of bf16."""
    config = small("rope")
    images, labels = images_and_labels(config, 2, 3)
    losses, gradients = [], []
    for fused in (True, False):
        monkeypatch.setattr(ops, "fuses_attention", lambda *_, fused=fused: fused)
        model = ViT(config, ops, seeds=[1, 2])
        losses.append(from_device(ops, model.loss_and_gradients(images, labels)))
        gradients.append(model.gradients(1))
    limit = comparisons.GRADIENT_LIMITS[ops.precision]
    np.testing.assert_allclose(*losses, rtol=limit)
    fused_gradients, others = map(comparisons.without_key_bias, gradients)
    for name, value in others.items():
        assert comparisons.distance(fused_gradients[name], value) < 2 * limit, name


ENCODINGS = {"slope": 2, "slope-by-expressions": 0}
ONE = ("rope(base=10)", "rope+learned", "alibi-2d", "cpe", "cpe(where=each)", "relative-keys")
TWO = ("rope-mixed", "lie-rope", "lie-rope(block=16, heads=shared)", "relative-bias", "relative-bias-mlp")
ENCODINGS |= dict.fromkeys(ONE, 1) | dict.fromkeys(TWO, 2)
"""Encodings, and how many graphs a step is. Derived tables are computed between two; expressions are not captured."""


@pytest.mark.parametrize(
    "position", [pytest.param(each, marks=pytest.mark.slow if "lie-rope" in each else ()) for each in ENCODINGS]
)
def test_encodings_train_as_on_a_cpu(ops: CudaOps, position: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Slope, SlopeByExpressions):
        monkeypatch.setitem(POSITIONS, kind.name, kind)
    if not ENCODINGS[position] and ops.rounds_operands:
        with pytest.raises(ConfigError, match="which needs an array expression"):
            ViT(small(position), ops, seeds=[1]).network(1)
        return
    checks = [*comparisons.gradients(ops, (position,)), *comparisons.training(ops, (position,), steps=5)]
    # the gradient of a slope is a small difference of large sums, whose terms bf16 rounds
    slack = 2 if position == "slope" else 1
    assert [check for check in checks if not check.error <= slack * check.limit] == []
    assert ops.device.recorder.captures == ENCODINGS[position]  # type: ignore[attr-defined]


@pytest.mark.parametrize("fused", [True, False])
def test_the_gradient_of_a_bias_of_scores_is_that_of_expressions(
    shim: Shim, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = cuda_ops("float32", shim)
    monkeypatch.setattr(ops, "fuses_attention", lambda *_: fused)
    gradients = []
    for kind in (Slope, SlopeByExpressions):
        monkeypatch.setitem(POSITIONS, kind.name, kind)
        model = ViT(small(kind.name), ops, seeds=[1, 2])
        model.loss_and_gradients(*images_and_labels(model.config, 2, 5))
        gradients.append([model.gradients(run)["slope"] for run in range(2)])
    assert np.abs(gradients).min() > 0
    np.testing.assert_allclose(*gradients, rtol=1e-3)


def test_products_alone_leave_the_weights(ops: CudaOps) -> None:
    config = small("learned")
    images, labels = images_and_labels(config, 1, 4)
    engine = GraphEngine(ViT(config, ops, seeds=[1]), AdamWConfig(), 4)
    engine.step(images, one_hot(labels, 7), 1e-3)
    before = engine.model.parameters.flat.copy()
    gradient = engine.gradient.copy()
    assert engine.replay_products(4)
    assert np.array_equal(engine.model.parameters.flat, before)
    assert engine.optimizer.counter[0] == 1
    assert not np.array_equal(engine.gradient, gradient)  # of buffers that later layers have used since
