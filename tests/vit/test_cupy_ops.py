"""`vit.backend.cupy_ops` itself, over a module that answers as CuPy does: launches, products, captures, choices."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.data import load_for
from ablations.training.checkpoint import Checkpointer
from ablations.training.trainer import train
from benchmarks.gpu import comparisons
from tests.support.cuda_shim import Shim, compiler
from tests.support.fake_cupy import FakeCupy, Library, Stream
from tests.support.small import Slope, SlopeByExpressions
from vit import ViT, get_ops
from vit import backend as backend_module
from vit.graph_engine import AdamWConfig, DeviceAugmentation, GraphEngine
from vit.positions import POSITIONS

pytestmark = pytest.mark.skipif(compiler() is None, reason="g++ is not installed: CUDA kernels cannot run on the CPU")


@pytest.fixture
def cupy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCupy]:
    chip = {"capability": "90"} | getattr(request, "param", {})
    fake = FakeCupy(Shim(Path(request.config.cache.mkdir("cuda_shim"))), **chip)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.delitem(sys.modules, "vit.backend.cupy_ops", raising=False)
    monkeypatch.delattr(backend_module, "cupy_ops", raising=False)
    monkeypatch.setattr(backend_module.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(Stream, "made", [])
    from vit.backend import cupy_ops

    monkeypatch.setattr(cupy_ops, "_cublas_library", Library)
    monkeypatch.setitem(cupy_ops._PARTS, "CUDA headers", lambda: "/include")
    yield fake
    for name in ("vit.backend.cupy_ops",):
        sys.modules.pop(name, None)
    if hasattr(backend_module, "cupy_ops"):
        del backend_module.cupy_ops


@pytest.mark.usefixtures("cupy")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_steps_are_captured_and_right(precision: str) -> None:
    ops: Any = get_ops("cupy", precision=precision)
    checks = [*comparisons.training(ops, ("rope",), steps=5), *comparisons.stacks(ops, runs=2, steps=3)]
    assert [check for check in checks if not check.passed] == []


def test_a_step_is_one_launch_of_one_graph(cupy: FakeCupy) -> None:
    ops: Any = get_ops("cupy")
    config = comparisons.small("rope")
    images, labels = comparisons.images_and_labels(config, 1, 4)
    targets = np.eye(7, dtype=np.float32)[labels]
    engine = GraphEngine(ViT(config, ops, seeds=[1]), AdamWConfig(), 4)
    for _ in range(4):
        engine.step(images, targets, 1e-3)
    (work,) = [work for key, work in engine._works.items() if key[0] == "step"]
    assert work.graph is not None
    graph = work.graph._replayable._graph  # type: ignore[attr-defined]
    assert graph.uploaded
    assert graph.launches == 3
    assert len(graph.calls) > 40
    (stream,) = Stream.made
    assert stream.used
    names = [name for names in cupy.compiled for name in names]
    assert len(names) == len(set(names)), "no kernel is compiled twice"


def erasing_error(ops: Any, size: int) -> float:
    return comparisons.loading_error(ops, DeviceAugmentation(4, True, erase=1.0), size, size, batch=1)


class TestSharedMemory:
    """48 KiB of a block are for what a kernel has itself and what it is given; for more it must ask."""

    @pytest.mark.parametrize(
        ("tokens", "head_width"),
        [(64, 64), (65, 64), (80, 64), (144, 32), (160, 64), (256, 64), (256, 16)],
    )
    def test_attention_is_right_at_every_size(self, cupy: FakeCupy, tokens: int, head_width: int) -> None:
        ops: Any = get_ops("cupy")
        for position in ("rope", "bias"):
            error = comparisons.attention_error(ops, position, 1, 1, tokens, 1, head_width)
            assert error <= 2 * comparisons.LIMITS["bf16"]

    @pytest.mark.parametrize("size", [121, 122, 128, 177])
    def test_pictures_are_changed_at_every_size(self, cupy: FakeCupy, size: int) -> None:
        ops: Any = get_ops("cupy", precision="float32")
        assert erasing_error(ops, size) <= comparisons.LIMITS["float32"]

    @pytest.mark.parametrize("cupy", [{"capability": "75", "block_shared": 64 << 10}], indirect=True)
    def test_a_chip_with_less_takes_smaller_pictures(self, cupy: FakeCupy) -> None:
        ops: Any = get_ops("cupy")
        assert ops.kernels.image_bytes == (64 << 10) - 5136
        assert erasing_error(ops, 141) <= comparisons.LIMITS["float32"]
        with pytest.raises(ValueError, match="at most 4 channels and 60400 bytes, got 142 x 142 x 3"):
            erasing_error(ops, 142)

    @pytest.mark.parametrize("cupy", [{"block_shared": 64 << 10}], indirect=True)
    def test_a_kernel_that_no_block_can_hold_is_told(self, cupy: FakeCupy) -> None:
        with pytest.raises(RuntimeError, match=r"attention_tensor<64, false> takes 92160 bytes .* this GPU has 65536"):
            comparisons.attention_error(get_ops("cupy"), "none", 1, 1, 256, 1, 64)  # type: ignore[arg-type]


@pytest.mark.usefixtures("cupy")
def test_reading_a_view_leaves_the_stream_current() -> None:
    ops: Any = get_ops("cupy")
    x = ops.asarray(np.arange(12.0).reshape(3, 4))
    assert np.array_equal(ops.to_numpy(x[:, 1]), [1, 5, 9])
    (stream,) = Stream.made
    assert stream.used


@pytest.mark.usefixtures("cupy")
def test_a_mark_is_behind_what_was_started() -> None:
    ops: Any = get_ops("cupy")
    ops.fill(ops.empty((4,)), 1.0)
    mark = ops.device.mark()
    ops.fill(ops.empty((4,)), 1.0)
    mark.wait()
    (stream,) = Stream.made
    assert (stream.done, stream.started) == (1, 2)


@pytest.mark.usefixtures("cupy")
def test_a_failed_capture_ends() -> None:
    ops: Any = get_ops("cupy")
    with pytest.raises(ZeroDivisionError):
        ops.capture(lambda: 1 // 0)
    (stream,) = Stream.made
    assert not stream.capturing


CONFIG = RunConfig(depth=1, width=32, heads=2, patch=4, epochs=2, warmup_epochs=1.0, per_class=10, batch_size=32)


@pytest.mark.usefixtures("cupy")
def test_a_run_of_the_trainer() -> None:
    data = load_for(CONFIG)
    cpu, gpu = train(CONFIG, data), train(CONFIG, data, backend="cupy")
    for ours, theirs in zip(gpu.metrics, cpu.metrics, strict=True):
        np.testing.assert_allclose(ours.train_loss, theirs.train_loss, rtol=1e-4)
    np.testing.assert_allclose(gpu.test_loss, cpu.test_loss, rtol=1e-3)


@pytest.mark.usefixtures("cupy")
@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16", "ema": 0.9, "dropout": 0.1, "drop_path": 0.1, "pool": "cls", "position": "learned"},
        pytest.param(
            {"trivial_augment": True, "erase": 0.3, "mixup": 0.2, "cutmix": 1.0, "crop_padding": 1, "flip": True},
            marks=pytest.mark.slow,
        ),
        {"position": "slope", "precision": "bf16"},
        {"position": "slope-by-expressions"},
        pytest.param(  # heads of width 8, for which there is no kernel
            {"heads": 4, "position": "sinusoidal", "precision": "bf16"}, marks=pytest.mark.slow
        ),
    ],
    ids=["everything in bf16", "augmented", "a bias of scores", "array expressions", "attention by products"],
)
def test_nothing_takes_an_array_of_the_device_for_one_of_the_host(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy refuses to mix them. A run that ends early and goes on, through the trainer."""
    for kind in (Slope, SlopeByExpressions):
        monkeypatch.setitem(POSITIONS, kind.name, kind)
    config = replace(CONFIG, **changes)
    data = load_for(config)
    whole = train(config, data, backend="cupy")
    asked = iter([False, True] + [True] * 9)
    with pytest.raises(KeyboardInterrupt):
        train(
            config,
            data,
            backend="cupy",
            checkpointer=Checkpointer(tmp_path / "r", {"run": "it"}, stop=lambda: next(asked)),
        )
    resumed = train(config, data, backend="cupy", checkpointer=Checkpointer(tmp_path / "r", {"run": "it"}))
    for name, value in whole.state.items():
        assert type(value) is np.ndarray
        assert np.array_equal(resumed.state[name], value), name


