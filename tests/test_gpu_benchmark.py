"""What `python -m benchmarks.gpu` does, on a device that is none: parts, budget, records and the table."""

import json
import sys
import types
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from cuda_device import cuda_ops

from benchmarks import gpu, gpu_checks, gpu_speed
from benchmarks.gpu_speed import Way, time_ways
from benchmarks.shapes import Shape

TINY = {"tiny": Shape(32, 1, 2, 4, 8, 1, 5, 8)}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (gpu, "GPU_SHAPES", TINY),
        (gpu, "RUNS", (1, 2)),
        (gpu_speed, "IMAGES", 16),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(gpu_speed.measure_peaks, "__defaults__", (16, 1 << 12, 0.01))  # which were bound before
    monkeypatch.setattr(gpu_speed.time_ways, "__defaults__", (2, 0.01))


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(budget: gpu.Budget, **changes: Any) -> tuple[gpu.Result, list[str]]:
    saved: list[str] = []
    options: dict[str, Any] = {"shapes": ["tiny"], "positions": ["learned", "rope"], "with_torch": False}
    result = gpu.benchmark(
        cuda_ops, ("bf16", "float32"), budget, lambda r: saved.append(json.dumps(asdict(r))), **options | changes
    )
    return result, saved


def test_the_whole_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result, saved = run(gpu.Budget(1e6))
    assert result.correct
    assert {check["precision"] for check in result.checks} == {"bf16", "float32"}
    assert [(r.shape, r.position, r.runs) for r in result.records] == [
        ("tiny", position, runs) for position in ("learned", "rope") for runs in (1, 2)
    ]
    assert result.peaks is not None
    for record in result.records:
        assert record.ms is not None
        assert record.images_per_s == pytest.approx(8 * record.runs / record.ms * 1e3)
        assert record.product_peak_share is not None
        operations = record.product_peak_share * result.peaks.tflops * 1e12 * record.ms / 1e3
        assert operations == pytest.approx(record.runs * 8 * 3 * forward_operations())
        assert record.copy_peak_share is not None
        assert record.copy_peak_share > 0
    by_runs = {(r.position, r.runs): r for r in result.records}
    assert by_runs["rope", 1].growth == 1
    doubled, alone = by_runs["rope", 2], by_runs["rope", 1]
    assert doubled.growth == pytest.approx(doubled.images_per_s / alone.images_per_s)  # type: ignore[operator]
    assert json.loads(saved[-1])["records"][-1]["position"] == "rope"
    text = gpu.table(result)
    assert f"{len(result.checks)} of {len(result.checks)} checks passed" in text
    assert text.count("tiny") == 4


def forward_operations() -> int:
    """Products of one image of the tiny shape, written out: 4 patches of 16 pixels, width 32, hidden 128."""
    tokens, width = 4, 32
    block = 2 * tokens * width * (3 * width + width + 4 * width + 4 * width) + 2 * 2 * tokens * tokens * width
    return 2 * tokens * 16 * width + block + 2 * width * 5


def test_what_no_longer_fits_is_left_out_and_named() -> None:
    clock = Clock()
    budget = gpu.Budget(100, clock)
    budget.part("checks")
    clock.now += 11
    assert budget.allows("one more")
    assert not budget.allows("a long one", needed=2)
    budget.notes.clear()
    budget.part("vitab")
    clock.now += 26
    assert budget.allows("a record")  # what the checks left
    clock.now += 1.5
    assert not budget.allows("another record")
    assert budget.notes == ["vitab: no time for another record"]
    result, _ = run(gpu.Budget(0))
    assert result.checks == result.records == []
    assert result.correct
    assert "checks: no time for operations in bf16" in result.left_out
    assert "vitab: no time for tiny, learned, R=1" in gpu.table(result)


def test_a_failed_check_is_shown_and_fails_the_command() -> None:
    found = gpu_checks.Check("add", 0.5, 1e-3)
    nan = gpu_checks.Check("add", float("nan"), 1e-3)
    assert not found.passed
    assert not nan.passed
    result = gpu.Result({}, "bf16", checks=[{"precision": "bf16", **asdict(found), "passed": found.passed}])
    assert not result.correct
    assert "0 of 1 checks passed" in gpu.table(result)
    assert "FAILED bf16: add: error 0.5, limit 0.001" in gpu.table(result)


