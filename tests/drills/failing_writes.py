"""Drill with failing writes: file size limits (RLIMIT_FSIZE), small disks that fill up, a folder that becomes
read-only.

Each program must end with a clear message and the matching exit code, and must not leave an incomplete run that looks
finished. The grid is then finished with enough space and compared with an undisturbed one.
"""

import random
import re
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.storage import Store

from .common import Tally, start, undisturbed

CODES = (0, 1, 2)
"""Valid exit codes: finished despite a failed write, a failed write reported, or not started."""
CLEAR = re.compile(r"(error|failed|warning): \S.*|\d+ of \d+ runs failed.*")
"""Pattern of the lines that such a program may print."""


@dataclass
class Failing(Tally):
    """Counts of programs with failing writes, and of how they ended."""

    failed: Counter = field(default_factory=Counter)  # programs that could not write, by case
    went_well: Counter = field(default_factory=Counter)
    unclear: list[str] = field(default_factory=list)  # programs without a clear message
    skipped: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return super().good and not self.unclear

    def __str__(self) -> str:
        cases = "; ".join(
            f"{case}: {self.failed[case]} of {self.failed[case] + self.went_well[case]} programs could not write"
            for case in sorted(self.failed | self.went_well)
        )
        return "\n".join(
            [cases, super().__str__(), f"{len(self.unclear)} unclear messages", *self.unclear]
            + [f"skipped: {reason}" for reason in self.skipped]
        )

    def end(self, case: str, process: "subprocess.Popen") -> None:
        """Wait for a program and check how it ended."""
        _, err = process.communicate(timeout=300)
        lines = err.decode().splitlines()
        clear = process.returncode in CODES and all(map(CLEAR.fullmatch, lines))
        if process.returncode == 0:
            self.went_well[case] += 1
        else:
            self.failed[case] += 1
            clear = clear and any(line.startswith("error: ") or " runs failed" in line for line in lines)
        if not clear:
            self.unclear.append(f"{case}: exit code {process.returncode}: {err.decode()[-500:]}")


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """Mount a tmpfs of this size and yield a function that remounts it. Raises OSError if mounting is not permitted."""
    folder.mkdir()

    def mount(options: str, *flags: str) -> None:
        command = ["mount", "-t", "tmpfs", *flags, "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr.strip())

    mount(f"size={kilobytes}k")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def limited(size: int) -> Callable[[], None]:
    """Return a function that limits the size of files, to be called in a child process."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def files_that_may_not_grow(store: Store, tally: Failing, rng: random.Random, epochs: int) -> None:
    """Run programs with limits below the size of different files of a run."""
    for limit in (500, 3000, rng.randint(4000, 14000), rng.randint(14000, 17000), rng.randint(17500, 60000)):
        workers = str(rng.choice((1, 2)))
        options: dict[str, Any] = {"stderr": subprocess.PIPE, "preexec_fn": limited(limit)}
        tally.end("files that may not grow", start(store.root, "--workers", workers, epochs=epochs, **options))
        tally.look(store)


def disk_that_fills_up(store: Store, tally: Failing, rng: random.Random, epochs: int, mount: Any) -> None:
    """Run programs on a disk that is enlarged step by step until it is large enough."""
    for kilobytes in (40, 80, rng.randint(90, 160), rng.randint(160, 240)):
        mount(f"size={kilobytes}k")
        process = start(store.root, "--workers", str(rng.choice((1, 2))), epochs=epochs, stderr=subprocess.PIPE)
        tally.end("disk that is full", process)
        tally.look(store)
    mount("size=20000k")


def folder_that_becomes_read_only(store: Store, tally: Failing, rng: random.Random, epochs: int, mount: Any) -> None:
    """Make the folder read-only before a program starts, and while it runs."""
    for wait in (None, rng.uniform(2, 4), rng.uniform(2, 4)):
        if wait is None:
            mount("ro")
        process = start(store.root, "--workers", str(rng.choice((1, 2))), epochs=epochs, stderr=subprocess.PIPE)
        deadline = time.monotonic() + (wait or 0.0)
        while time.monotonic() < deadline:
            time.sleep(0.01)
        while wait is not None and process.poll() is None:
            try:
                mount("ro")
                break
            except OSError:  # a file is open for writing
                time.sleep(0.001)
        tally.end("read-only folder", process)
        mount("rw")
        tally.look(store)


def output_that_is_full(store: Store, tally: Failing, rng: random.Random, epochs: int) -> None:
    """Write standard output to a full disk."""
    with Path("/dev/full").open("wb") as full:
        for workers in ("1", "2"):
            process = start(store.root, "--workers", workers, epochs=epochs, stdout=full, stderr=subprocess.PIPE)
            tally.end("output that is full", process)
            tally.look(store)


def output_that_fills_up(store: Store, tally: Failing, rng: random.Random, epochs: int, folder: Path) -> None:
    """Write standard output to a small disk that fills up during a run, which must not fail."""
    for workers in ("1", "1", "2"):
        path = folder / "log"
        with path.open("wb") as log:
            options: dict[str, Any] = {"stdout": log, "stderr": subprocess.PIPE, "program": "tests.drills.verbose_cli"}
            process = start(store.root, "--workers", workers, epochs=epochs, **options)
            tally.end("output that fills up", process)
        path.unlink()
        tally.look(store)
        keys = store.read_study("smoke").keys
        tally.unclear += [f"output that fills up: {reason}" for key in keys if (reason := store.failure(key))]


def finish(store: Store, whole: Store, tally: Failing, epochs: int) -> None:
    start(store.root, "--workers", "2", epochs=epochs).wait(timeout=300)
    tally.look(store)
    tally.compare(store, whole)


ANYWHERE = (files_that_may_not_grow, output_that_is_full)
ON_A_DISK = (disk_that_fills_up, folder_that_becomes_read_only, output_that_fills_up)
"""Cases that need a small file system, which only root may mount."""


def drill(cases: Sequence[Any] = (*ANYWHERE, *ON_A_DISK), *, epochs: int = 1000, seed: int = 0) -> Failing:
    """Run each case once."""
    rng, tally = random.Random(seed), Failing()
    with tempfile.TemporaryDirectory() as folder:
        whole = undisturbed(Path(folder, "whole"), epochs)
        for case in (case for case in cases if case in ANYWHERE):
            store = Store(Path(folder, case.__name__))
            case(store, tally, rng, epochs)
            finish(store, whole, tally, epochs)
        for case in (case for case in cases if case in ON_A_DISK):
            disk = Path(folder, case.__name__)
            output = case is output_that_fills_up
            try:
                with small_disk(disk, 64 if output else 20000) as mount:
                    store = Store(Path(folder, "logged") if output else disk / "runs")
                    case(store, tally, rng, epochs, disk if output else mount)
                    finish(store, whole, tally, epochs)
            except OSError as error:
                if disk.is_mount():
                    raise
                tally.skipped.append(f"{case.__name__.replace('_', ' ')}: cannot mount a file system ({error})")
    return tally