@pytest.mark.usefixtures("cupy")
def test_models_load_and_tell_their_weights_and_gradients() -> None:
    ops: Any = get_ops("cupy", precision="float32")
    assert [check for check in comparisons.gradients(ops, tuple(POSITIONS)) if not check.passed] == []
    model = ViT(comparisons.small("learned"), ops, seeds=[1, 2])
    images, _ = comparisons.images_and_labels(model.config, 2, 5)
    larger = ViT(comparisons.small("learned", image_size=24), ops, seeds=[3])
    model.load_state_dict(larger.state_dict(), 1)  # another grid of patches
    exact = ViT(model.config, get_ops("numpy", "float64"), seeds=[1, 2])
    for run in range(2):
        exact.load_state_dict(model.state_dict(run), run)
    logits = ops.to_numpy(GraphEngine(model, AdamWConfig(), 3).logits(ops.asarray(images)))
    np.testing.assert_allclose(logits, exact.forward(images.astype(float)), atol=1e-5)


def test_arrays_of_the_fake_are_as_strict_as_cupys(cupy: FakeCupy) -> None:
    x = cupy.asarray(np.ones(3))
    for mix in (lambda: np.asarray(x), lambda: x + np.ones(3), lambda: np.exp(x, out=np.ones(3))):
        with pytest.raises(TypeError, match=r"Implicit conversion|Unsupported type"):
            mix()
    assert np.array_equal(cupy.asnumpy(2 * x[:2] + np.exp(x[:2] * 0)), [3, 3])


