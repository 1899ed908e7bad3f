"""What `python -m benchmarks.gpu` does on a machine without a GPU: supervision, items, measurements and verdicts."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import comparisons, scaling, smoke, speed, steps, verdicts
from benchmarks.gpu.progress import Doing, Progress
from benchmarks.gpu.steps import Way, time_ways
from benchmarks.gpu.supervisor import Stage, Supervisor, descendants, text_of
from benchmarks.gpu.watched import WatchedDevice
from benchmarks.gpu.worker import Context
from benchmarks.shapes import GPU_SHAPES, Shape
from tests.support import fake_peer
from tests.support.cuda_device import CpuDevice, cuda_ops
from tests.support.cuda_shim import compiler
from vit.backend.cuda.ops import CudaOps
from vit.backend.cuda.sources import kernel_names

TINY = [32, 1, 2, 4, 8, 1, 5, 8]
PATIENCE = 0.06
"""Of the supervisor in tests: 0.6 s in place of 10."""


def supervised(tmp_path: Path, *items: str, seconds: float = 60.0, tell: Any = print) -> Stage:
    stage = Stage("checks", seconds, tmp_path / "gpu.checks.json")
    worker = (sys.executable, "-m", "tests.support.stage_worker")
    return Supervisor(stage, {"items": items}, worker=worker, tell=tell, patience=PATIENCE).run()


def written(stage: Stage) -> Any:
    return json.loads(stage.path.read_text())


class TestSupervision:
    def test_results_are_written_after_every_row(self, tmp_path: Path) -> None:
        seen: list[int] = []
        path = tmp_path / "gpu.checks.json"
        tell = lambda line: seen.append(len(json.loads(path.read_text())["rows"]))  # noqa: E731
        stage = supervised(tmp_path, "good", "raising", "last", tell=tell)
        assert seen == [0, 1, 2, 2, 3] or seen[:2] == [0, 1]
        assert (stage.ended, stage.passed, stage.not_run) == ("finished", False, [])
        found = written(stage)
        assert found["machine"] == {"gpus": ["none"]}
        assert [row["item"] for row in found["rows"]] == ["good", "good", "raising", "last"]
        (problem,) = found["problems"]
        assert (problem["item"], problem["what"]) == ("raising", "ValueError: no such kernel")
        assert "in raising" in problem["traceback"]
        assert found["rows"][-1]["before"] == 3
        assert found["rows"][-1]["pid"] == found["rows"][1]["pid"], "an error costs no new process"
        text = "\n".join(command.summary(stage))
        assert "PROBLEM raising: ValueError: no such kernel\n    Traceback" in text
        assert "checks: NOT PASSED, finished, in " in text
        assert "2 of 2 checks hold, 1 problems" in text

    def test_what_hangs_is_named_and_the_rest_goes_on_in_a_new_process(self, tmp_path: Path) -> None:
        stage = supervised(tmp_path, "good", "hanging", "last")
        assert stage.ended == "finished"
        first, again = stage.problems
        assert first["what"] == "no sign of life for 1 s: reading results"
        assert again["what"] == "no sign of life for 1 s: kernel one, if it is waited for"
        assert "in hanging" in again["traceback"], "where Python was"
        rows = {row["item"]: row for row in stage.rows}
        assert rows["last"]["pid"] != rows["good"]["pid"]
        assert rows["last"]["before"] == 4, "the rows of earlier processes"
        for row in stage.rows:
            if "child" in row:
                assert _is_gone(row["child"])

    def test_a_crash_and_a_lost_gpu_cost_their_own_item(self, tmp_path: Path) -> None:
        stage = supervised(tmp_path, "crashing", "losing", "last")
        assert [(p["item"], p["what"]) for p in stage.problems] == [
            ("crashing", "ended with SIGABRT: kernel two"),
            ("losing", "RuntimeError: kernel three"),
            ("losing", "the GPU is lost after it: an illegal memory access"),
        ]
        assert [row["item"] for row in stage.rows] == ["last"]
        assert stage.ended == "finished"

    def test_the_end_comes_in_time_and_names_what_did_not_run(self, tmp_path: Path) -> None:
        begun = time.monotonic()
        stage = supervised(tmp_path, "slow", "last", seconds=5.0)
        assert time.monotonic() - begun < 10
        assert stage.ended == "stopped at the time limit, in slow: slow"
        assert stage.not_run == ["slow", "last"]
        assert not stage.passed
        assert "NOT RUN: slow; last" in command.summary(stage)

    def test_nothing_runs_without_what_everything_needs(self, tmp_path: Path) -> None:
        stage = supervised(tmp_path, "needed", "last")
        assert stage.ended == "needed has failed, which all others need"
        assert stage.not_run == ["last"]
        assert len(stage.problems) == 1

    def test_a_worker_that_cannot_start_is_a_problem(self, tmp_path: Path) -> None:
        stage = Stage("speed", 30.0, tmp_path / "gpu.speed.json", summarise=verdicts.of_speed)
        worker = (sys.executable, "-c", "import no_such_module")
        Supervisor(stage, worker=worker, tell=lambda line: None).run()
        assert stage.ended == "the worker cannot start"
        assert "No module named 'no_such_module'" in stage.problems[0]["traceback"]
        assert not stage.passed
        assert [aim["reached"] for aim in written(stage)["aims"]] == [None] * 4


def _is_gone(process: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True


def test_descendants_are_found() -> None:
    assert os.getpid() in descendants(os.getppid())
    assert descendants(2**22 + 1) == []


def test_a_note_is_read_by_another(tmp_path: Path) -> None:
    mine, theirs = Progress(tmp_path / "p"), Progress(tmp_path / "p")
    assert theirs.read() == Doing(0, 10.0, "starting")
    mine.note("compiling\u2026", 60)
    mine.note("x" * 10_000)
    read = theirs.read()
    assert (read.count, read.seconds, len(read.what)) == (2, 10.0, 4096 - 20)


def test_a_row_is_a_line() -> None:
    row = {"item": "R", "passed": False, "images/s": 12345.6, "error": 0.00123, "none": None, "note": "short"}
    assert text_of(row | {"traceback": "one\ntwo"}) == "FAILED R: images/s 12,346, error 0.00123, none -, two (short)"


def test_stages_end_in_a_quarter_of_an_hour_and_some() -> None:
    assert command.STAGES == {"smoke": 60, "checks": 150, "speed": 180, "scaling": 120, "study": 120}


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["--stage", "smoke"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.gpu needs a GPU and CuPy: pip install")
    with pytest.raises(SystemExit, match="2"):
        command.main(["--stage", "all"])
    assert "invalid choice: 'all' (choose from" in capsys.readouterr().err


def test_measurements_come_only_after_passed_checks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: list[str] = []

    def ran(name: str, folder: Path, worker: Any = ()) -> Stage:
        run.append(name)
        return Stage(name, 1.0, folder)  # nothing ran, so nothing passed

    monkeypatch.setattr(command, "run", ran)
    assert command.main([], worker=("python",)) == 1
    assert run == ["smoke", "checks"]
    assert "speed is left out, since the checks have not passed" in capsys.readouterr().out


class TestWatching:
    @pytest.fixture
    def progress(self, tmp_path: Path) -> Progress:
        return Progress(tmp_path / "progress")

    def test_every_launch_product_and_graph_is_noted_before_it_starts(
        self, progress: Progress, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        noted: list[str] = []
        device = CpuDevice(lambda *launch: noted.append(progress.read().what))
        device._launch.compile = lambda kernels: noted.append(progress.read().what)  # type: ignore[union-attr]
        watched: Any = WatchedDevice(device, progress, waits=True)  # type: ignore[arg-type]
        ops = CudaOps(watched, "float32")
        ops.load_kernels(lambda: ops.fill(ops.empty((8,)), 1.0))
        ops.fill(ops.empty((8,)), 1.0)
        assert noted == [
            "compiling fill<float, 4>",
            "kernel fill<float, 4>, grid (1, 8, 1), block (256, 1, 1), 0 bytes of shared memory",
        ] or noted[1].startswith("kernel fill<float, ")
        a = np.eye(4, dtype=np.float32)[None]
        ops.matmul(a, a)
        assert progress.read().what == "after cuBLAS product (1, 4, 4) @ (1, 4, 4), float32 to float32"
        graph = ops.capture(lambda: (ops.matmul(a, a, out=a.copy()), ops.fill(a, 2.0)))
        graph.launch()
        assert noted[-1].startswith("graph of 2 launches: cuBLAS, fill<float, ")
        assert progress.read().what == f"after {noted[-1]}"
        monkeypatch.setattr(device, "to_numpy", lambda array: noted.append(progress.read().what))
        ops.to_numpy(a)
        assert noted[-1].startswith("reading results; last started: graph of 2 launches")
        assert progress.read().seconds > 10, "what the host then does is no hang"
        assert {name.partition("<")[0] for name in watched.launched} == {"fill"}


def test_smoke_launches_every_kernel(tmp_path: Path) -> None:
    """By a run that only notes what it would launch."""
    names: set[str] = set()
    with np.errstate(all="ignore"):
        for precision in ("bf16", "float32"):
            ops = CudaOps(CpuDevice(), precision)  # type: ignore[arg-type]
            for name, check in smoke.kernel_checks().items():
                names |= smoke._noted(ops, check, name)
    assert {name.partition("<")[0] for name in names} == kernel_names()
    assert {name.rpartition(",")[2] for name in names if name.startswith("bias_gelu<bf16")} >= {" true>", " false>"}


def context(tmp_path: Path, **options: Any) -> Context:
    """A context whose GPU is a device on the CPU, with kernels by `Ops`."""
    made = Context(Progress(tmp_path / "progress"), options={"shapes": {"tiny": TINY}} | options)
    ops = cuda_ops("bf16")
    made.fast_ops = lambda: ops  # type: ignore[method-assign]
    return made


@pytest.fixture
def quick_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "IMAGES", 16)
    monkeypatch.setattr(steps.time_ways, "__defaults__", (2, 0.01))  # which were bound before


@pytest.mark.usefixtures("quick_windows")
class TestMeasurements:
    def test_scaling_is_over_r(self, tmp_path: Path) -> None:
        given = context(tmp_path, runs=[1, 2])
        rows = list(scaling.over_runs(given, "tiny", "rope"))
        assert [(row["R"], row["shape"], row["position"]) for row in rows] == [(1, "tiny", "rope"), (2, "tiny", "rope")]
        for row in rows:
            assert row["images/s"] == pytest.approx(8 * row["R"] / row["ms"] * 1e3)
        assert rows[0]["growth"] == 1
        assert rows[1]["growth"] == pytest.approx(rows[1]["images/s"] / rows[0]["images/s"])

    def test_too_little_memory_ends_the_values_of_r(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full(steps.RunsAsOne):
            def __init__(self, shape: Shape, position: str, runs: int, ops: Any) -> None:
                if runs > 1:
                    raise MemoryError
                super().__init__(shape, position, runs, ops)

        monkeypatch.setattr(steps, "RunsAsOne", Full)
        rows = list(scaling.over_runs(context(tmp_path, runs=[1, 2, 4]), "tiny", "rope"))
        assert [row.get("note") for row in rows] == [None, "no memory for R=2"]
        measured = speed.Speed(context(tmp_path, runs=[2, 4]), {"tiny": Shape(*TINY)})
        assert [row["note"] for row in measured.stacks("tiny", "rope")] == ["no memory for R=2"]

    def test_shares_are_of_the_measured_peaks(self, tmp_path: Path) -> None:
        given = context(tmp_path, peaks={"size": 16, "numbers": 1 << 12, "window": 0.01}, runs=[2])
        measured = speed.Speed(given, speed.shapes_of(given))
        assert measured.make is None or measured.make is not fake_peer.quick
        measured.make = None
        (peaks,) = measured.peaks()
        given.rows.append(peaks)
        (row,) = measured.alone("tiny", "rope")
        done = row["share of peak product"] * peaks["TFLOP/s"] * 1e12 * row["ms"] / 1e3
        assert done == pytest.approx(8 * 3 * forward_operations())
        assert row["share of peak copy"] > 0
        assert "ratio" not in row
        (stacked,) = measured.stacks("tiny", "rope")
        assert stacked["R"] == 2


def forward_operations() -> int:
    """Products of one image of the tiny shape, written out: 4 patches of 16 pixels, width 32, hidden 128, rotated."""
    tokens, width = 4, 32
    block = 2 * tokens * width * (3 * width + width + 4 * width + 4 * width) + 2 * 2 * tokens * tokens * width
    rotations = 2 * 2 * 2 * tokens * width  # queries and keys: each number from two products
    return 2 * tokens * 16 * width + block + rotations + 2 * width * 5


@pytest.mark.slow
@pytest.mark.usefixtures("quick_windows")
class TestPeers:
    def measured(self, tmp_path: Path, maker: str) -> tuple[list[Any], Any]:
        given = context(tmp_path, torch=f"tests.support.fake_peer:{maker}")
        measured = speed.Speed(given, speed.shapes_of(given))
        prepared = list(measured.prepare([("tiny", "rope"), ("tiny", "learned")]))
        rows = [row for position in ("rope", "learned") for row in measured.alone("tiny", position)]
        measured.close()
        return prepared, rows

    def test_columns_are_filled(self, tmp_path: Path) -> None:
        _, rows = self.measured(tmp_path, "quick")
        for row in rows:
            assert 0 < row["eager images/s"] < 8 / 2e-3
            assert 0 < row["compiled images/s"] < 8 / 1e-3
            faster = max(row["eager images/s"], row["compiled images/s"])
            assert row["ratio"] == pytest.approx(row["images/s"] / faster)

    def test_a_peer_that_fails_costs_its_own_columns(self, tmp_path: Path) -> None:
        prepared, rows = self.measured(tmp_path, "failing")
        assert {row["note"] for row in prepared if "note" in row} == {"torch compiled: RuntimeError: out of memory"}
        rope, learned = rows
        assert ("eager images/s" in rope, "compiled images/s" in rope) == (True, False)
        assert learned["note"] == "torch eager: RuntimeError: out of memory"
        assert "ratio" not in learned


NUMPY = ("--backend", "numpy", "--workers", "1")
NARROW = ("--set", "width=16", "--set", "heads=2")
REHEARSALS: dict[str, dict[str, Any]] = {
    "smoke": {},
    "checks": {"precisions": ["bf16"], "encodings": ["rope-mixed"], "protocols": ["shuffle"]},
    "speed": {"shapes": {"tiny": TINY}, "peaks": {"size": 16, "numbers": 4096, "window": 0.01}, "runs": [2]}
    | {"torch": "tests.support.fake_peer:quick"},
    "scaling": {"shapes": {"tiny": TINY}, "runs": [1, 2]},
    "study": {"grid": "smoke", "arguments": [*NUMPY, *NARROW], "images": 20}
    | {"torch": "tests.support.fake_peer:quick"},
}


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="g++ is not installed: CUDA kernels cannot run on the CPU")
class TestRehearsal:
    """Whole stages as on a GPU, in processes whose CuPy is the fake one and whose kernels are compiled by g++."""

    @pytest.mark.parametrize("stage", REHEARSALS)
    def test_a_stage_passes(
        self, stage: str, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(command.STAGES, stage, 400.0)  # kernels may have to be compiled first
        folder = pytestconfig.cache.mkdir("cuda_shim")
        worker = (sys.executable, "-m", "tests.support.gpu_rehearsal", str(folder))
        done = command.run(stage, tmp_path, REHEARSALS[stage], worker)
        assert done.problems == []
        assert [row for row in done.rows if row.get("passed") is False] == []
        assert done.not_run == []
        assert done.passed

    def test_a_kernel_that_hangs_is_named(
        self, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(command.STAGES, "smoke", 400.0)
        folder = pytestconfig.cache.mkdir("cuda_shim")
        worker = (sys.executable, "-m", "tests.support.gpu_rehearsal", str(folder), "hang")
        done = command.run("smoke", tmp_path, {}, worker)
        hung = [problem for problem in done.problems if "kernel softmax<float, 1>, grid" in problem["what"]]
        assert [problem["item"] for problem in hung] == ["arrays", "kernel softmax"]
        assert done.not_run == []
        assert "kernel cross_entropy" in {row["item"] for row in done.rows}, "what comes after it"


class TestVerdicts:
    """By rows made up to reach every aim, each then changed in one place."""

    def rows(self, best: float = 9000.0, **changes: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"item": "peaks", "TFLOP/s": 800.0}]
        for shape, about in GPU_SHAPES.items():
            for position in ("learned", "rope"):
                row = {"shape": shape, "width": about.width, "position": position, "R": 1, "images/s": 2000.0}
                row |= {"eager images/s": 800.0, "compiled images/s": 1000.0, "ratio": 2.0}
                row |= changes.get(shape, {}) if position == "rope" else {}
                share = 0.45 if about.width == 384 else 0.2
                more = {"R": 64, "images/s": best, "share of peak product": share}
                rows += [row, {key: row[key] for key in ("shape", "width", "position")} | more]
        return rows

    def test_all_are_reached(self) -> None:
        found = verdicts.of_speed(self.rows())
        assert [v["reached"] for v in found] == [True] * 4
        assert [v["value"] for v in found] == [2.0, 2.0, 9.0, 0.45]

    def test_one_row_that_is_too_slow_is_enough(self) -> None:
        found = verdicts.of_speed(self.rows(digits={"ratio": 1.4}, wide={"ratio": 0.99}, best=7000.0))
        assert [v["reached"] for v in found] == [False, False, False, True]
        assert found[0]["where"] == "digits, rope, R=1"

    def test_beside_eager_alone_nothing_is_decided(self) -> None:
        found = verdicts.of_speed(self.rows(micro={"compiled images/s": None}))
        assert [v["reached"] for v in found] == [None, True, None, True]
        assert found[0]["where"] == "not measured beside both eager and compiled PyTorch: micro, rope, R=1"

    def test_nothing_measured_decides_nothing(self) -> None:
        assert [v["reached"] for v in verdicts.of_speed([])] == [None] * 4
        assert [v["reached"] for v in verdicts.of_study([])] == [None]

    def test_the_study(self) -> None:
        rows = [{"grid": "digits", "passed": True, "seconds": 30.0}]
        assert verdicts.of_study(rows)[0]["reached"] is None
        rows.append({"grid": "digits, compiled", "passed": True, "seconds": 9.0})
        assert verdicts.of_study(rows)[0]["reached"] is True
        rows[-1]["passed"] = False
        assert verdicts.of_study(rows)[0]["reached"] is None


def test_peers_are_taken_in_turn_and_the_faster_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    now = [100.0]

    def way(name: str, seconds: float) -> Way:
        def start(count: int) -> None:
            turns.append(name)
            now[0] += count * seconds

        return Way(name, 8, start, lambda: None)

    monkeypatch.setattr(steps.time, "perf_counter", lambda: now[0])
    times = time_ways([way("vitab", 1e-3), way("torch eager", 4e-3)], windows=3, window=0.01)
    assert times["vitab"].seconds == pytest.approx(1e-3)
    assert times["torch eager"].seconds == pytest.approx(4e-3)
    assert turns[-6:] == ["vitab", "torch eager"] * 3


@pytest.mark.usefixtures("quick_windows")
def test_what_a_step_moves_counts_the_batch_and_not_the_data_set() -> None:
    together = steps.RunsAsOne(Shape(*TINY), "rope", 2, cuda_ops())
    together.way().start(2)
    assert together.bytes == together.engine.bytes_named - 16 * 64 + 16 * 64 * 16 // 16
    assert together.bytes > 4 * together.engine.model.parameters.flat.nbytes  # AdamW alone reads four such arrays


@pytest.mark.slow
def test_every_protocol_is_compared() -> None:
    from ablations.evaluation.registry import PROTOCOLS
    from benchmarks.gpu.protocols import compared

    ops = cuda_ops("float32")
    for name in PROTOCOLS:
        checks = list(compared(ops, name, images=12))
        assert [check for check in checks if not check.passed] == []
        assert len(checks) == 4, "two of each of two encodings"


def test_every_encoding_is_checked() -> None:
    from ablations.config.builtin_grids import ENCODINGS
    from vit.positions import POSITIONS

    assert set(comparisons.ENCODINGS) >= {*POSITIONS, *ENCODINGS}