def test_too_little_memory_leaves_a_row_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(gpu.RunsAsOne):
        def __init__(self, shape: Shape, position: str, runs: int, ops: Any) -> None:
            if runs > 1:
                raise MemoryError
            super().__init__(shape, position, runs, ops)

    monkeypatch.setattr(gpu, "RunsAsOne", Full)
    result, _ = run(gpu.Budget(1e6), positions=["rope"])
    assert [r.ms is None for r in result.records] == [False, True]
    assert result.left_out == ["vitab: no memory for tiny, rope, R=2"]


def test_peers_are_taken_in_turn_and_the_faster_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def way(name: str, seconds: float) -> Way:
        def start(steps: int) -> None:
            turns.append(name)
            clock.now += steps * seconds

        return Way(name, 8, start, lambda: None)

    clock = Clock()
    monkeypatch.setattr(gpu_speed.time, "perf_counter", clock)
    times = time_ways([way("vitab", 1e-3), way("torch eager", 4e-3)], windows=3, window=0.01)
    assert times["vitab"].seconds == pytest.approx(1e-3)
    assert times["torch eager"].seconds == pytest.approx(4e-3)
    assert turns[-6:] == ["vitab", "torch eager"] * 3


def test_without_a_gpu_it_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "cupy_problem", lambda: "CuPy is not installed (pip install it)")
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.gpu needs a GPU: CuPy is not installed (pip install it)\n"


def test_what_a_step_moves_counts_the_batch_and_not_the_data_set() -> None:
    together = gpu.RunsAsOne(TINY["tiny"], "rope", 2, cuda_ops())
    together.way().start(2)
    whole = together.engine.bytes_named
    assert together.bytes == whole - 16 * 64 + 16 * 64 * 16 // 16
    weights = together.engine.model.parameters.flat.nbytes
    assert np.isfinite(together.bytes)
    assert together.bytes > 4 * weights  # AdamW alone reads four such arrays


def test_peers_fill_their_columns_and_what_takes_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for PyTorch, of which a compiled step takes half the time and its compilation 50 seconds."""
    clock = Clock()

    class Stepper:
        def __init__(self, shape: Shape, position: str, *, compiled: bool) -> None:
            self.name, self.pause = ("torch compile", 2.0) if compiled else ("torch eager", 4.0)
            clock.now += 50 if compiled else 0

        def way(self) -> Way:
            return Way(self.name, 8, lambda steps: None, lambda: None)

    def times(ways: list[Way]) -> dict[str, gpu_speed.Timing]:
        seconds = {"vitab": 1.0, "products": 0.5, "torch eager": 4.0, "torch compile": 2.0}
        return {way.name: gpu_speed.Timing(seconds[way.name], 0, 0) for way in ways}

    peer = types.ModuleType("benchmarks.torch_gpu")
    peer.__dict__.update(
        TorchGpuStepper=Stepper, release=lambda: None, side_by_side=lambda shape, position, runs, seconds: 3.0 * runs
    )
    monkeypatch.setitem(sys.modules, "benchmarks.torch_gpu", peer)
    monkeypatch.setattr("benchmarks.torch_gpu", peer, raising=False)
    monkeypatch.setattr(gpu, "time_ways", times)
    monkeypatch.setattr(gpu, "PROCESSES", (2,))
    monkeypatch.setattr(gpu, "PROCESS_SHAPES", ("tiny",))
    result, _ = run(gpu.Budget(110, clock), with_torch=True)  # the torch part ends after 95 of them
    alone = {r.position: r for r in result.records if r.runs == 1}
    assert [alone[p].torch_eager_images_per_s for p in ("learned", "rope")] == [2, 2]
    assert [alone[p].torch_compile_images_per_s for p in ("learned", "rope")] == [None, 4]
    assert [alone[p].ratio for p in ("learned", "rope")] == [4, 2], "to the faster of those that were measured"
    assert result.left_out == ["torch: no time for torch compile, tiny, learned"]
    assert {(r.position, r.runs): r.processes_images_per_s for r in result.records}["rope", 2] == 6
    assert [r.processes_images_per_s for r in result.records].count(None) == 3
