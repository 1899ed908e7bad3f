"""Times of all matrix products of a training step with BLAS and with vitab's kernel: `python -m benchmarks.products`.

The products are those of the captured program of a lane, so that their shapes and strides are the same as in training.
BLAS and the kernel are timed alternately on one thread, and medians are reported. The peak of a core is measured with
one tile of the kernel whose operands are in the L1 cache. `vit.backend.gemm.is_faster` is based on these measurements.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from ablations.machine.bench import Stepper
from benchmarks.records import save_machine, save_records
from benchmarks.shapes import POSITIONS, SHAPES
from vit.backend import gemm
from vit.backend.program import CapturedProgram, Opcode

SECONDS = 0.01
"""Approximate duration of one timing."""
ROUNDS = 15
WAYS = (Opcode.MATMUL, Opcode.GEMM)


@dataclass(frozen=True)
class Record:
    """Matrix product of a step: (m, k) times (k, n) for `batch` pairs of matrices, executed `count` times per lane."""

    shape: str
    m: int
    n: int
    k: int
    batch: int
    trans_a: bool
    trans_b: bool
    count: int
    blas_gflops: float
    own_gflops: float
    own_is_used: bool
    share: float
    """Share of the floating-point operations of all products of the step."""


def lane_tape(shape: str, position: str) -> CapturedProgram:
    """Return the matrix products of a training step on one lane, as a program."""
    stepper = Stepper(SHAPES[shape].config(position), SHAPES[shape].batch, threads=1)
    stepper.step()
    (lane,) = stepper.engine.lanes
    return max(lane.tapes.values(), key=lambda program: len(program._rows)).products()


def kind(row: Sequence[int]) -> tuple[int, ...]:
    """Return m, n, k, images times heads, trans_a, trans_b of a `CapturedProgram.append_matmul` instruction."""
    outer, middle, m, n, k, _, _, _, trans_a, trans_b = row[10:20]
    return m, n, k, outer * middle, trans_a, trans_b


def alone(program: CapturedProgram, row: Sequence[int], opcode: Opcode, times: int) -> CapturedProgram:
    """Return a program that executes one instruction `times` times with the given opcode."""
    part = CapturedProgram(program.dtype)
    part._arrays = program._arrays
    part._rows = [[opcode, *row[1:]]] * times
    part._floats = [[0.0]] * times
    part._buffer = np.empty(gemm.buffer_bytes(row[12], program.dtype.itemsize), dtype=np.uint8)
    return part


def seconds(works: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median time in seconds of each function. The functions are called alternately."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS + 1):
        for work, taken in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return [float(np.median(taken[1:])) for taken in times]


def measure(shape: str, position: str) -> list[Record]:
    """Measure each kind of product, in decreasing order of its total operations."""
    program = lane_tape(shape, position)
    examples = {kind(row): row for row in program._rows}
    counts = Counter(kind(row) for row in program._rows)
    flops = {k: 2 * k[0] * k[1] * k[2] * k[3] for k in examples}
    total = sum(flops[k] * counts[k] for k in examples)
    records = []
    for key in sorted(examples, key=lambda k: -flops[k] * counts[k]):
        m, n, k, batch, trans_a, trans_b = key
        repeats = max(1, round(SECONDS * 1e11 / flops[key]))
        parts = [alone(program, examples[key], way, repeats) for way in WAYS]
        blas, own = (flops[key] * repeats / s / 1e9 for s in seconds([part.replay for part in parts]))
        used = examples[key][0] == Opcode.GEMM
        share = flops[key] * counts[key] / total
        records.append(Record(shape, m, n, k, batch, bool(trans_a), bool(trans_b), counts[key], blas, own, used, share))
    return records


@numba.njit(nogil=True, error_model="numpy")
def _tiles(left, panel, out, times, depth, size, unit):
    for _ in range(times):
        gemm._tile(gemm.ROWS, left, size, size * gemm.ROWS, panel, depth, out, gemm.LINE, 0, unit)


def peak_gflops() -> float:
    """Measure the float32 peak of one core: the largest tile is repeated with its operands in the L1 cache."""
    depth, times, unit = 64, 20_000, np.float32(1)
    width = gemm.LINE // 4
    rng = np.random.default_rng(0)
    left, panel = (rng.standard_normal((depth, n), dtype=np.float32) for n in (gemm.ROWS, width))
    out = np.empty((gemm.ROWS, width), dtype=np.float32)
    addresses = [x.ctypes.data for x in (left, panel, out)]
    (taken,) = seconds([lambda: _tiles(*addresses, times, depth, 4, unit)])
    np.testing.assert_allclose(out, left.T @ panel, rtol=1e-4, atol=1e-4)
    return 2 * gemm.ROWS * width * depth * times / taken / 1e9


def table(records: Sequence[Record], peak: float) -> str:
    """Return the records as a text table, one line per record."""
    lines = [
        f"Peak of one core: {peak:.0f} GFLOP/s.",
        f"{'shape':<11}{'m x n x k':>18}{'each':>6}{'':>6}{'count':>7}{'flops':>8}{'BLAS':>8}{'own':>8}"
        f"{'own/BLAS':>10}{'of peak':>9}  used",
    ]
    for r in records:
        letters = ("A'" if r.trans_a else "A") + ("B'" if r.trans_b else "B")
        size = f"{r.m} x {r.n} x {r.k}"
        reached = r.own_gflops if r.own_is_used else r.blas_gflops
        lines.append(
            f"{r.shape:<11}{size:>18}{r.batch:>6}{letters:>6}{r.count:>7}{r.share:>8.1%}{r.blas_gflops:>8.1f}"
            f"{r.own_gflops:>8.1f}{r.own_gflops / r.blas_gflops:>10.2f}{reached / peak:>9.0%}"
            f"  {'own' if r.own_is_used else 'BLAS'}"
        )
    for shape in dict.fromkeys(r.shape for r in records):
        ours = [r for r in records if r.shape == shape]
        time_of = sum(r.share / (r.own_gflops if r.own_is_used else r.blas_gflops) for r in ours)
        lines.append(f"{shape}: all products together reach {1 / time_of / peak:.0%} of the core's peak")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.products", description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="default: all")
    parser.add_argument("--position", choices=POSITIONS, default="learned")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records to FILE")
    options = parser.parse_args(arguments)
    with threadpool_limits(1):
        peak = peak_gflops()
        records = [record for shape in options.shapes for record in measure(shape, options.position)]
    if options.json:
        save_machine(options.json, peak_gflops=peak)
        save_records(options.json, records)
    print(table(records, peak))
    return 0


if __name__ == "__main__":
    sys.exit(main())
