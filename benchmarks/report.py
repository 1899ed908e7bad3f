"""Time to write the report of a large study: `python -m benchmarks.report [--runs N] [--json FILE]`.

The program creates a store of N synthetic runs of 30 epochs: 4 positions, 5 depths, 4 patch sizes, and as many seeds as
needed. It measures the time to read the runs, to write README.md, figures, tables and report.html, and to check the
report against the runs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ablations.config import GRIDS, RunConfig, override, vit_config
from ablations.data.loading import dataset_for
from ablations.execution import plan as study
from ablations.reporting.check import differences
from ablations.reporting.report import write_report
from ablations.storage import RunRecord, Store, load_results
from ablations.storage.provenance import describe
from ablations.training.trainer import EpochMetrics
from benchmarks.records import save_machine, save_records
from vit import ViT, cost, get_ops

RUNS = 2_000
LIMIT = 30.0
"""Limit in seconds for the time to read the runs and write the report."""
AXES: dict[str, tuple[Any, ...]] = {
    "position": ("none", "learned", "sinusoidal", "rope"),
    "depth": (1, 2, 3, 4, 5),
    "patch": (1, 2, 4, 8),
}
ARMS = 80
GAIN = {"none": 0.0, "learned": 8.0, "sinusoidal": 7.5, "rope": 7.0}


@dataclass(frozen=True)
class Record:
    """Wall-clock time and CPU time of one part of the report."""

    what: str
    runs: int
    seconds: float
    cpu_s: float
    limit_s: float | None = None

    @property
    def good(self) -> bool:
        return self.limit_s is None or self.seconds < self.limit_s


def fill(store: Store, runs: int) -> str:
    """Write a study with `runs` synthetic runs and return its name."""
    base = replace(GRIDS["rope"].base, width=8, heads=1)
    grid = override(replace(GRIDS["rope"], base=base), axes=AXES, seeds=runs // ARMS)
    plan = study.make_plan(grid, study="many", command="vitab run --grid rope")
    store.write_study(plan)
    dataset = dataset_for(base, None)
    about = describe(position="rope", backend="numpy", threads=1) | {"stack": 1, "data_sha256": dataset.fingerprint}
    states: dict[RunConfig, dict[str, np.ndarray]] = {}
    for key, config in plan.runs.items():
        shape = replace(config, seed=0)
        model = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
        if shape not in states:
            states[shape] = ViT(model, ops=get_ops("numpy"), seeds=[0]).state_dict(run=0)
        record = synthetic_record(config, states[shape], cost.forward_flops(model), dataset.test_labels)
        store.write(key, record, about, model)
    return plan.study


def synthetic_record(config: RunConfig, state: dict[str, np.ndarray], flops: int, labels: np.ndarray) -> RunRecord:
    """Return a synthetic record of a run, with an effect of every axis and noise."""
    rng = np.random.default_rng([config.seed, config.depth, config.patch, len(config.position)])
    right = rng.random(labels.size) < (80 + GAIN[config.position] + config.depth - config.patch / 2) / 100
    predicted = np.where(right, labels, (labels + 1) % 10).astype(np.int64)
    share = float(right.mean())
    curve = share * (1 - np.exp(-np.arange(1, config.epochs + 1) / 5)) + rng.normal(0, 0.01, config.epochs)
    metrics = [
        EpochMetrics(
            epoch=i + 1,
            learning_rate=2e-3,
            train_loss=float(2.3 - 2 * value),
            validation_loss=float(2.3 - 1.9 * value),
            validation_accuracy=float(value),
            seconds=0.1,
            images_per_s=1e4,
        )
        for i, value in enumerate(curve)
    ]
    probabilities = np.full((labels.size, 10), 0.1, dtype=np.float32)
    return RunRecord(
        config=config,
        metrics=metrics,
        predictions={"labels": labels.astype(np.int64), "predicted": predicted, "probabilities": probabilities},
        test_accuracy=share,
        test_loss=0.5,
        validation_accuracy=float(curve[-1]),
        state=state,
        parameters=sum(array.size for array in state.values()),
        flops=flops,
        train_seconds=3.0 + float(rng.random()),
        seconds=4.0,
    )


def measure(runs: int) -> list[Record]:
    """Measure the times to read the runs, write the report, and check it."""
    with tempfile.TemporaryDirectory() as folder:
        store, out = Store(Path(folder) / "runs"), Path(folder) / "reports"
        name = fill(store, runs)
        results, read = timed("read", runs, lambda: load_results(store, name))
        _, written = timed("write", runs, lambda: write_report(results, out, "html"))
        found, checked = timed("check", runs, lambda: differences(results, out))
    if found:
        raise SystemExit("\n".join(found))
    both = Record("both", runs, read.seconds + written.seconds, round(read.cpu_s + written.cpu_s, 3), LIMIT)
    return [read, written, both, checked]


def timed(what: str, runs: int, work: Callable[[], Any]) -> tuple[Any, Record]:
    """Return the result of a function and its times."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Record(what, runs, round(time.perf_counter() - clock, 3), round(time.process_time() - cpu, 3))


WORDS = {
    "read": "reading the runs, checksums verified",
    "write": "report: statistics, figures, tables, HTML",
    "both": "vitab report: both",
    "check": "vitab report --check, without reading",
}


def table(records: Sequence[Record]) -> str:
    """Return the records as a text table, one line per record."""
    lines = [f"{'':<46}{'runs':>8}{'seconds':>10}{'CPU s':>9}{'limit s':>9}"]
    for r in records:
        limit = "" if r.limit_s is None else f"{r.limit_s:.0f}"
        lines.append(
            f"{WORDS[r.what]:<46}{r.runs:>8,}{r.seconds:>10.2f}{r.cpu_s:>9.2f}{limit:>9}{'' if r.good else '  MISSED'}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--runs", type=int, default=RUNS, help=f"number of runs, a multiple of {ARMS} (default: {RUNS})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records to FILE")
    options = parser.parse_args(arguments)
    records = measure(max(options.runs // ARMS, 2) * ARMS)
    if options.json:
        save_machine(options.json)
        save_records(options.json, records)
    print(table(records))
    return 0 if all(record.good for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
