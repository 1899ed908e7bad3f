"""The benchmark measures what it says."""

import json

import numpy as np
import pytest

from ablations.machine import bench
from benchmarks import cpu, harness, products
from benchmarks.shapes import SHAPES
from vit import ViTConfig, cost
from vit.positions import encoding

CONFIG = ViTConfig(image_size=8, patch_size=4, channels=1, classes=3, width=16, depth=1, heads=2)


class Clock:
    """A time that passes only where somebody sleeps."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


class Fixed:
    """Steps of a known length."""

    flops = 3_000_000

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def step(self) -> None:
        self.clock.sleep(0.02)

    def products(self) -> bool:
        self.clock.sleep(0.01)
        return True


def test_times_shares_and_ratios_of_known_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    speed = bench.measure(Fixed(clock), batch_size=40, seconds=0.3, peer=lambda: clock.sleep(0.04))  # type: ignore[arg-type]
    assert speed.steps == 5  # of 0.15 s each, lead-ins included: five at least
    assert speed.milliseconds == pytest.approx(20)
    assert speed.products_share == pytest.approx(0.5)
    assert speed.peer_milliseconds == pytest.approx(40)
    assert speed.ratio == pytest.approx((0.5, 0.5, 0.5))
    assert speed.images_per_s == pytest.approx(2000)
    assert speed.gflops == pytest.approx(0.15)


def test_a_stepper_trains_and_its_products_change_no_weight() -> None:
    stepper = bench.Stepper(CONFIG, batch_size=10, threads=2)
    first = stepper.step()
    weights = stepper.model.parameters.flat.copy()
    assert stepper.products()
    np.testing.assert_array_equal(stepper.model.parameters.flat, weights)
    for _ in range(200):
        last = stepper.step()
    assert last < first
    assert stepper.flops == 3 * cost.forward_flops(CONFIG) * 10


def test_a_step_that_is_not_captured_has_no_share() -> None:
    config = ViTConfig(image_size=8, patch_size=4, channels=1, classes=3, width=16, depth=1, heads=2, dropout=0.1)
    stepper = bench.Stepper(config, batch_size=4, threads=1)
    assert bench.measure(stepper, batch_size=4, seconds=0.01).products_share is None


def test_peak_memory_follows_what_is_held() -> None:
    before = bench.peak_mb()
    held = np.ones(2**24)
    assert bench.peak_mb() >= before
    assert bench.peak_mb() >= held.nbytes / 2**20


def test_the_table_of_the_command(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "torch_steppers", lambda stepper, compiled: {"eager": stepper.step})
    monkeypatch.setattr(cpu, "_in_a_process", lambda peak, shape, position: 1.0)
    assert cpu.main(["--quick", "--json", str(tmp_path / "cpu.json")]) == 0
    (record,) = json.loads((tmp_path / "cpu.json").read_text())
    assert list(record) == [
        "shape",
        "position",
        "vitab_ms",
        "torch_eager_ms",
        "torch_compile_ms",
        "ratio",
        "ratio_low",
        "ratio_high",
        "none_ratio",
        "none_low",
        "none_high",
        "products_share",
        "images_per_s",
        "peak_mb",
        "torch_peak_mb",
    ]
    assert (record["shape"], record["position"], record["torch_compile_ms"]) == ("digits", "rope", None)
    assert 0 < record["ratio_low"] <= record["ratio"] <= record["ratio_high"]
    assert 0 < record["none_low"] <= record["none_ratio"] <= record["none_high"]
    assert record["images_per_s"] == pytest.approx(SHAPES["digits"].batch / record["vitab_ms"] * 1e3)
    assert json.loads((tmp_path / "cpu.machine.json").read_text())["numpy"] == np.__version__
    assert "digits" in capsys.readouterr().out


def test_an_unknown_shape_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cpu.main(["--shapes", "huge"])
    assert stop.value.code == 2
    assert "must be tiny-cifar, small, micro, digits, got 'huge'" in capsys.readouterr().err


def test_products_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their operations add up to those of a step on one lane, less the gradient of the images: nobody asks for it."""
    monkeypatch.setattr(products, "SECONDS", 1e-5)
    monkeypatch.setattr(products, "ROUNDS", 1)
    records = products.measure("digits", "rope")
    config = SHAPES["digits"].config("rope")
    embedding = 2 * config.patches * config.patch_width * config.width
    rotations = encoding("rope").flops(config)  # products, but not of matrices that a BLAS multiplies
    flops = sum(2 * r.m * r.n * r.k * r.batch * r.count for r in records)
    assert flops == 16 * (cost.TRAINING_FACTOR * (cost.forward_flops(config) - rotations) - embedding)
    assert sum(r.share for r in records) == pytest.approx(1)
    assert all(r.blas_gflops > 0 and r.own_gflops > 0 for r in records)


def test_the_peak_is_that_of_a_product_that_is_right() -> None:
    assert products.peak_gflops() > 0  # it compares its product with NumPy's


@pytest.mark.slow
def test_the_overhead_of_a_run_is_what_is_not_steps() -> None:
    start, end, both = harness.overhead(2)
    assert start.runs == end.runs == 2
    assert 0 < start.median_s <= start.most_s
    assert 0 < end.median_s <= end.most_s
    assert both.most_s <= start.most_s + end.most_s
