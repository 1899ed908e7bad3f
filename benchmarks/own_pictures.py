"""Time to the first epoch and memory with many pictures of one's own: `python -m benchmarks.own_pictures`.

The program writes 100,000 random JPEG files of 64 x 64 pixels in 200 classes (0.2 GB; 1.2 GB decoded) and trains a
tiny model on them for one epoch with `vitab run`, twice: with an empty cache of decoded pictures, and with the cache
that the first run has made. It records the time before the training, that of the training, and the peak memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.records import save_machine, save_records

SIDE = 64
GRID = f"""
question = "How long until the first epoch?"
baseline = "none"
seeds = 1
[base]
data = "folder"
image_size = {SIDE}
depth = 1
width = 16
heads = 2
patch = 16
epochs = 1
warmup_epochs = 0.5
batch_size = 512
[axes]
position = ["none"]
"""


@dataclass(frozen=True)
class Start:
    """A run of `vitab run` over one epoch."""

    case: str
    """`cold`: nothing is decoded yet; `warm`: all pictures are."""
    pictures: int
    classes: int
    before_seconds: float
    """From the start of the process to that of the run: listing, decoding or mapping, duplicates, the plan."""
    epoch_seconds: float
    """Of the run: normalisation, the epoch, validation and test."""
    cpu_seconds: float
    """CPU time of all this, which does not depend on other work of the machine."""
    peak_mb: float
    """Largest resident memory of the process, with the pages of the mapped cache that it has read."""
    cache_mb: float


def write_pictures(folder: Path, pictures: int, classes: int) -> None:
    """Write smooth random pictures, each another."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label:03}").mkdir(parents=True)
    for i in range(pictures):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"class{i % classes:03}" / f"{i:06}.jpg", quality=90)


def measure(case: str, place: Path, pictures: int, classes: int) -> Start:
    """Train one epoch in a process of its own."""
    runs, cache = place / f"runs-{case}", place / "cache"
    command = [sys.executable, "-m", "ablations.cli", "run", "--grid", str(place / "grid.toml"), "--workers", "1"]
    command += ["--data-dir", str(place / "pictures"), "--runs", str(runs), "--quiet"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, process.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    (result,) = runs.glob("*/result.json")
    trained = float(json.loads(result.read_text())["seconds"])
    cached = sum(path.stat().st_size for path in cache.glob("vitab/pictures/**/*") if path.is_file())
    cpu = usage.ru_utime + usage.ru_stime
    megabytes = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Start(case, pictures, classes, seconds - trained, trained, cpu, round(megabytes), round(cached / 1e6))


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """Yield the given folder, or a temporary one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_pictures", description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=100_000, help="number of pictures (default: 100,000)")
    parser.add_argument("--classes", type=int, default=200, help="number of classes (default: 200)")
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder for pictures, which are used again, runs and cache (default: a temporary one)",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "own_pictures.json")
    options = parser.parse_args()
    with workplace(options.folder) as place:
        (place / "grid.toml").write_text(GRID)
        begun = time.perf_counter()
        if not (place / "pictures").exists():
            write_pictures(place / "pictures", options.pictures, options.classes)
            print(f"{options.pictures:,} pictures written in {time.perf_counter() - begun:.0f} s")
        for old in ("cache", "runs-cold", "runs-warm"):
            shutil.rmtree(place / old, ignore_errors=True)
        starts = []
        for case in ("cold", "warm"):
            starts.append(start := measure(case, place, options.pictures, options.classes))
            print(
                f"{case}: {start.before_seconds:.1f} s before the run, {start.epoch_seconds:.1f} s for it "
                f"({start.cpu_seconds:.1f} s of CPU in all), peak memory {start.peak_mb:,.0f} MB"
            )
    save_machine(options.out, load_average=os.getloadavg()[1])  # near 0: nothing else was running
    save_records(options.out, starts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
