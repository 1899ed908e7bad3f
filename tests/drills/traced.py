"""The program vitab, which also writes down when each step of each run was done, to a folder that VITAB_TRACE names.

Children of it are started with this module as their main module too, and so write down theirs.
"""

import os
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from ablations import snapshot
from ablations.cli import app

_load, _due = snapshot.Keeper.load, snapshot.Keeper.due


def load(keeper: snapshot.Keeper) -> snapshot.Snapshot | None:
    """An attempt begins, at the step of its snapshot."""
    found = _load(keeper)
    keeper.step = 0 if found is None else found.notes["optimizer_step"]
    name = f"{keeper.path.parent.name}-{time.monotonic_ns()}-{os.getpid()}"
    keeper.trace = os.open(Path(os.environ["VITAB_TRACE"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    note(keeper)
    return found


def due(keeper: snapshot.Keeper) -> bool:
    """A step is done."""
    keeper.step += 1
    note(keeper)
    return _due(keeper)


def note(keeper: snapshot.Keeper) -> None:
    os.write(keeper.trace, f"{time.monotonic()} {keeper.step}\n".encode())


def work_redone(folder: Path) -> list[float]:
    """Seconds of training that each attempt which was followed by another had spent past what the next began from."""
    attempts = defaultdict(list)
    for path in sorted(folder.iterdir()):
        rows = [line.split() for line in path.read_text().splitlines()]
        attempts[path.name.partition("-")[0]].append([(float(at), int(step)) for at, step in rows])
    redone = []
    for of_run in attempts.values():
        of_run.sort()
        for before, after in pairwise(of_run):
            kept = [at for at, step in before if step <= after[0][1]]
            redone.append(before[-1][0] - (kept[-1] if kept else before[0][0]))
    return redone


if __name__ in ("__main__", "__mp_main__"):  # and not where only what it wrote is read
    snapshot.Keeper.load, snapshot.Keeper.due = load, due

if __name__ == "__main__":
    app()