@pytest.mark.usefixtures("cupy")
class TestChoices:
    def test_bf16_where_the_chip_has_it(self) -> None:
        assert get_ops("cupy").precision == "bf16"  # type: ignore[attr-defined]
        assert backend_module.cupy_precisions() == ("bf16", "tf32", "float32")

    @pytest.mark.parametrize("cupy", [{"capability": "75"}], indirect=True)
    def test_float32_on_an_older_chip(self) -> None:
        assert get_ops("cupy").precision == "float32"  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="precision must be one of float32 on this GPU, got 'bf16'"):
            get_ops("cupy", precision="bf16")

    @pytest.mark.parametrize(
        ("broken", "said"),
        [(["cuBLAS"], "no cuBLAS"), (["NVRTC", "CUDA headers"], "no NVRTC, no CUDA headers")],
    )
    def test_a_cupy_without_cudas_libraries_is_no_backend(
        self, broken: list[str], said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As `pip install cupy-cuda13x` leaves it: there is a GPU, and nothing to compile or multiply with."""
        from vit.backend import cupy_ops

        def fail() -> None:
            raise RuntimeError("Failure finding the library")

        for name in broken:
            monkeypatch.setitem(cupy_ops._PARTS, name, fail)
        problem = f"CuPy finds {said}: pip install 'vitab[cuda13]'"
        assert backend_module.cupy_problem() == problem
        with pytest.raises(RuntimeError, match="the cupy backend cannot be used: CuPy finds no"):
            get_ops("cupy")

    def test_float64_is_refused(self) -> None:
        with pytest.raises(ValueError, match="dtype must be 'float32' with the cupy backend, got 'float64'"):
            get_ops("cupy", "float64")

    def test_an_encoding_of_array_expressions_needs_float32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(POSITIONS, SlopeByExpressions.name, SlopeByExpressions)
        config = comparisons.small(SlopeByExpressions.name)
        with pytest.raises(
            ValueError,
            match=r"with position 'slope-by-expressions', which needs an array expression \(numpy.add\), got bf16",
        ):
            ViT(config, get_ops("cupy"), seeds=[0]).network(1)
        assert ViT(config, get_ops("cupy", precision="float32"), seeds=[0]).network(1)
