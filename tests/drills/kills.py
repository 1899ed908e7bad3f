"""Processes killed with SIGKILL at random moments.

One to four ``vitab run`` processes at once work on the smoke grid in one folder, and are killed, half of them with
their children. Then the grid is finished. With stacks each process trains up to so many runs as one model, another
number each time.
"""

import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ablations.storage import Store

from .common import CHECKPOINT, Tally, start, undisturbed
from .traced import at_once, read, work_redone


@dataclass
class Killing(Tally):
    """What was killed, and what that cost."""

    kills: int = 0
    redone: list[float] = field(default_factory=list)  # seconds, one for each attempt that another followed
    killed: dict[int, float] = field(default_factory=dict)  # when, by number of a process
    groups: dict[int, float] = field(default_factory=dict)  # the same of groups of processes

    @property
    def good(self) -> bool:
        return super().good and max(self.redone, default=0.0) < CHECKPOINT

    def kill(self, pid: int, *, group: bool) -> None:
        """SIGKILL for a process, or for its children too."""
        self.kills += 1
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
        (self.groups if group else self.killed)[pid] = time.monotonic()

    def __str__(self) -> str:
        cost = (
            f"work redone per cut attempt ({len(self.redone)}): median {median(self.redone):.3f} s, "
            f"at most {max(self.redone):.3f} s, with a checkpoint each {CHECKPOINT} s"
            if self.redone
            else "no attempt was followed by another"
        )
        return f"{self.kills} kills over {super().__str__()}; {cost}"


def disturb(
    store: Store, trace: Path, rng: random.Random, tally: Killing, kills: int, epochs: int, seeds: int, stack: int
) -> None:
    """Start and kill processes until the grid is finished or there were enough kills; then finish it."""

    def go(workers: int) -> "os.PathLike":
        options = {"program": "tests.drills.traced", "env": {"VITAB_TRACE": str(trace)}}
        shared = ("--workers", str(workers), "--seeds", str(seeds), "--stack", str(rng.randint(1, stack)))
        return start(store.root, *shared, epochs=epochs, **options)

    while tally.kills < kills and len(tally.seen) < 2 * seeds:
        before = set(trace.iterdir())
        crew = [go(rng.choice((1, 1, 2))) for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.75:  # well into a run, also on a machine that is slow to get there
            while set(trace.iterdir()) == before and any(process.poll() is None for process in crew):
                time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 2.0))
        for process in crew:
            time.sleep(rng.uniform(0.0, 0.3))
            if process.poll() is None:
                tally.kill(process.pid, group=rng.random() < 0.5)
            process.wait()
        tally.look(store)
    go(2).wait(timeout=300)
    tally.look(store)


def drill(kills: int, *, epochs: int = 1000, seed: int = 0, stack: int = 1) -> Killing:
    """Grids one after another until so many processes were killed."""
    rng, tally, seeds = random.Random(seed), Killing(), max(2, stack)
    with tempfile.TemporaryDirectory() as folder:
        whole = undisturbed(Path(folder, "whole"), epochs, seeds)
        while tally.kills < kills:
            store, trace = Store(Path(folder, str(tally.grids))), Path(folder, f"trace-{tally.grids}")
            trace.mkdir()
            disturb(store, trace, rng, tally, kills, epochs, seeds, stack)
            tally.compare(store, whole)
            runs = read(trace, tally.killed, tally.groups)
            tally.redone += work_redone(runs)
            tally.duplicated += at_once(runs)
    return tally
