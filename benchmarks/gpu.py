"""GPU training: first whether it is right, then how fast, side by side with PyTorch: `python -m benchmarks.gpu`.

Correctness: every operation against float64, whole gradients, R = 8 against 8 x R = 1, ten losses against the CPU.
Speed: images a second of R = 1, 4, 16, 64 runs trained as one, as shares of the chip's own measured peaks; PyTorch with
bf16 autocast, eager and compiled (max-autotune), in turn with R = 1; and R PyTorch processes at once. Each part has a
share of the time and leaves out what no longer fits, and the result says so.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from benchmarks import gpu_checks, gpu_speed
from benchmarks.gpu_speed import Peaks, RunsAsOne, Way, time_ways
from benchmarks.shapes import GPU_SHAPES, POSITIONS
from vit import get_ops
from vit.backend import cupy_precisions, cupy_problem
from vit.backend.cuda_ops import CudaOps

RUNS = (1, 4, 16, 64)
PROCESSES = (4, 16)
"""R at which separate PyTorch processes are measured; at 64 the host would not hold them."""
PROCESS_SHAPES = ("micro", "small")
PROCESS_SECONDS = 4.0
SHARES = {"checks": 0.12, "vitab": 0.26, "torch": 0.48, "processes": 0.14}
"""Of the time, for each part; what one leaves is the next one's."""
COMPILING = 45.0
"""Seconds that torch.compile is thought to take before one was seen to."""
RESULT = Path(__file__).parent / "results" / "gpu.json"


@dataclass(frozen=True)
class Record:
    """One row. Shares are of the measured peaks; None: not measured."""

    shape: str
    position: str
    runs: int
    ms: float | None
    images_per_s: float | None
    product_peak_share: float | None
    """Operations of the matrix products of a step over what the large product would do in its time."""
    copy_peak_share: float | None
    """Bytes of the arrays that its kernels and products are given, each once, over what the large copy would move."""
    products_share: float | None
    """Time of the step's products alone over that of the step."""
    growth: float | None
    """Images a second over those of R = 1."""
    torch_eager_images_per_s: float | None = None
    torch_compile_images_per_s: float | None = None
    ratio: float | None = None
    """Images a second over those of the faster PyTorch, measured in turn; at R = 1."""
    processes_images_per_s: float | None = None
    """Of so many separate PyTorch processes."""


@dataclass
class Budget:
    """Seconds for the parts of a benchmark, one after another."""

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    notes: list[str] = field(default_factory=list)
    """What was left out."""

    def __post_init__(self) -> None:
        self.begun = self.end = self.clock()

    def part(self, name: str) -> None:
        """Begins a part: it ends when its share of the time, and of all before it, is over."""
        self.name = name
        names = list(SHARES)
        self.end = self.begun + self.seconds * sum(SHARES[n] for n in names[: names.index(name) + 1])

    def allows(self, what: str, needed: float = 0.0) -> bool:
        """Whether there is time for more of this part, `needed` seconds of it; notes what there is not."""
        if self.clock() + needed < self.end:
            return True
        self.notes.append(f"{self.name}: no time for {what}")
        return False


