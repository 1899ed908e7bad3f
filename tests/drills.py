"""``python -m tests.drills``: real grids killed with SIGKILL at random moments, until nothing can be lost any more.

One to four ``vitab run`` processes at once work on the smoke grid in one folder, and are killed, half of them with
their children. Then the grid is finished and every artefact is compared with that of an undisturbed run. A run is lost
when it is not finished in the end, duplicated when a finished one was written again, different when a number in it is.
With ``--stack N`` each process trains up to N runs as one model, another N each time.
"""

import argparse
import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ablations.store import Store
from ablations.verification import problems

ROOT = Path(__file__).resolve().parent.parent
SAME_BYTES = ("config.json", "predictions.npz", "checkpoint.safetensors")
TIMES = {"seconds", "train_seconds", "images_per_s"}


@dataclass
class Tally:
    """What a drill has seen."""

    kills: int = 0
    grids: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    damaged: int = 0


def start(runs: Path, workers: int, epochs: int, seeds: int, stack: int) -> "subprocess.Popen[bytes]":
    """`vitab run` on the smoke grid, with its children in a group of its own."""
    command = [
        "run",
        "--grid",
        "smoke",
        "--epochs",
        str(epochs),
        "--quiet",
        "--workers",
        str(workers),
        "--checkpoint",
        "0.2",
        "--seeds",
        str(seeds),
        "--stack",
        str(stack),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "ablations.cli", *command, "--runs", str(runs)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def finished(store: Store) -> dict[str, bytes]:
    """DONE.json of each finished run by key."""
    if "smoke" not in store.studies():
        return {}
    keys = store.read_study("smoke").keys
    return {key: (store.folder(key) / "DONE.json").read_bytes() for key in keys if store.done(key)}


def numbers(store: Store, key: str) -> Iterator[object]:
    """All that must not depend on what happened on the way."""
    folder = store.folder(key)
    for name in SAME_BYTES:
        yield (folder / name).read_bytes()
    yield {k: v for k, v in json.loads((folder / "result.json").read_bytes()).items() if k not in TIMES}
    for row in csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())):
        yield {k: v for k, v in row.items() if k not in TIMES}


def disturb(
    runs: Path, rng: random.Random, tally: Tally, kills: int, epochs: int, seeds: int, stack: int, whole: float
) -> None:
    """Start and kill processes until the grid is finished or there were enough kills.

    `whole` is how many seconds one process takes for the grid.
    """
    store = Store(runs)
    seen: dict[str, bytes] = {}
    while tally.kills < kills and len(seen) < 2 * seeds:
        crew = [
            start(runs, rng.choice((1, 1, 2)), epochs, seeds, rng.randint(1, stack)) for _ in range(rng.randint(1, 4))
        ]
        time.sleep(whole * rng.uniform(0.0, 0.5 + 0.3 * len(crew)))
        for process in crew:
            time.sleep(rng.uniform(0.0, 0.3))
            if process.poll() is None:
                tally.kills += 1
                (os.killpg if rng.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
        now = finished(store)
        tally.duplicated += sum(now.get(key) != done for key, done in seen.items())
        seen = now
    last = start(runs, 2, epochs, seeds, stack)
    last.wait(timeout=300)
    now = finished(store)
    tally.duplicated += sum(now.get(key) != done for key, done in seen.items())
    tally.grids += 1


def drill(kills: int, *, epochs: int = 60, seed: int = 0, stack: int = 1) -> Tally:
    """Grids one after another until so many processes were killed."""
    rng, tally, seeds = random.Random(seed), Tally(), max(2, stack)
    with tempfile.TemporaryDirectory() as folder:
        whole = Store(Path(folder, "whole"))
        begun = time.monotonic()
        assert start(whole.root, 1, epochs, seeds, 1).wait(timeout=300) == 0
        seconds = time.monotonic() - begun
        keys = whole.read_study("smoke").keys
        while tally.kills < kills:
            store = Store(Path(folder, str(tally.grids)))
            disturb(store.root, rng, tally, kills, epochs, seeds, stack, seconds)
            for key in keys:
                if not store.done(key):
                    tally.lost += 1
                else:
                    tally.damaged += bool(problems(store, key))
                    tally.different += list(numbers(store, key)) != list(numbers(whole, key))
    return tally


def main() -> int:
    """The drill from the command line; 1 when anything was lost, duplicated, different or damaged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=60, help="of each run: longer runs are hit more often")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stack", type=int, default=1, help="most runs that a process trains as one model")
    arguments = parser.parse_args()
    begun = time.monotonic()
    tally = drill(arguments.kills, epochs=arguments.epochs, seed=arguments.seed, stack=arguments.stack)
    print(tally, f"in {time.monotonic() - begun:.0f} s")
    return 1 if tally.lost + tally.duplicated + tally.different + tally.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
