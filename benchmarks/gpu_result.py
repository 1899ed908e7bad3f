"""Results of `python -m benchmarks.gpu`: records, verdicts on targets that were set in advance, and a table."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.gpu_speed import Peaks
from benchmarks.shapes import GPU_SHAPES, POSITIONS


@dataclass(frozen=True)
class Record:
    """Row of the table. Shares refer to the measured peaks. None: not measured."""

    shape: str
    position: str
    runs: int
    ms: float | None = None
    images_per_s: float | None = None
    product_peak_share: float | None = None
    """Operations per second of the matrix products during a whole step, as a share of the peak of products."""
    copy_peak_share: float | None = None
    """Bytes per second of the arrays used in a step, each counted once per kernel, as a share of the peak of copies."""
    products_share: float | None = None
    """Time of the matrix products, measured alone, as a share of the time of the step."""
    growth: float | None = None
    """Images per second, divided by those at R = 1."""
    torch_eager_images_per_s: float | None = None
    torch_compile_images_per_s: float | None = None
    ratio: float | None = None
    """Images per second at R = 1, divided by those of the faster measured PyTorch variant."""
    processes_images_per_s: float | None = None
    """Images per second of R separate PyTorch processes together."""

    @property
    def ratio_to(self) -> str | None:
        """PyTorch variant that the ratio refers to, or "both" if eager and compiled PyTorch were measured."""
        measured = [name for name in ("eager", "compile") if getattr(self, f"torch_{name}_images_per_s")]
        return None if not measured else measured[0] if len(measured) == 1 else "both"

    @property
    def torch_images_per_s(self) -> float | None:
        """Images per second of the faster measured PyTorch variant."""
        speeds = [s for s in (self.torch_eager_images_per_s, self.torch_compile_images_per_s) if s is not None]
        return max(speeds, default=None)


@dataclass(frozen=True)
class Verdict:
    """Verdict on a target: the deciding value, and whether the target is met (None: not fully measured)."""

    claim: str
    value: float | None
    wanted: float
    holds: bool | None
    where: str = ""
    """The deciding row, or what was not measured."""


@dataclass
class Result:
    """All results, as written to JSON."""

    machine: dict[str, object]
    precision: str
    expected: list[tuple[str, str]] = field(default_factory=list)
    """Precision and part of every check that must run."""
    compiling_s: float = 0.0
    """Seconds spent compiling vitab's kernels."""
    peaks: Peaks | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def not_run(self) -> list[tuple[str, str]]:
        """Precision and part of the checks that did not run."""
        run = {(check["precision"], check["part"]) for check in self.checks}
        return [what for what in self.expected if tuple(what) not in run]

    @property
    def correct(self) -> bool:
        """Whether every check of every precision ran and passed."""
        return bool(self.checks) and not self.not_run and all(check["passed"] for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        records = [asdict(record) | {"ratio_to": record.ratio_to} for record in self.records]
        verdicts = [asdict(verdict) for verdict in self.verdicts()]
        return {"correct": self.correct, "verdicts": verdicts} | asdict(self) | {"records": records}

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts on the targets of the GPU backend."""
        found = {(r.shape, r.position): r for r in self.records if r.runs == 1}
        every = [(shape, position) for shape in GPU_SHAPES for position in POSITIONS]
        alone = [found.get(pair, Record(*pair, 1)) for pair in every]  # a missing row counts as not measured
        narrow = [record for record in alone if _width(record) <= 192]
        wide = [record for record in alone if _width(record) > 192]
        small = [record for record in alone if _width(record) <= 128]
        return [
            _least("R = 1 against the faster PyTorch, widths up to 192", narrow, lambda r: r.ratio, 1.5),
            _least("R = 1 against the faster PyTorch, width 384", wide, lambda r: r.ratio, 1.0),
            _least("best R against one PyTorch process, widths up to 128", small, self._best_over_one, 8.0),
            self._peak_share(),
        ]

    def _best_over_one(self, alone: Record) -> float | None:
        own = [r for r in self.records if (r.shape, r.position) == (alone.shape, alone.position)]
        best, one = max((r.images_per_s or 0.0 for r in own), default=0.0), alone.torch_images_per_s
        return best / one if best and one else None

    def _peak_share(self) -> Verdict:
        claim, wanted = "share of the measured peak of products, width 384, best R", 0.4
        rows = [r for r in self.records if _width(r) > 192 and r.product_peak_share is not None]
        if not rows:
            return Verdict(claim, None, wanted, None, "not measured")
        best = max(rows, key=lambda r: r.product_peak_share or 0.0)
        share = best.product_peak_share or 0.0
        return Verdict(claim, share, wanted, share >= wanted, _name(best))


def _width(record: Record) -> int:
    return GPU_SHAPES[record.shape].width


def _name(record: Record) -> str:
    return f"{record.shape}, {record.position}, R={record.runs}"


def _least(claim: str, rows: Sequence[Record], value: Callable[[Record], float | None], wanted: float) -> Verdict:
    """Return the verdict on a value that every row must reach. The target is missed if one row is below it."""
    values = [(number, row) for row in rows if (number := value(row)) is not None]
    if not values:
        return Verdict(claim, None, wanted, None, "not measured")
    least, row = min(values, key=lambda pair: pair[0])
    if least < wanted:
        return Verdict(claim, least, wanted, False, _name(row))
    partly = [_name(r) for r in rows if value(r) is None or r.ratio_to != "both"]
    if partly:
        return Verdict(claim, least, wanted, None, f"not measured with both kinds of PyTorch: {'; '.join(partly)}")
    return Verdict(claim, least, wanted, True, _name(row))


def table(result: Result) -> str:
    """Return the results as text."""
    failed = [check for check in result.checks if not check["passed"]]
    lines = [f"{len(result.checks) - len(failed)} of {len(result.checks)} checks passed"]
    for check in failed:
        error = _cell(check["error"], 1, ".2g")
        lines.append(f"  FAILED {check['precision']}: {check['name']}: error {error}, limit {check['limit']:.2g}")
    lines += [f"  NOT RUN {precision}: {part}" for precision, part in result.not_run]
    if result.peaks:
        lines.append(
            f"peaks of the GPU: {result.peaks.tflops:,.0f} TFLOP/s in a {result.precision} product, "
            f"{result.peaks.copy_gb_s:,.0f} GB/s in a copy"
        )
    lines += [
        "FLOP/s and GB/s: shares of those peaks; products: time of the matrix products alone, as a share of the step",
        f"{'shape':<11}{'position':<9}{'R':>4}{'ms':>9}{'images/s':>12}{'FLOP/s':>8}{'GB/s':>7}{'products':>9}{'growth':>8}"
        f"{'eager':>11}{'compile':>11}{'ratio':>7} {'to':<8}{'R processes':>12}",
    ]
    for r in result.records:
        lines.append(
            f"{r.shape:<11}{r.position:<9}{r.runs:>4}{_cell(r.ms, 9, '.3f')}{_cell(r.images_per_s, 12, ',.0f')}"
            f"{_cell(r.product_peak_share, 8, '.1%')}{_cell(r.copy_peak_share, 7, '.0%')}"
            f"{_cell(r.products_share, 9, '.0%')}{_cell(r.growth, 8, '.2f')}"
            f"{_cell(r.torch_eager_images_per_s, 11, ',.0f')}{_cell(r.torch_compile_images_per_s, 11, ',.0f')}"
            f"{_cell(r.ratio, 7, '.2f')} {r.ratio_to or '-':<8}{_cell(r.processes_images_per_s, 12, ',.0f')}"
        )
    lines += ["", *result.left_out] if result.left_out else []
    lines += ["", f"{'target':<56}{'value':>7}{'limit':>8}  met"]
    for v in result.verdicts():
        answer = "unknown" if v.holds is None else "yes" if v.holds else "NO"
        lines.append(f"{v.claim:<56}{_cell(v.value, 7, '.2f')}{v.wanted:>8.2f}  {answer} ({v.where})")
    lines.append(f"{'every check of every precision':<71}  {'yes' if result.correct else 'NO'}")
    lines.append(f"total {result.seconds:.0f} s, of which {result.compiling_s:.0f} s compiling kernels")
    return "\n".join(lines)


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}{form}}"
