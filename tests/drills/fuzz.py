"""Drill that damages files of a store at random and checks whether their readers detect it.

Detected: the run counts as unfinished, `vitab verify` reports the file, or its reader rejects or ignores it. Harmless:
everything that is read equals what was written. Missed: something else is read and accepted.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ablations.errors import UsageError
from ablations.execution.lease import Lease, LeaseManager
from ablations.storage import FILES, Store, config_of, problems
from ablations.training import checkpoint as snapshot

from .common import start

KINDS = ("truncated", "flipped", "emptied", "swapped", "removed")
WHO = {"key": "k", "code": "c", "backend": "numpy"}
STATE = {"losses": [0.1, 1 / 3], "optimizer_step": 7}
ALL = (*FILES, "DONE.json", "resume.bin", "attempt-0001.json", "studies/smoke.json")
VERDICTS = ("detected", "harmless", "missed")


@dataclass
class Fuzzing:
    """Counts by file, kind of damage and verdict."""

    counts: Counter = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        return not sum(count for (_, _, verdict), count in self.counts.items() if verdict == "missed")

    def __str__(self) -> str:
        def cells(name: str) -> list[str]:
            return ["/".join(str(self.counts[name, kind, verdict]) for verdict in VERDICTS) for kind in KINDS]

        lines = [f"{'/'.join(VERDICTS):<26}" + "".join(f"{kind:>14}" for kind in KINDS)]
        lines += [f"{name:<26}" + "".join(f"{cell:>14}" for cell in cells(name)) for name in ALL]
        totals = Counter(verdict for (_, _, verdict), count in self.counts.items() for _ in range(count))
        return "\n".join([*lines, ", ".join(f"{totals[verdict]} {verdict}" for verdict in VERDICTS)])


def harm(content: bytes, other: bytes, kind: str, rng: np.random.Generator) -> bytes | None:
    """Return a damaged copy of a file, or None for a removed one. `other` is the same file of another run."""
    match kind:
        case "truncated":
            return content[: rng.integers(1, len(content))]
        case "flipped":
            flipped = bytearray(content)
            flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
            return bytes(flipped)
        case "emptied":
            return b""
        case "swapped":
            return other
    return None


def finished_grid(root: Path) -> Store:
    """Train the smoke grid, and add a checkpoint and an unfinished run for each of its runs.

    This process holds the lease of one unfinished run; the others are free.
    """
    store = Store(root)
    for options in ((), ("--study", "other", "--seeds", "1")):
        assert start(root, "--workers", "1", *options, epochs=2).wait(timeout=300) == 0
    for number, key in enumerate(store.read_study("smoke").keys):
        arrays = {"weights": np.random.default_rng(number).standard_normal(100, dtype=np.float32)}
        who = WHO | {"key": key}
        store.snapshot(key).write_bytes(snapshot.to_bytes(snapshot.TrainingState(STATE | {"of": key}, arrays), who))
        lease = LeaseManager().acquire(unfinished(store, key))
        assert lease is not None
        if number:
            lease.release()
    return store


def unfinished(store: Store, key: str) -> Path:
    """Return the folder of an unfinished run that belongs to the key."""
    return store.root / "unfinished" / key[:16]


def place(store: Store, key: str, name: str) -> Path:
    """Return the path of a file of the run or of the store."""
    if name.startswith("studies/"):
        return store.root / name
    return (unfinished(store, key) if name.startswith("attempt") else store.folder(key)) / name


def accepted(store: Store, key: str, name: str) -> Any:
    """Return what the reader of a file accepts; None if it rejects the file or finds none."""
    if name == "resume.bin":
        found = snapshot.Checkpointer(store.snapshot(key), WHO | {"key": key}).load()
        return None if found is None else (found.progress, found.arrays["weights"].tobytes())
    if name.startswith("studies/"):
        try:
            return store.read_study("smoke")
        except UsageError:
            return None
    if name.startswith("attempt"):
        # "free" does damage only if the owner still considers itself the owner, which it checks before every write
        folder = unfinished(store, key)
        if not LeaseManager().is_free(folder):
            return "leased"
        return "free" if Lease(folder, 1).held() else None
    return None if not store.done(key) or problems(store, key) else results(store, key)


def results(store: Store, key: str) -> Any:
    """Return everything in a run that a report can contain."""
    weights, predictions = store.checkpoint(key), store.predictions(key)
    arrays = {name: array.tobytes() for name, array in sorted((weights | predictions).items())}
    return config_of(store, key), store.result(key), store.metrics(key), store.environment(key), arrays


def judge(store: Store, keys: tuple[str, ...], name: str, kind: str, rng: np.random.Generator) -> str | None:
    """Damage a file, read it, and restore it. Return the verdict, or None if the damage changed nothing."""
    key, other = rng.choice(keys, 2, replace=False)
    if name.startswith("attempt"):
        key, other = keys[0], rng.choice(keys[1:])
    path, theirs = place(store, key, name), place(store, other, name.replace("smoke", "other"))
    good, before = path.read_bytes(), accepted(store, key, name)
    assert before is not None
    damaged = harm(good, theirs.read_bytes(), kind, rng)
    if damaged == good:
        return None
    try:
        path.unlink() if damaged is None else path.write_bytes(damaged)
        after = accepted(store, key, name)
    finally:
        path.write_bytes(good)
    return "detected" if after is None else "harmless" if after == before else "missed"


def drill(count: int, *, seed: int = 0) -> Fuzzing:
    """Damage `count` files, cycling through files and kinds of damage."""
    rng, fuzzing = np.random.default_rng(seed), Fuzzing()
    with tempfile.TemporaryDirectory() as folder:
        store = finished_grid(Path(folder, "runs"))
        plan = store.read_study("smoke")
        cases = [(name, kind) for kind in KINDS for name in ALL]
        for number in range(count):
            name, kind = cases[number % len(cases)]
            verdict = judge(store, plan.keys, name, kind, rng)
            fuzzing.counts[name, kind, verdict or "harmless"] += 1
    return fuzzing
