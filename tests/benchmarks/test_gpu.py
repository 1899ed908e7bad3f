"""What `python -m benchmarks.gpu` does, on a device that is none: parts, budget, records, verdicts and the table."""

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu, gpu_checks, gpu_result, gpu_speed
from benchmarks.gpu_result import Record, Result
from benchmarks.gpu_speed import Way, time_ways
from benchmarks.shapes import GPU_SHAPES, Shape
from tests.support import fake_peer
from tests.support.cuda_device import CpuDevice, cuda_ops

TINY = {"tiny": Shape(32, 1, 2, 4, 8, 1, 5, 8)}


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (gpu, "GPU_SHAPES", TINY),
        (gpu_result, "GPU_SHAPES", TINY),
        (gpu, "RUNS", (1, 2)),
        (gpu, "PROCESSES", (1, 2)),
        (gpu, "PROCESS_SECONDS", 0.1),
        (gpu_speed, "IMAGES", 16),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(gpu_speed.measure_peaks, "__defaults__", (16, 1 << 12, 0.01))  # which were bound before
    monkeypatch.setattr(gpu_speed.time_ways, "__defaults__", (2, 0.01))


small = pytest.mark.usefixtures("_small")


@pytest.fixture
def few_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts that say nothing of a device."""

    def first(ops: Any) -> list[gpu_checks.Check]:
        return [gpu_checks.Check("one", 0.5, 1.0)]

    def second(ops: Any) -> list[gpu_checks.Check]:
        return [gpu_checks.Check("another", 0.0, 1.0)]

    monkeypatch.setattr(gpu_checks, "CHECKS", (first, second))
    monkeypatch.setattr(gpu_checks, "compile_host_side", print)


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def benchmark(budget: gpu.Budget, saved: list[str] | None = None, **changes: Any) -> gpu.Benchmark:
    options: dict[str, Any] = {"shapes": ["tiny"], "positions": ["learned", "rope"], "make": None}
    kept: list[str] = [] if saved is None else saved
    save: Callable[[Result], None] = lambda result: kept.append(json.dumps(result.as_json()))  # noqa: E731
    return gpu.Benchmark(cuda_ops, ("bf16", "float32"), budget, save, **options | changes)


@pytest.mark.slow
@small
def test_the_whole_of_it() -> None:
    saved: list[str] = []
    result = benchmark(gpu.Budget(1e6), saved).run()
    assert result.correct
    assert result.expected == [
        (precision, part)
        for precision in ("bf16", "float32")
        for part in ("operations", "draws", "gradients", "stacks", "training")
    ]
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
    written = json.loads(saved[-1])
    assert written["records"][-1]["position"] == "rope"
    assert written["correct"]
    text = gpu.table(result)
    assert f"{len(result.checks)} of {len(result.checks)} checks passed" in text
    assert text.count("\ntiny") == 4


def forward_operations() -> int:
    """Products of one image of the tiny shape, written out: 4 patches of 16 pixels, width 32, hidden 128."""
    tokens, width = 4, 32
    block = 2 * tokens * width * (3 * width + width + 4 * width + 4 * width) + 2 * 2 * tokens * tokens * width
    return 2 * tokens * 16 * width + block + 2 * width * 5


class TestBudget:
    def test_a_part_ends_when_its_share_of_the_time_does(self) -> None:
        clock = Clock()
        budget = gpu.Budget(100, clock)
        budget.part("checks")
        clock.now += 19
        assert budget.allows("one more")
        assert not budget.allows("a long one", needed=2)
        budget.notes.clear()
        budget.part("compile")
        clock.now += 23.5
        assert budget.allows("what the checks left")
        clock.now += 1
        assert not budget.allows("another")
        assert budget.notes == ["compile: no time for another"]

    def test_what_is_not_a_parts_own_moves_its_end_and_not_the_last(self) -> None:
        clock = Clock()
        budget = gpu.Budget(100, clock)
        budget.part("checks")
        budget.spare(10)
        assert budget.left == pytest.approx(30)
        budget.spare(1000)
        assert budget.left == pytest.approx(100)


@small
@pytest.mark.usefixtures("few_checks")
class TestChecks:
    def test_the_fastest_precision_is_checked_whatever_time_there_is(self) -> None:
        result = benchmark(gpu.Budget(0)).run()
        assert [(c["precision"], c["part"], c["passed"]) for c in result.checks] == [
            ("bf16", "first", True),
            ("bf16", "second", True),
        ]
        assert result.not_run == [("float32", "first"), ("float32", "second")]
        assert not result.correct, "what did not run has not passed"
        assert "checks: no time for first in float32" in result.left_out
        text = gpu.table(result)
        assert "NOT RUN float32: second" in text
        assert "alone: no time for tiny, learned, R=1" in text

    def test_compiling_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a first check of each precision compiles for longer than all checks may take."""
        clock = Clock()

        def compiles(ops: Any) -> list[gpu_checks.Check]:
            ops.device.compiling += 50
            clock.now += 50
            return [gpu_checks.Check("compiled", 0.0, 1.0)]

        monkeypatch.setattr(gpu_checks, "CHECKS", (compiles, *gpu_checks.CHECKS))
        monkeypatch.setattr(CpuDevice, "compiling", 0.0)
        made = benchmark(gpu.Budget(200, clock))
        made.check()
        made.peers.close()
        assert made.result.correct
        assert made.result.left_out == []
        assert made.result.seconds == 100

    def test_nothing_checked_is_not_correct(self) -> None:
        assert not Result({}, "bf16").correct

    def test_one_that_breaks_off_has_failed_and_the_others_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(ops: Any) -> list[gpu_checks.Check]:
            raise RuntimeError("an illegal memory access was encountered")

        monkeypatch.setattr(gpu_checks, "CHECKS", (broken, *gpu_checks.CHECKS))
        saved: list[str] = []
        result = benchmark(gpu.Budget(1e6), saved, positions=["rope"]).run()
        assert not result.correct
        assert len(result.checks) == 6
        assert "checks: broken in bf16: RuntimeError: an illegal memory access was encountered" in result.left_out
        assert "FAILED bf16: raised an error: error -, limit 0" in gpu.table(result)
        assert json.loads(saved[-1])["checks"][0]["error"] is None

    def test_a_failed_check_is_shown(self) -> None:
        found = gpu_checks.Check("add", 0.5, 1e-3)
        assert not found.passed
        assert not gpu_checks.Check("add", float("nan"), 1e-3).passed
        checks = [{"precision": "bf16", "part": "operations", **asdict(found), "passed": found.passed}]
        result = Result({}, "bf16", [("bf16", "operations")], checks=checks)
        assert not result.correct
        assert "0 of 1 checks passed" in gpu.table(result)
        assert "FAILED bf16: add: error 0.5, limit 0.001" in gpu.table(result)