@dataclass
class Result:
    """Everything that was found, as it is written to JSON."""

    machine: dict[str, object]
    precision: str
    peaks: Peaks | None = None
    checks: list[dict[str, object]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def correct(self) -> bool:
        return all(check["passed"] for check in self.checks)


def check(make_ops: Callable[[str], CudaOps], precisions: Sequence[str], budget: Budget) -> Iterator[dict[str, object]]:
    """Every check in every precision, the fastest first."""
    for precision in precisions:
        ops = make_ops(precision)
        for part in gpu_checks.CHECKS:
            if budget.allows(f"{part.__name__} in {precision}"):
                for each in part(ops):
                    yield {"precision": precision, **asdict(each), "passed": each.passed}


def measure_runs(ops: CudaOps, shape: str, position: str, peaks: Peaks, budget: Budget) -> Iterator[Record]:
    """R runs as one, R rising, as far as time and memory go."""
    first: float | None = None
    for runs in RUNS:
        if not budget.allows(f"{shape}, {position}, R={runs}"):
            return
        empty = Record(shape, position, runs, *[None] * 6)
        try:
            together = RunsAsOne(GPU_SHAPES[shape], position, runs, ops)
            ways = [together.way(), together.products(GPU_SHAPES[shape].batch)]
            times = time_ways(ways)
        except MemoryError:
            budget.notes.append(f"vitab: no memory for {shape}, {position}, R={runs}")
            gpu_speed.release(ops)
            yield empty
            continue
        seconds = times["vitab"].seconds
        speed = together.images / seconds
        first = first or speed
        yield replace(
            empty,
            ms=seconds * 1e3,
            images_per_s=speed,
            product_peak_share=together.flops / seconds / 1e12 / peaks.tflops,
            copy_peak_share=together.bytes / seconds / 1e9 / peaks.copy_gb_s,
            products_share=times["products"].seconds / seconds,
            growth=speed / first,
        )
        together.close()


def beside_torch(ops: CudaOps, record: Record, budget: Budget, *, compiled: bool, needed: float) -> Record:
    """The record of R = 1 with PyTorch's speeds, measured in turn with vitab's, where there are the seconds needed."""
    from benchmarks import torch_gpu

    shape = GPU_SHAPES[record.shape]
    name = f"torch {'compile' if compiled else 'eager'}"
    if not budget.allows(f"{name}, {record.shape}, {record.position}", needed):
        return record
    together = RunsAsOne(shape, record.position, 1, ops)
    peer: Way = torch_gpu.TorchGpuStepper(shape, record.position, compiled=compiled).way()
    times = time_ways([together.way(), peer])
    together.close()
    torch_gpu.release()
    ratio = times[name].seconds / times["vitab"].seconds
    ratio = min(ratio, record.ratio) if record.ratio is not None else ratio
    speed = peer.images / times[name].seconds
    if compiled:
        return replace(record, torch_compile_images_per_s=speed, ratio=ratio)
    return replace(record, torch_eager_images_per_s=speed, ratio=ratio)


def beside_processes(record: Record, budget: Budget) -> Record:
    """The record with the speed of as many PyTorch processes as it has runs."""
    from benchmarks import torch_gpu

    if not budget.allows(f"{record.runs} processes, {record.shape}, {record.position}"):
        return record
    try:
        speed = torch_gpu.side_by_side(record.shape, record.position, record.runs, PROCESS_SECONDS)
    except RuntimeError as error:
        budget.notes.append(f"processes: {error} ({record.shape}, {record.position})")
        return record
    return replace(record, processes_images_per_s=speed)


def table(result: Result) -> str:
    """For people."""
    failed = [check for check in result.checks if not check["passed"]]
    lines = [f"{len(result.checks) - len(failed)} of {len(result.checks)} checks passed"]
    lines += [
        f"  FAILED {check['precision']}: {check['name']}: error {check['error']:.2g}, limit {check['limit']:.2g}"
        for check in failed
    ]
    if result.peaks:
        lines.append(
            f"peaks of this chip: {result.peaks.tflops:,.0f} TFLOP/s in a {result.precision} product, "
            f"{result.peaks.copy_gb_s:,.0f} GB/s in a copy"
        )
    lines += [
        "FLOP/s and GB/s: shares of those peaks; products: the time of a step's products alone over the step's",
        f"{'shape':<11}{'position':<9}{'R':>4}{'ms':>9}{'images/s':>12}{'FLOP/s':>8}{'GB/s':>7}{'products':>9}{'growth':>8}"
        f"{'eager':>11}{'compile':>11}{'ratio':>7}{'R processes':>13}",
    ]
    for r in result.records:
        lines.append(
            f"{r.shape:<11}{r.position:<9}{r.runs:>4}{_cell(r.ms, 9, '.3f')}{_cell(r.images_per_s, 12, ',.0f')}"
            f"{_cell(r.product_peak_share, 8, '.1%')}{_cell(r.copy_peak_share, 7, '.0%')}"
            f"{_cell(r.products_share, 9, '.0%')}{_cell(r.growth, 8, '.2f')}"
            f"{_cell(r.torch_eager_images_per_s, 11, ',.0f')}{_cell(r.torch_compile_images_per_s, 11, ',.0f')}"
            f"{_cell(r.ratio, 7, '.2f')}{_cell(r.processes_images_per_s, 13, ',.0f')}"
        )
    lines += ["", *result.left_out] if result.left_out else []
    lines.append(f"in {result.seconds:.0f} s")
    return "\n".join(lines)


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}{form}}"


