"""Files of a store damaged at random, and whether anybody who reads them would believe them.

Detected: the run counts as not finished and is trained again, `vitab verify` names the file, or it is refused or
ignored by its reader. Harmless: all that is read is what was written. Missed: something else is read and believed.
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
    """How many of each verdict, by file and kind of damage."""

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
    """A damaged copy of a file, `other` being the same file of another run; None when it is removed."""
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
    """The smoke grid trained; beside it the snapshot of half a run in every folder, and unfinished runs.

    Of those one is this process's, and all others are free.
    """
    store = Store(root)
    for options in ((), ("--study", "other", "--seeds", "1")):
        assert start(root, "--workers", "1", *options, epochs=2).wait(timeout=300) == 0
    for number, key in enumerate(store.read_study("smoke").keys):
        arrays = {"weights": np.random.default_rng(number).standard_normal(100, dtype=np.float32)}
        who = WHO | {"key": key}
        store.snapshot(key).write_bytes(snapshot.to_bytes(snapshot.TrainingState(STATE | {"of": key}, arrays), who))
        attempt = LeaseManager().acquire(unfinished(store, key))
        assert attempt is not None
        if number:
            attempt.release()
    return store


def unfinished(store: Store, key: str) -> Path:
    """The folder of another run than that of the key, which is not finished."""
    return store.root / "unfinished" / key[:16]


def place(store: Store, key: str, name: str) -> Path:
    """Where a file is, of a run if it is of one."""
    if name.startswith("studies/"):
        return store.root / name
    return (unfinished(store, key) if name.startswith("attempt") else store.folder(key)) / name


def believed(store: Store, key: str, name: str) -> Any:
    """What readers make of a file: None when they do not believe it, or see that it is not there."""
    if name == "resume.bin":
        found = snapshot.Checkpointer(store.snapshot(key), WHO | {"key": key}).load()
        return None if found is None else (found.notes, found.arrays["weights"].tobytes())
    if name.startswith("studies/"):
        try:
            return store.read_study("smoke")
        except UsageError:
            return None
    if name.startswith("attempt"):
        # that a run is free is believed only where its owner does not: it asks before it writes anything
        folder = unfinished(store, key)
        if not LeaseManager().is_free(folder):
            return "at work"
        return "free" if Lease(folder, 1).held() else None
    return None if not store.done(key) or problems(store, key) else results(store, key)


def results(store: Store, key: str) -> Any:
    """All that a report could say of a run."""
    weights, predictions = store.checkpoint(key), store.predictions(key)
    arrays = {name: array.tobytes() for name, array in sorted((weights | predictions).items())}
    return config_of(store, key), store.result(key), store.metrics(key), store.environment(key), arrays


def judge(store: Store, keys: tuple[str, ...], name: str, kind: str, rng: np.random.Generator) -> str | None:
    """Damage a file, see what is believed, and mend it; None when the damage left it as it was."""
    key, other = rng.choice(keys, 2, replace=False)
    if name.startswith("attempt"):
        key, other = keys[0], rng.choice(keys[1:])
    path, theirs = place(store, key, name), place(store, other, name.replace("smoke", "other"))
    good, before = path.read_bytes(), believed(store, key, name)
    assert before is not None
    damaged = harm(good, theirs.read_bytes(), kind, rng)
    if damaged == good:
        return None
    try:
        path.unlink() if damaged is None else path.write_bytes(damaged)
        after = believed(store, key, name)
    finally:
        path.write_bytes(good)
    return "detected" if after is None else "harmless" if after == before else "missed"


def drill(count: int, *, seed: int = 0) -> Fuzzing:
    """Damage files so many times, each file in each way in turn."""
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
