"""Comparison of CPU training steps of vitab and PyTorch in one process: `python -m benchmarks.cpu`.

The steps of vitab and PyTorch alternate. Each step is timed after 0.02 s of untimed steps of the same kind. A pair is
one step of each. The reported ratio is the median over all pairs, with the range of the middle 90 % of the pairs.
"products" is the time of the matrix products of a step, measured alone, divided by the time of the step. Peak memory is
measured in a separate process that runs a few steps, and includes the libraries. "to none" is the time of a step
divided by that of a step without positional encoding, which takes its turn, too.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ablations.config.builtin_grids import ENCODINGS
from ablations.machine.bench import Stepper, alternate, peak_mb
from benchmarks.records import save_machine, save_records
from benchmarks.shapes import POSITIONS, SHAPES
from vit import ConfigError
from vit.positions import encoding
from vit.positions.spelling import split


@dataclass(frozen=True)
class Record:
    """Row of the table: times in ms, memory in 2^20 bytes. None: not measured.

    `ratio` is that to the faster PyTorch variant, `none_ratio` that to a step without positional encoding.
    """

    shape: str
    position: str
    vitab_ms: float
    torch_eager_ms: float | None
    torch_compile_ms: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    none_ratio: float
    none_low: float
    none_high: float
    products_share: float | None
    images_per_s: float
    peak_mb: float
    torch_peak_mb: float | None


def torch_steppers(stepper: Stepper, compiled: bool) -> dict[str, Callable[[], object]]:
    """Return warmed-up PyTorch steps by name; an empty dictionary if PyTorch is not installed."""
    try:
        from benchmarks.torch_peer import TorchStepper
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return {}
    config, images, targets = stepper.model.config, stepper.images[0], stepper.targets[0]
    steps = {"eager": TorchStepper(config, images, targets, compiled=False).step}
    if compiled:
        steps["compile"] = TorchStepper(config, images, targets, compiled=True).step
    return dict(steps)


def measure(shape: str, position: str, *, seconds: float, compiled: bool, memory: bool = True) -> Record:
    """Measure one row of the table."""
    config, batch = SHAPES[shape].config(position), SHAPES[shape].batch
    stepper, plain = Stepper(config, batch), Stepper(SHAPES[shape].config("none"), batch)
    peers = torch_steppers(stepper, compiled)
    steps: list[Callable[[], object]] = [stepper.step, stepper.products, plain.step, *peers.values()]
    times = alternate(steps, seconds)
    medians = np.median(times, axis=0)
    torch_ms = dict(zip(peers, medians[3:] * 1e3, strict=True))
    ratio: list[float] | list[None] = [None] * 3
    if peers:
        ratio = _quantiles(times[:, 0] / times[:, 3 + int(np.argmin(medians[3:]))])
    none_ratio = _quantiles(times[:, 0] / times[:, 2])
    return Record(
        shape=shape,
        position=position,
        vitab_ms=float(medians[0]) * 1e3,
        torch_eager_ms=torch_ms.get("eager"),
        torch_compile_ms=torch_ms.get("compile"),
        ratio=ratio[0],
        ratio_low=ratio[1],
        ratio_high=ratio[2],
        none_ratio=none_ratio[0],
        none_low=none_ratio[1],
        none_high=none_ratio[2],
        products_share=float(np.median(times[:, 1] / times[:, 0])),
        images_per_s=batch / float(medians[0]),
        peak_mb=_in_a_process(_vitab_peak, shape, position) if memory else peak_mb(),
        torch_peak_mb=_in_a_process(_torch_peak, shape, position) if memory and peers else None,
    )


def _quantiles(ratios: np.ndarray) -> list[float]:
    """Return the median, and the range of the middle 90 %."""
    return [float(q) for q in np.quantile(ratios, (0.5, 0.05, 0.95))]


def _vitab_peak(shape: str, position: str) -> float:
    stepper = Stepper(SHAPES[shape].config(position), SHAPES[shape].batch)
    for _ in range(3):
        stepper.step()
    return peak_mb()


def _torch_peak(shape: str, position: str) -> float:
    from benchmarks.torch_peer import TorchStepper

    config, batch = SHAPES[shape].config(position), SHAPES[shape].batch
    size = (batch, config.image_size, config.image_size, config.channels)
    rng = np.random.default_rng(0)
    targets = rng.dirichlet(np.ones(config.classes), batch).astype(np.float32)
    peer = TorchStepper(config, rng.standard_normal(size, dtype=np.float32), targets, compiled=False)
    for _ in range(3):
        peer.step()
    return peak_mb()


def _in_a_process(peak: Callable[[str, str], float], shape: str, position: str) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak, (shape, position))


def table(records: Sequence[Record]) -> str:
    """Return the records as a text table, one line per record."""
    lines = [
        f"{'shape':<11}{'position':<18}{'vitab':>9}{'eager':>9}{'compile':>9}{'to PyTorch (90 %)':>21}"
        f"{'to none (90 %)':>21}{'products':>9}{'images/s':>10}{'peak':>8}{'torch':>8}",
        f"{'':<29}{'ms':>9}{'ms':>9}{'ms':>9}{'':>42}{'of step':>9}{'':>10}{'MB':>8}{'MB':>8}",
    ]
    for r in records:
        ratio = "-" if r.ratio is None else f"{r.ratio:.2f} ({r.ratio_low:.2f} to {r.ratio_high:.2f})"
        none = f"{r.none_ratio:.2f} ({r.none_low:.2f} to {r.none_high:.2f})"
        share = "-" if r.products_share is None else f"{r.products_share:.2f}"
        lines.append(
            f"{r.shape:<11}{r.position:<18}{r.vitab_ms:>9.2f}{_or_dash(r.torch_eager_ms, 9, 2)}"
            f"{_or_dash(r.torch_compile_ms, 9, 2)}{ratio:>21}{none:>21}{share:>9}{r.images_per_s:>10,.0f}"
            f"{r.peak_mb:>8.0f}{_or_dash(r.torch_peak_mb, 8, 0)}"
        )
    return "\n".join(lines)


def _or_dash(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"


def _names(valid: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in valid:
                raise argparse.ArgumentTypeError(f"must be {', '.join(valid)}, got {name!r}")
        return names

    return parse


def _positions(text: str) -> list[str]:
    try:
        return [str(encoding(name)) for name in split(text, ",")]
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", type=_names(list(SHAPES)), default=list(SHAPES), metavar="a,b")
    parser.add_argument("--positions", type=_positions, default=list(POSITIONS), metavar="a,b")
    parser.add_argument("--encodings", action="store_true", help="every encoding, at the shapes digits and tiny-cifar")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds per row (default: 20)")
    parser.add_argument("--quick", action="store_true", help="digits and rope only, without torch.compile: under 20 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records to FILE")
    options = parser.parse_args(arguments)
    shapes, positions = (["digits"], ["rope"]) if options.quick else (options.shapes, options.positions)
    if options.encodings:
        shapes, positions = ["digits", "tiny-cifar"], [*ENCODINGS]
    seconds = 2.0 if options.quick else options.seconds
    compiled = not (options.quick or options.no_compile)
    if options.json:
        save_machine(options.json)
    records = []
    for shape in shapes:
        for position in positions:
            records.append(measure(shape, position, seconds=seconds, compiled=compiled))
            print(f"{shape}, {position}: {records[-1].vitab_ms:.2f} ms", file=sys.stderr)
            if options.json:
                save_records(options.json, records)
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