def machine(ops: CudaOps) -> dict[str, object]:
    """The chip and the versions behind the figures."""
    from ablations.environment import cpu_model, gpus

    packages: dict[str, object] = {}
    for name in ("cupy-cuda12x", "cupy-cuda13x", "numpy", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    about = {"gpus": gpus(), "multiprocessors": ops.device.multiprocessors, "cpu": cpu_model()}
    return about | {"python": platform.python_version(), "system": platform.platform()} | packages


def benchmark(
    make_ops: Callable[[str], CudaOps],
    precisions: Sequence[str],
    budget: Budget,
    save: Callable[[Result], None],
    *,
    shapes: Sequence[str],
    positions: Sequence[str],
    with_torch: bool,
) -> Result:
    """All parts in their order; `save` is called after each step of it."""
    ops = make_ops(precisions[0])
    result = Result(machine(ops), precisions[0], left_out=budget.notes)

    def keep() -> None:
        result.seconds = budget.clock() - budget.begun
        save(result)

    budget.part("checks")
    for found in check(make_ops, precisions, budget):
        result.checks.append(found)
    result.peaks = gpu_speed.measure_peaks(ops)
    keep()
    budget.part("vitab")
    for shape in shapes:
        for position in positions:
            for record in measure_runs(ops, shape, position, result.peaks, budget):
                result.records.append(record)
                keep()
    if with_torch:
        budget.part("torch")
        alone = [i for i, record in enumerate(result.records) if record.runs == 1 and record.ms is not None]
        alone.sort(key=lambda i: result.records[i].position != positions[-1])  # every shape once, first
        for compiled in (False, True):
            needed = COMPILING if compiled else 0.0
            for i in alone:
                begun = budget.clock()
                result.records[i] = beside_torch(ops, result.records[i], budget, compiled=compiled, needed=needed)
                keep()
                if compiled and result.records[i].torch_compile_images_per_s is not None:
                    needed = budget.clock() - begun
        budget.part("processes")
        for i, record in enumerate(result.records):
            if record.shape in PROCESS_SHAPES and record.position == positions[-1] and record.runs in PROCESSES:
                result.records[i] = beside_processes(record, budget)
                keep()
    keep()
    return result


def _names(valid: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in valid:
                raise argparse.ArgumentTypeError(f"{name!r} given, valid are {', '.join(valid)}")
        return names

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", type=_names(list(GPU_SHAPES)), default=list(GPU_SHAPES), metavar="a,b")
    parser.add_argument("--positions", type=_names(POSITIONS), default=list(POSITIONS), metavar="a,b")
    parser.add_argument("--seconds", type=float, default=450.0, help="for everything (default: 450)")
    parser.add_argument("--json", type=Path, default=RESULT, metavar="FILE", help=f"default: {RESULT.name} in results/")
    options = parser.parse_args(arguments)
    if problem := cupy_problem():
        print(f"benchmarks.gpu needs a GPU: {problem}", file=sys.stderr)
        return 2
    with_torch = find_spec("torch") is not None
    if not with_torch:
        print("PyTorch is not installed: its columns stay empty (pip install 'vitab[bench]')", file=sys.stderr)

    def save(result: Result) -> None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")

    result = benchmark(
        lambda precision: get_ops("cupy", precision=precision),  # type: ignore[arg-type, return-value]
        cupy_precisions(),
        Budget(options.seconds),
        save,
        shapes=options.shapes,
        positions=options.positions,
        with_torch=with_torch,
    )
    print(table(result))
    return 0 if result.correct else 1


if __name__ == "__main__":
    sys.exit(main())
