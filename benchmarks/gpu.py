"""Correctness checks of GPU training, and comparison of its speed with PyTorch: `python -m benchmarks.gpu`.

Correctness: every operation and random draw is compared with the host, gradients of whole models are compared with
float64, eight runs trained as one model (R = 8) with the same runs trained alone, and ten losses with the CPU.

Speed: images per second of R = 1, 4, 16, 64 runs trained as one model, and their shares of the measured peaks of the
GPU. PyTorch uses bf16 autocast, eager and compiled (max-autotune). Its models are compiled while vitab is checked. The
steps of PyTorch alternate with those of R = 1. Afterwards, R PyTorch processes train at the same time.

Each part has a share of the time limit and adds a note for each measurement that it omits. If a part hangs, the process
is stopped after the time limit.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TypeVar

from benchmarks import gpu_checks, gpu_speed
from benchmarks.gpu_result import Record, Result, table
from benchmarks.gpu_speed import RunsAsOne, Way, time_ways
from benchmarks.peers import Compilations, Crowd, Make, Peer, torch_stepper
from benchmarks.shapes import GPU_SHAPES, POSITIONS
from vit import get_ops
from vit.backend import cupy_precisions, cupy_problem
from vit.backend.cuda.ops import CudaOps

RUNS = (1, 4, 16, 64)
PROCESSES = (4, 16)
"""Values of R for which separate PyTorch processes are measured. 64 processes would not fit into host memory."""
PROCESS_WIDTHS = 128
"""Maximum width for which separate processes are measured. One process with such a model does not fully use the GPU."""
PROCESS_SECONDS = 4.0
ENDS = {"checks": 0.2, "compile": 0.43, "alone": 0.66, "stacks": 0.89, "processes": 1.0}
"""End of each part, as a share of the time limit. The next part can use the time that a part leaves over."""
GRACE = 15.0
"""Seconds between the time limit and the forced exit of the process."""
STARTING = 60.0
"""Time limit in seconds for processes to import PyTorch and create their first models."""
SECONDS = 430.0
"""Time limit of the benchmark in seconds."""
RESULT = Path(__file__).parent / "results" / "gpu.json"
T = TypeVar("T")


@dataclass
class Budget:
    """Time limits of the parts of a benchmark."""

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    notes: list[str] = field(default_factory=list)
    """Descriptions of omitted measurements."""

    def __post_init__(self) -> None:
        self.start = self.end = self.clock()
        self.name = ""

    def part(self, name: str) -> None:
        """Start a part. It ends when its own share and the shares of all previous parts are used up."""
        self.name, self.end = name, self.start + self.seconds * ENDS[name]

    def spare(self, seconds: float) -> None:
        """Extend this part by `seconds`, but not beyond the time limit of the benchmark."""
        self.end = min(self.end + seconds, self.start + self.seconds)

    @property
    def left(self) -> float:
        """Seconds left in this part."""
        return max(0.0, self.end - self.clock())

    def allows(self, what: str, needed: float = 0.0) -> bool:
        """Return whether more than `needed` seconds are left in this part. If not, add a note."""
        if self.left > needed:
            return True
        self.note(f"no time for {what}")
        return False

    def note(self, what: str) -> None:
        self.notes.append(f"{self.name}: {what}")


class Benchmark:
    """GPU benchmark. Its parts are ordered so that targets are measured first. `save` is called after each step."""

    def __init__(
        self,
        make_ops: Callable[[str], CudaOps],
        precisions: Sequence[str],
        budget: Budget,
        save: Callable[[Result], None],
        *,
        shapes: Sequence[str],
        positions: Sequence[str],
        make: Make | None,
    ) -> None:
        """Prepare the benchmark. `make` creates PyTorch models; if it is None, PyTorch is omitted."""
        self.make_ops, self.precisions, self.budget, self.save, self.make = make_ops, precisions, budget, save, make
        self.ops = make_ops(precisions[0])
        parts = [part.__name__ for part in gpu_checks.CHECKS]
        expected = [(precision, part) for precision in precisions for part in parts]
        self.result = Result(machine(self.ops), precisions[0], expected, left_out=budget.notes)
        large_first = sorted(shapes, key=lambda name: -GPU_SHAPES[name].width * GPU_SHAPES[name].depth)
        self.pairs = [(shape, position) for position in reversed(positions) for shape in large_first]
        self.records: dict[tuple[str, str, int], Record] = {}
        self.peers = ExitStack()
        """Callbacks that kill all started processes when the stack is closed."""
        at_once = max(2, min(5, (os.cpu_count() or 1) // 4))
        self.compilations = Compilations(self.pairs, make, at_once) if make else None
        self.eager: Peer | None = None

    def run(self) -> Result:
        with self.peers:
            if self.compilations:
                self.peers.callback(self.compilations.close)
            self.check()
            self.prepare()
            self.result.peaks = self.attempt("peaks of the GPU", lambda: gpu_speed.measure_peaks(self.ops))
            self.alone()
            self.stacks()
            self.processes()
        self.keep()
        return self.result

    # Parts

    def check(self) -> None:
        """Run every check in every precision, the first one without a time limit. Compilation time is not counted."""
        self.budget.part("checks")
        host = multiprocessing.get_context("spawn").Process(target=gpu_checks.compile_host_side, daemon=True)
        host.start()
        self.peers.callback(host.kill)
        for precision in self.precisions:
            ops = self.attempt(f"a device in {precision}", lambda precision=precision: self.make_ops(precision))
            if ops is None:
                continue
            for part in gpu_checks.CHECKS:
                what = f"{part.__name__} in {precision}"
                self.look()
                if precision != self.precisions[0] and not self.budget.allows(what):
                    continue
                if part in gpu_checks.ON_HOST_TOO:
                    host.join(STARTING)
                compiled_before = ops.device.compiling
                found = self.attempt(what, lambda part=part, ops=ops: [*part(ops)])
                self.budget.spare(ops.device.compiling - compiled_before)
                for each in [gpu_checks.Check("raised an error", float("nan"), 0.0)] if found is None else found:
                    error = each.error if isfinite(each.error) else None
                    about = {"precision": precision, "part": part.__name__, **asdict(each)}
                    self.result.checks.append(about | {"error": error, "passed": each.passed})
                self.keep()

    def prepare(self) -> None:
        """Compile the kernels and graphs of every shape, while PyTorch compiles its models."""
        self.budget.part("compile")
        if self.make:
            self.attempt("torch eager", self._start_eager)
        for shape, position in self.pairs:
            self.look()
            if self.budget.left:
                self.attempt(f"kernels of {shape}, {position}", lambda s=shape, p=position: self._warm(s, p))
        if eager := self.eager:
            self.attempt("torch eager", lambda: eager.answer(min(STARTING, self.budget.left)))
        if self.compilations:
            while not self.compilations.over and self.budget.left:
                self.look()
                time.sleep(0.05)
            self.compilations.stop()
            for (shape, position), why in self.compilations.failed.items():
                self.budget.note(f"{why}, {shape}, {position}")

    def alone(self) -> None:
        """Measure R = 1, alternately with PyTorch."""
        self.budget.part("alone")
        for shape, position in self.pairs:
            self.records[shape, position, 1] = Record(shape, position, 1)
            if self.budget.allows(f"{shape}, {position}, R=1"):
                self._alone(shape, position)
            self.keep()
        for peers in filter(None, (self.eager, self.compilations)):  # free device memory for the next parts
            peers.close()

    def stacks(self) -> None:
        """Measure R runs trained as one model, in increasing order of R, as far as time and memory allow."""
        self.budget.part("stacks")
        for position in dict.fromkeys(position for _, position in self.pairs):
            for runs in RUNS[1:]:
                for shape in (shape for shape, own in reversed(self.pairs) if own == position):  # small shapes first
                    name = f"{shape}, {position}, R={runs}"
                    if not self.budget.allows(name):
                        continue
                    measure = lambda s=shape, p=position, r=runs: self._measure(s, p, r)  # noqa: E731
                    record = self.attempt(name, measure)
                    self.records[shape, position, runs] = record or Record(shape, position, runs)
                    self.keep()

    def processes(self) -> None:
        """Measure R PyTorch processes that train at the same time."""
        self.budget.part("processes")
        pairs = [(shape, position) for shape, position in self.pairs if GPU_SHAPES[shape].width <= PROCESS_WIDTHS]
        if not self.make or not pairs or not self.budget.allows("processes", STARTING / 2):
            return
        crowd = self.attempt("processes", lambda: self.make and Crowd(max(PROCESSES), self.make))
        if not crowd:
            return
        self.peers.callback(crowd.close)
        for shape, position in pairs:
            name = f"processes, {shape}, {position}"
            if not self.budget.allows(name, len(PROCESSES) * PROCESS_SECONDS + 5):
                break
            within = min(STARTING, self.budget.left - len(PROCESSES) * PROCESS_SECONDS)
            if self.attempt(name, lambda s=shape, p=position, w=within: crowd.make(s, p, w) or True) is None:
                break  # the other processes may be in an undefined state
            for runs in PROCESSES:
                speed = self.attempt(name, lambda r=runs: crowd.images_per_s(r, PROCESS_SECONDS))
                if speed is None:
                    return
                record = self.records.get((shape, position, runs), Record(shape, position, runs))
                self.records[shape, position, runs] = replace(record, processes_images_per_s=speed)
                self.keep()

    # Helpers

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        """Return the result of `work`. If it raises, add a note and return None, so that the benchmark continues."""
        try:
            return work()
        except Exception as error:
            lines = f"{type(error).__name__}: {error}".splitlines()
            reason = "no memory" if isinstance(error, MemoryError) else lines[0][:200]
        # Outside the except clause, because the exception references the arrays until the clause ends.
        self.budget.note(f"{what}: {reason}")
        with suppress(Exception):  # the GPU may be in an unrecoverable state
            gpu_speed.release(self.ops)
        return None

    def look(self) -> None:
        if self.compilations:
            self.attempt("torch compile", self.compilations.look)

    def keep(self) -> None:
        shapes, positions = [*GPU_SHAPES], [*POSITIONS]
        order = sorted(self.records, key=lambda key: (shapes.index(key[0]), positions.index(key[1]), key[2]))
        self.result.records = [self.records[key] for key in order]
        self.result.seconds = self.budget.clock() - self.budget.start
        self.result.compiling_s = self.ops.device.compiling
        self.save(self.result)

    def _start_eager(self) -> None:
        """Start a process for eager PyTorch models, and request its first model."""
        assert self.make
        self.eager = Peer(self.make)
        self.peers.callback(self.eager.close)
        self.eager.make(*self.pairs[0])

    def _warm(self, shape: str, position: str) -> None:
        together = RunsAsOne(GPU_SHAPES[shape], position, 1, self.ops)
        together.way().start(1)
        together.close()

    def _alone(self, shape: str, position: str) -> None:
        name, others = f"{shape}, {position}, R=1", []
        compiled, images = (self.compilations.ready if self.compilations else {}).get((shape, position), (None, 0))
        if compiled:
            others.append(compiled.way(images))
        if eager := self.eager:
            made = self.attempt(f"torch eager, {name}", lambda: (eager.make(shape, position), eager.answer())[1])
            others += [eager.way(made)] if made else []
        record = self.attempt(name, lambda: self._measure(shape, position, 1, others))
        if record is None and others:
            record = self.attempt(f"{name} without PyTorch", lambda: self._measure(shape, position, 1))
        if compiled:
            compiled.close()
        if eager and eager.pending:  # discard a late answer
            eager.close()
            self.attempt("torch eager", self._start_eager)
        if record:
            self.records[shape, position, 1] = record

    def _measure(self, shape: str, position: str, runs: int, others: Sequence[Way] = ()) -> Record:
        """Measure R runs trained as one model, alternately with `others`."""
        together = RunsAsOne(GPU_SHAPES[shape], position, runs, self.ops)
        times = time_ways([together.way(), together.products(GPU_SHAPES[shape].batch), *others])
        seconds = times["vitab"].seconds
        speed = together.images / seconds
        peers = {way.name: way.images / times[way.name].seconds for way in others}
        first, peaks = self.records.get((shape, position, 1)), self.result.peaks
        one = speed if runs == 1 else first.images_per_s if first else None
        record = Record(
            shape,
            position,
            runs,
            ms=seconds * 1e3,
            images_per_s=speed,
            product_peak_share=together.flops / seconds / 1e12 / peaks.tflops if peaks else None,
            copy_peak_share=together.bytes / seconds / 1e9 / peaks.copy_gb_s if peaks else None,
            products_share=times["products"].seconds / seconds,
            growth=speed / one if one else None,
            torch_eager_images_per_s=peers.get("torch eager"),
            torch_compile_images_per_s=peers.get("torch compile"),
            ratio=speed / max(peers.values()) if peers else None,
        )
        together.close()
        return record


def machine(ops: CudaOps) -> dict[str, object]:
    """Return the GPU, the CPU, the system and the package versions."""
    from ablations.machine import cpu_model, describe_gpus

    packages: dict[str, object] = {}
    for name in ("cupy-cuda12x", "cupy-cuda13x", "numpy", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    about = {"gpus": describe_gpus(), "multiprocessors": ops.device.multiprocessors, "cpu": cpu_model()}
    return about | {"python": platform.python_version(), "system": platform.platform()} | packages


def stop_after(seconds: float, benchmark: Benchmark, leave: Callable[[int], object] = os._exit) -> threading.Timer:
    """Start a timer that saves the results and exits the process after `seconds`, even if the benchmark hangs."""

    def stop() -> None:
        benchmark.budget.note("stopped at the time limit")
        for last in (benchmark.keep, lambda: print(table(benchmark.result), flush=True), benchmark.peers.close):
            doing = threading.Thread(target=last, daemon=True)  # one thread each, so that none can block the others
            doing.start()
            doing.join(GRACE / 3)
        leave(1)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    return timer


def _names(valid: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in valid:
                raise argparse.ArgumentTypeError(f"must be {', '.join(valid)}, got {name!r}")
        return names

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", type=_names(list(GPU_SHAPES)), default=list(GPU_SHAPES), metavar="a,b")
    parser.add_argument("--positions", type=_names(POSITIONS), default=list(POSITIONS), metavar="a,b")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"time limit (default: {SECONDS:.0f})")
    parser.add_argument("--json", type=Path, default=RESULT, metavar="FILE", help=f"default: {RESULT.name} in results/")
    options = parser.parse_args(arguments)
    budget = Budget(options.seconds)
    if problem := cupy_problem():
        print(f"benchmarks.gpu needs a GPU: {problem}", file=sys.stderr)
        return 2
    with_torch = find_spec("torch") is not None
    if not with_torch:
        print("PyTorch is not installed, so its columns are empty (pip install 'vitab[bench]')", file=sys.stderr)

    def save(result: Result) -> None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        unfinished = options.json.with_suffix(".new")
        unfinished.write_text(json.dumps(result.as_json(), indent=2) + "\n")
        unfinished.replace(options.json)

    benchmark = Benchmark(
        lambda precision: get_ops("cupy", precision=precision),  # type: ignore[arg-type, return-value]
        cupy_precisions(),
        budget,
        save,
        shapes=options.shapes,
        positions=options.positions,
        make=torch_stepper if with_torch else None,
    )
    timer = stop_after(options.seconds + GRACE - (budget.clock() - budget.start), benchmark)
    result = benchmark.run()
    timer.cancel()
    print(table(result))
    return 0 if result.correct else 1


if __name__ == "__main__":
    sys.exit(main())
