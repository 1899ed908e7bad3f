"""Parts shared by the drills: starting `vitab run`, and comparing a grid with an undisturbed one.

A run is lost if it is not finished in the end, duplicated if it was written again after it was finished or trained
twice at the same time, different if any number differs, and damaged if a checksum does not match.
"""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.storage import Store, TrialStore, problems

ROOT = Path(__file__).resolve().parent.parent.parent
SAME_BYTES = ("config.json", "predictions.npz", "checkpoint.safetensors")
TIMES = {"seconds", "train_seconds", "images_per_s"}
CHECKPOINT = 0.5
"""Seconds between two checkpoints of a run in a drill."""


@dataclass
class Tally:
    """Counts of a drill."""

    grids: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    damaged: int = 0
    seen: dict[str, bytes] = field(default_factory=dict)  # DONE.json of the finished runs of this grid, by key

    @property
    def good(self) -> bool:
        return not (self.lost or self.duplicated or self.different or self.damaged)

    def look(self, store: Store) -> int:
        """Count the finished runs that were written again since the last call. Return the number of finished runs."""
        now = finished(store)
        self.duplicated += sum(now.get(key) != done for key, done in self.seen.items())
        self.seen = now
        return len(now)

    def compare(self, store: Store, whole: Store) -> None:
        """Compare a grid that should be finished with the undisturbed one, and reset the counts of this grid."""
        expected = whole.read_study("smoke")
        self.different += store.read_study("smoke").keys != expected.keys  # also if another trial was chosen
        for place, other, keys in (
            (store, whole, expected.keys),
            (TrialStore.beside(store), TrialStore.beside(whole), [run.key for run in expected.trials]),
        ):
            for key in keys:
                if not place.done(key):
                    self.lost += 1
                else:
                    self.damaged += bool(problems(place, key))
                    self.different += list(numbers(place, key)) != list(numbers(other, key))
        self.seen = {}
        self.grids += 1

    def __str__(self) -> str:
        counts = f"{self.lost} lost, {self.duplicated} duplicated, {self.different} different, {self.damaged} damaged"
        return f"{self.grids} grids: {counts}"


def start(runs: Path, *options: str, epochs: int, program: str = "ablations.cli", **process: Any) -> "subprocess.Popen":
    """Start `vitab run` on the smoke grid, in a new process group with its worker processes."""
    command = ["run", "--grid", "smoke", "--epochs", str(epochs), "--quiet", "--checkpoint", str(CHECKPOINT), *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | process
    env = os.environ | {"PYTHONPATH": str(ROOT)} | quiet.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-m", program, *command, "--runs", str(runs)], env=env, start_new_session=True, **quiet
    )


def undisturbed(folder: Path, epochs: int, seeds: int = 2, options: Sequence[str] = ()) -> Store:
    """Train the grid without disturbance."""
    whole = Store(folder)
    alone = ("--workers", "1", "--seeds", str(seeds), *options)
    assert start(whole.root, *alone, epochs=epochs).wait(timeout=600) == 0
    return whole


def finished(store: Store) -> dict[str, bytes]:
    """Return the DONE.json of each finished run by key; also of runs of trials."""
    if "smoke" not in store.studies():
        return {}
    plan = store.read_study("smoke")
    places = dict.fromkeys(plan.keys, store) | {run.key: TrialStore.beside(store) for run in plan.trials}
    return {key: (place.folder(key) / "DONE.json").read_bytes() for key, place in places.items() if place.done(key)}


def numbers(store: Store, key: str) -> Iterator[object]:
    """Yield everything in a run that a disturbance must not change."""
    folder = store.folder(key)
    for name in SAME_BYTES:
        if name not in store.files:
            continue
        yield (folder / name).read_bytes()
    yield {k: v for k, v in json.loads((folder / "result.json").read_bytes()).items() if k not in TIMES}
    for row in csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())):
        yield {k: v for k, v in row.items() if k not in TIMES}