@small
@pytest.mark.usefixtures("few_checks")
class TestRows:
    def test_too_little_memory_leaves_a_row_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And what the row had taken is given back before the next: nothing holds on to it."""
        failed: list[weakref.ref[gpu.RunsAsOne]] = []
        gone: list[bool] = []

        class Full(gpu.RunsAsOne):
            def __init__(self, shape: Shape, position: str, runs: int, ops: Any) -> None:
                super().__init__(shape, position, runs, ops)
                if runs > 1:
                    failed.append(weakref.ref(self))
                    raise MemoryError

        def release(ops: Any) -> None:
            gc.collect()
            gone.extend(ref() is None for ref in failed)

        monkeypatch.setattr(gpu, "RunsAsOne", Full)
        monkeypatch.setattr(gpu_speed, "release", release)
        result = benchmark(gpu.Budget(1e6), positions=["rope"]).run()
        assert [r.ms is None for r in result.records] == [False, True]
        assert result.left_out == ["stacks: tiny, rope, R=2: no memory"]
        assert gone == [True]

    def test_all_of_one_run_come_before_any_of_more(self) -> None:
        saved: list[str] = []
        benchmark(gpu.Budget(1e6), saved).run()
        rows = [[(r["position"], r["runs"]) for r in json.loads(text)["records"]] for text in saved]
        assert next(row for row in rows if len(row) == 3)[:2] == [("learned", 1), ("rope", 1)]
        assert next(row for row in rows if len(row) == 3)[2] == ("rope", 2)


@pytest.mark.slow
@small
@pytest.mark.usefixtures("few_checks")
class TestPeers:
    def test_columns_are_filled(self) -> None:
        result = benchmark(gpu.Budget(300), make=fake_peer.quick).run()
        assert result.left_out == []
        alone = {r.position: r for r in result.records if r.runs == 1}
        for record in alone.values():
            eager, compiled = record.torch_eager_images_per_s, record.torch_compile_images_per_s
            assert eager is not None
            assert compiled is not None
            assert eager < 8 / 2e-3
            assert compiled < 8 / 1e-3
            assert record.ratio == pytest.approx(record.images_per_s / max(eager, compiled))  # type: ignore[operator]
            assert record.ratio_to == "both"
        processes = {(r.position, r.runs): r.processes_images_per_s for r in result.records}
        assert all(0 < processes[position, runs] < runs * 8 / 2e-3 for position in alone for runs in (1, 2))  # type: ignore[operator]

    def test_a_peer_that_fails_costs_its_own_columns(self) -> None:
        result = benchmark(gpu.Budget(300), make=fake_peer.failing).run()
        alone = {r.position: r for r in result.records if r.runs == 1}
        assert all(record.ms for record in alone.values())
        assert [alone[p].ratio_to for p in ("learned", "rope")] == [None, "eager"]
        assert "compile: torch compile: RuntimeError: out of memory, tiny, rope" in result.left_out
        reason = "PeerError: torch eager: RuntimeError: out of memory"
        assert f"alone: torch eager, tiny, learned, R=1: {reason}" in result.left_out
        assert f"processes: processes, tiny, learned: {reason}" in result.left_out
        assert "eager" in gpu.table(result).split("tiny       rope        1")[1].splitlines()[0]

    def test_compiling_that_hangs_is_cut_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock()
        monkeypatch.setattr(gpu.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + 10))
        result = benchmark(gpu.Budget(300, clock), make=fake_peer.hanging, positions=["rope"]).run()
        assert "compile: torch compile took too long, tiny, rope" in result.left_out
        (alone,) = (r for r in result.records if r.runs == 1)
        assert alone.ratio_to == "eager"

    def test_the_end_comes_wherever_it_hangs(self, capsys: pytest.CaptureFixture[str]) -> None:
        saved: list[str] = []
        made = benchmark(gpu.Budget(300), saved)
        left: list[int] = []
        gpu.stop_after(0.0, made, left.append).join(30)
        assert left == [1]
        assert json.loads(saved[-1])["left_out"] == [": stopped at the time limit"]
        assert "stopped at the time limit" in capsys.readouterr().out


def test_parts_end_before_the_whole_and_the_whole_in_under_eight_minutes() -> None:
    ends = list(gpu.ENDS.values())
    assert ends == sorted(ends)
    assert ends[-1] == 1
    assert gpu.SECONDS + 2 * gpu.GRACE < 8 * 60


class TestVerdicts:
    """By records made up to hold, each then changed in one place."""

    def result(self, **changes: Any) -> Result:
        records = []
        for shape, about in GPU_SHAPES.items():
            for position in ("learned", "rope"):
                alone = Record(shape, position, 1, 1.0, 2000.0, 0.3, ratio=2.0)
                both = {"torch_eager_images_per_s": 800.0, "torch_compile_images_per_s": 1000.0}
                own = changes.get(shape, {}) if position == "rope" else {}
                records.append(Record(**asdict(alone) | both | own))
                share = 0.45 if about.width == 384 else 0.2
                records.append(Record(shape, position, 64, 1.0, changes.get("best", 9000.0), share))
        return Result({}, "bf16", records=records)

    def test_all_hold(self) -> None:
        verdicts = self.result().verdicts()
        assert [v.holds for v in verdicts] == [True] * 4
        assert [v.value for v in verdicts] == [2.0, 2.0, 9.0, 0.45]

    def test_one_row_that_is_too_slow_is_enough(self) -> None:
        verdicts = self.result(digits={"ratio": 1.4}, wide={"ratio": 0.99}, best=7000.0).verdicts()
        assert [v.holds for v in verdicts] == [False, False, False, True]
        assert verdicts[0].where == "digits, rope, R=1"
        assert "1.40    1.50  NO (digits, rope, R=1)" in gpu.table(self.result(digits={"ratio": 1.4}))

    def test_beside_eager_alone_nothing_is_decided(self) -> None:
        verdicts = self.result(micro={"torch_compile_images_per_s": None}).verdicts()
        assert [v.holds for v in verdicts] == [None, True, None, True]
        assert verdicts[0].where == "not measured with both kinds of PyTorch: micro, rope, R=1"

    def test_rows_that_are_missing_decide_nothing(self) -> None:
        result = self.result()
        result.records = [r for r in result.records if (r.shape, r.position, r.runs) != ("wide", "rope", 1)]
        assert [v.holds for v in result.verdicts()] == [True, None, True, True]
        assert [v.holds for v in Result({}, "bf16").verdicts()] == [None] * 4


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


@small
def test_what_a_step_moves_counts_the_batch_and_not_the_data_set() -> None:
    together = gpu.RunsAsOne(TINY["tiny"], "rope", 2, cuda_ops())
    together.way().start(2)
    whole = together.engine.bytes_named
    assert together.bytes == whole - 16 * 64 + 16 * 64 * 16 // 16
    weights = together.engine.model.parameters.flat.nbytes
    assert np.isfinite(together.bytes)
    assert together.bytes > 4 * weights  # AdamW alone reads four such arrays
