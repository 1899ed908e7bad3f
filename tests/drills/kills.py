"""Drill that kills `vitab run` processes with SIGKILL at random times.

One to four processes work on the smoke grid in one folder and are killed, half of them with their worker processes.
Then the grid is finished. With stacks, each process trains up to a random number of runs as one model. A tuned grid
has trials in two rounds before its runs, of which the second follows from the results of the first.
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

TUNED = ("--tune", "learning_rate=1e-4:1e-2:log", "--trials", "6", "--tune-sampler", "tpe", "--prune")
"""Options of a tuned grid."""


@dataclass
class Killing(Tally):
    """Counts of killed processes, and the work that was lost."""

    kills: int = 0
    redone: list[float] = field(default_factory=list)  # seconds of lost work, per attempt that was followed by another
    killed: dict[int, float] = field(default_factory=dict)  # time of the kill, by process id
    groups: dict[int, float] = field(default_factory=dict)  # time of the kill, by process group
    in_trials: int = 0  # kills before all trials had finished

    @property
    def good(self) -> bool:
        return super().good and max(self.redone, default=0.0) < CHECKPOINT

    def kill(self, pid: int, *, group: bool) -> None:
        """Kill a process, or its process group, with SIGKILL."""
        self.kills += 1
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
        (self.groups if group else self.killed)[pid] = time.monotonic()

    def __str__(self) -> str:
        cost = (
            f"work repeated per killed attempt ({len(self.redone)}): median {median(self.redone):.3f} s, "
            f"maximum {max(self.redone):.3f} s, with a checkpoint every {CHECKPOINT} s"
            if self.redone
            else "no attempt was repeated"
        )
        phase = f" ({self.in_trials} of them before all trials had finished)" if self.in_trials else ""
        return f"{self.kills} kills{phase} over {super().__str__()}; {cost}"


def disturb(
    store: Store,
    trace: Path,
    rng: random.Random,
    tally: Killing,
    kills: int,
    epochs: int,
    seeds: int,
    stack: int,
    tuned: bool,
) -> None:
    """Start and kill processes until the grid is finished or the number of kills is reached; then finish the grid."""

    def go(workers: int) -> "os.PathLike":
        options = {"program": "tests.drills.traced", "env": {"VITAB_TRACE": str(trace)}}
        shared = ("--workers", str(workers), "--seeds", str(seeds), "--stack", str(rng.randint(1, stack)))
        shared += TUNED if tuned else ()
        return start(store.root, *shared, epochs=epochs, **options)

    def searching(store: Store) -> bool:
        return tuned and (not store.studies() or store.read_study("smoke").searching)

    while tally.kills < kills and len(tally.seen) < 2 * seeds + 12 * tuned:
        before = set(trace.iterdir())
        processes = [go(rng.choice((1, 1, 2))) for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.75:  # wait until training has started, however slow the machine is
            while set(trace.iterdir()) == before and any(process.poll() is None for process in processes):
                time.sleep(0.01)
        while 2 * tally.in_trials >= kills and searching(store) and any(p.poll() is None for p in processes):
            time.sleep(0.01)  # the other half of the kills comes after the choice
        time.sleep(rng.uniform(0.0, 2.0))
        for process in processes:
            time.sleep(rng.uniform(0.0, 0.3))
            if process.poll() is None:
                tally.kill(process.pid, group=rng.random() < 0.5)
                tally.in_trials += searching(store)
            process.wait()
        tally.look(store)
    go(2).wait(timeout=600)
    tally.look(store)


def drill(kills: int, *, epochs: int = 1000, seed: int = 0, stack: int = 1, tuned: bool = False) -> Killing:
    """Disturb one grid after another until `kills` processes were killed."""
    rng, tally, seeds = random.Random(seed), Killing(), max(2, stack)
    with tempfile.TemporaryDirectory() as folder:
        whole = undisturbed(Path(folder, "whole"), epochs, seeds, TUNED if tuned else ())
        while tally.kills < kills:
            store, trace = Store(Path(folder, str(tally.grids))), Path(folder, f"trace-{tally.grids}")
            trace.mkdir()
            disturb(store, trace, rng, tally, kills, epochs, seeds, stack, tuned)
            tally.compare(store, whole)
            runs = read(trace, tally.killed, tally.groups)
            tally.redone += work_redone(runs)
            tally.duplicated += at_once(runs)
    return tally
