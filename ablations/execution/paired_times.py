"""Relative times of an epoch of the arms of a study, measured in pairs with the baseline arm before the first run.

::

    runs/studies/<study>.match/seconds.json         the times of pairs, by what determines them
    runs/studies/<study>.match/attempt-0001.json    the lease of the process that measures

The times decide the epochs of the arms, and so the keys of the runs. Therefore each pair is measured once for a study:
one process measures while the others wait, and every process reads the file from then on.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ablations.config import FIELDS, RelativeCost, RunConfig, count, name_level, run_key
from ablations.data.loading import dataset_for
from ablations.errors import UsageError, VitabError
from ablations.execution.lease import Heartbeat, LeaseManager
from ablations.execution.resources import parse_stack, resolve_workers
from ablations.execution.stacking import VARYING_FIELDS
from ablations.machine import available_cores, cpu_model, devices
from ablations.storage import Store, read_json, storage_errors, to_json, write_file

SECONDS = 3.0
"""Duration of one measurement of a pair, at least five rounds."""
MOST = 4
"""Measurements of a pair, until the interval of the median is narrow."""
NARROW = 0.03
"""Width of the interval relative to the median, at which a measurement ends."""
UNCERTAIN = 0.1
"""Width of the interval relative to the median, above which a line says so."""
POLL = 0.5
"""Seconds between two looks at the measurement of another process."""

Pair = tuple[RunConfig, RunConfig]


@dataclass
class PairedTimes:
    """Measures the relative times of the arms of a study, or reads those that are known (`Costs`)."""

    store: Store
    study: str
    data_dir: Path | None
    backend: str
    workers: str
    stack: str
    seeds: int
    say: Callable[[str], None]
    """Called with lines about the measurement."""
    keep: bool = True
    """Whether what is measured is stored."""
    here: bool = True
    """Whether the runs are trained on this machine, so that they can be measured here."""

    def __call__(self, pairs: Sequence[Pair]) -> list[RelativeCost]:
        """Return the time of an epoch of the first run of each pair, divided by that of the second.

        Raises UsageError if pairs have to be measured and the runs are trained elsewhere.
        """
        keys = [None if arm == baseline else self._key(arm, baseline) for arm, baseline in pairs]
        wanted = {key: pair for key, pair in zip(keys, pairs, strict=True) if key is not None}
        known = self._read()
        if lacking := {key: pair for key, pair in wanted.items() if key not in known}:
            if not self.here:
                raise UsageError(
                    "match 'seconds' measures the arms on the machine that trains them: start the study there, without "
                    "--dask, or use match 'flops'"
                )
            known = self._measure_once(wanted) if self.keep else known | self._measure(lacking)
        return [RelativeCost(1.0) if key is None else known[key] for key in keys]

    @property
    def path(self) -> Path:
        """The file of the times."""
        return self.store.root / "studies" / f"{self.study}.match" / "seconds.json"

    def _measure_once(self, wanted: dict[str, Pair]) -> dict[str, RelativeCost]:
        """Return the times of these pairs; measure those that no process has measured, under a lease."""
        self.store.check_writable()
        leases, waiting = LeaseManager(), False
        while True:
            lease = leases.acquire(self.path.parent)
            known = self._read()
            lacking = {key: pair for key, pair in wanted.items() if key not in known}
            if not lacking:
                if lease is not None:
                    lease.release()
                return known
            if lease is not None:
                try:
                    with lease.heartbeat() as heartbeat:
                        self._measure(lacking, partial(self._write, heartbeat, known))
                finally:
                    lease.release()
                continue
            if not waiting:
                self.say(f"waiting for another process to measure the arms of study {self.study}")
                waiting = True
            time.sleep(POLL)

    def _measure(
        self, pairs: dict[str, Pair], on_pair: Callable[[dict[str, RelativeCost]], object] = lambda found: None
    ) -> dict[str, RelativeCost]:
        """Measure pairs; `on_pair` is called with all that are measured so far after each."""
        from ablations.machine.compilation import compile_kernels

        if self.backend == "numpy":
            compile_kernels(partial(self.say, "compiling the CPU kernels, once on this machine"))
        again = "" if self.keep else "; vitab run measures them again"
        self.say(
            f"measuring the time of an epoch in {count(len(pairs), 'pair')} of arm and baseline, up to "
            f"{MOST * SECONDS:.0f} s each{again}"
        )
        workers = resolve_workers(self.workers, runs=len(pairs) * self.seeds, backend=self.backend)
        threads = max(1, available_cores() // workers)
        stack = min(self.seeds, parse_stack(self.stack) or (1 if self.backend == "numpy" else self.seeds))
        found: dict[str, RelativeCost] = {}
        for key, pair in pairs.items():
            found[key] = cost = self._measure_pair(pair, threads, stack)
            on_pair(found)
            if cost.low and cost.high and cost.high - cost.low > UNCERTAIN * cost.value:
                self.say(
                    f"note: an epoch of {_difference(*pair)} takes {cost.low:.2f} to {cost.high:.2f} times as long as "
                    "that of the baseline; other programs on this machine make the measurement uncertain"
                )
        return found

    def _measure_pair(self, pair: Pair, threads: int, stack: int) -> RelativeCost:
        from ablations.training.timing import epoch_times

        datasets = [dataset_for(config, self.data_dir) for config in pair]
        ratios = np.empty(0)
        for _ in range(MOST):
            try:
                times = epoch_times(pair, datasets, seconds=SECONDS, backend=self.backend, threads=threads, stack=stack)
            except MemoryError:
                if stack == 1:
                    raise VitabError(f"{_difference(*pair)} and the baseline do not fit into memory together") from None
                return self._measure_pair(pair, threads, stack // 2)
            ratios = np.append(ratios, times[:, 0] / times[:, 1])
            middle, low, high = median_interval(ratios)
            if high - low <= NARROW * middle:
                break
        return RelativeCost(middle, low, high, self._where(threads, stack))

    def _where(self, threads: int, stack: int) -> str:
        together = f", {count(stack, 'run')} at a time" if stack > 1 else ""
        if self.backend == "numpy":
            return f"{cpu_model()} ({count(threads, 'thread')}, NumPy {version('numpy')}{together})"
        return f"{devices()[0].name} (CuPy{together})"

    def _key(self, arm: RunConfig, baseline: RunConfig) -> str:
        """Return a digest of what determines the relative time of a pair."""
        default = RunConfig()
        same = {name: getattr(default, name) for name in (*VARYING_FIELDS, "epochs")}
        keys = (run_key(replace(c, **same), dataset_for(c, self.data_dir).fingerprint) for c in (arm, baseline))
        return hashlib.sha256("/".join(keys).encode()).hexdigest()

    def _read(self) -> dict[str, RelativeCost]:
        """Return the times that are known. Raises UsageError if the file is damaged."""
        plain: Any = read_json(self.path)
        if plain is None and not self.path.exists():
            return {}
        try:
            if plain.pop("sha256") != _digest(plain):
                raise ValueError
            return {key: RelativeCost(**cost) for key, cost in plain["pairs"].items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UsageError(
                f"{self.path} is damaged; delete it to measure the arms again, which may change their epochs"
            ) from None

    def _write(self, heartbeat: Heartbeat, known: dict[str, RelativeCost], found: dict[str, RelativeCost]) -> None:
        if heartbeat.lost:  # another process measures now
            return
        plain = {"pairs": {key: asdict(cost) for key, cost in (known | found).items()}}
        with storage_errors(f"cannot write {self.path}"):
            write_file(self.path, to_json(plain | {"sha256": _digest(plain)}))


def _difference(arm: RunConfig, baseline: RunConfig) -> str:
    """Return the level by which an arm differs from the baseline."""
    axes = [name for name in FIELDS if getattr(arm, name) != getattr(baseline, name)]
    return ", ".join(name_level(axis, getattr(arm, axis)) for axis in axes)


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the median, and its 95 % confidence interval from order statistics (David and Nagaraja 2003, 7.1).

    With fewer than six values, the interval is their range.
    """
    from scipy.stats import binom

    ordered = np.sort(values)
    below = max(int(binom.ppf(0.025, len(ordered), 0.5)), 1)
    return float(np.median(ordered)), float(ordered[below - 1]), float(ordered[-below])


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(plain)).hexdigest()
