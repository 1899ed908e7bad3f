"""Drill that kills `vitab evaluate` processes and their worker processes with SIGKILL at random times.

One or two commands with two workers each evaluate the runs of the smoke grid in one folder. Then the evaluations are
finished. An evaluation is repeated if it was written again, or measured again after it was finished.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ablations.execution.lease import active_lease
from ablations.storage import EvaluationStore, Store, finished_keys, problems

from .common import ROOT, start
from .traced_evaluate import read

PROTOCOLS = "resolution,shift,shuffle,occlusion,corruption,calibration,per-class,attention,position-probe"
SAME_BYTES = ("config.json", "arrays.npz")
SLACK = 50_000_000
"""Nanoseconds by which the clocks of the trace and of the file system may differ."""


@dataclass
class EvaluationKilling:
    """Counts of killed processes and their effects."""

    killed: Counter[str] = field(default_factory=Counter)
    folders: int = 0
    evaluations: int = 0
    in_progress: int = 0  # evaluations that a kill has ended
    lost: int = 0
    repeated: int = 0
    different: int = 0
    damaged: int = 0
    changed_runs: int = 0

    @property
    def kills(self) -> int:
        return self.killed.total()

    @property
    def good(self) -> bool:
        return not (self.lost or self.repeated or self.different or self.damaged or self.changed_runs)

    def __str__(self) -> str:
        what = ", ".join(f"{count} of {kind}" for kind, count in sorted(self.killed.items()))
        return (
            f"{self.kills} kills ({what}), which ended {self.in_progress} evaluations in progress, over "
            f"{self.evaluations} evaluations in {self.folders} folders: {self.lost} lost, {self.repeated} repeated, "
            f"{self.different} different, {self.damaged} damaged, {self.changed_runs} files of runs changed"
        )


def go(runs: Path, trace: Path, workers: int = 2) -> subprocess.Popen:
    """Start `vitab evaluate` in a new process group with its worker processes."""
    command = ["evaluate", "--protocol", PROTOCOLS, "--workers", str(workers), "--quiet", "--runs", str(runs)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.drills.traced_evaluate", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "VITAB_TRACE": str(trace)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def files_of_runs(runs: Path) -> dict[str, tuple[str, int]]:
    """Return SHA-256 and modification time of each file in a folder of runs, without evaluations."""
    return {
        str(path.relative_to(runs)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in runs.rglob("*")
        if path.is_file() and "evaluations" not in path.relative_to(runs).parts
    }


def finished(store: EvaluationStore) -> dict[str, tuple[int, int]]:
    """Return what changes when a finished evaluation is written again: inode and time of DONE.json, by key."""
    stats = {key: (store.folder(key) / "DONE.json").stat() for key in finished_keys(store)[0]}
    return {key: (stat.st_ino, stat.st_mtime_ns) for key, stat in stats.items()}


def numbers(store: EvaluationStore, key: str) -> list[object]:
    """Return everything in an evaluation that a disturbance must not change."""
    folder = store.folder(key)
    result = json.loads((folder / "result.json").read_bytes())
    return [*((folder / name).read_bytes() for name in SAME_BYTES), {k: v for k, v in result.items() if k != "seconds"}]


def leases(store: EvaluationStore) -> dict[Path, int]:
    """Return the process of each evaluation in progress, by folder."""
    owners = {folder: active_lease(folder) for folder in store.root.iterdir()} if store.root.exists() else {}
    return {folder: owner["pid"] for folder, owner in owners.items() if owner and not (folder / "DONE.json").exists()}


def kill_one(
    commands: list[subprocess.Popen], store: EvaluationStore, rng: random.Random, tally: EvaluationKilling
) -> None:
    """Kill a command, a command with its worker processes, or a single worker process."""
    live = [command.pid for command in commands if command.poll() is None]
    working = leases(store)
    processes = [pid for pid in working.values() if pid not in live]
    kinds = {"commands": live, "commands with their workers": live, "worker processes": processes}
    some = [kind for kind, pids in kinds.items() if pids]
    if not some:
        return
    kind = rng.choice(some)
    pid = rng.choice(kinds[kind])
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if kind == "commands with their workers" else os.kill)(pid, signal.SIGKILL)
        tally.killed[kind] += 1
        ended = working.values() if kind == "commands with their workers" else [p for p in working.values() if p == pid]
        tally.in_progress += len(list(ended))


def disturb(runs: Path, trace: Path, rng: random.Random, tally: EvaluationKilling, kills: int, total: int) -> None:
    """Kill processes until all is evaluated or the number of kills is reached; then finish the evaluations."""
    store, seen = EvaluationStore.beside(Store(runs)), {}

    def look() -> int:
        nonlocal seen
        now = finished(store)
        tally.repeated += sum(now.get(key) != done for key, done in seen.items())
        seen = now
        return len(now)

    while tally.kills < kills and look() < total:
        commands = [go(runs, trace) for _ in range(rng.choice((1, 1, 2)))]
        if rng.random() < 0.9:  # wait until an evaluation has begun, however slow the machine is
            while not leases(store) and any(command.poll() is None for command in commands):
                time.sleep(0.01)
        for _ in range(rng.randint(1, 3)):
            time.sleep(rng.uniform(0.0, 1.0))
            if tally.kills < kills:
                kill_one(commands, store, rng, tally)
                look()
        for command in commands:
            if command.poll() is None and rng.random() < 0.8 and tally.kills < kills:
                tally.killed["commands with their workers"] += 1
                tally.in_progress += len(leases(store))
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(command.pid, signal.SIGKILL)
        for command in commands:
            command.wait(timeout=300)
    assert go(runs, trace).wait(timeout=300) == 0
    look()


def compare(runs: Path, whole: Path, trace: Path, tally: EvaluationKilling) -> None:
    """Compare the evaluations of a folder, which should all be finished, with the undisturbed ones."""
    store, expected = (EvaluationStore.beside(Store(folder)) for folder in (runs, whole))
    done = {}
    for key in finished_keys(expected)[0]:
        tally.evaluations += 1
        if not store.done(key):
            tally.lost += 1
            continue
        tally.damaged += bool(problems(store, key))
        tally.different += numbers(store, key) != numbers(expected, key)
        result = store.result(key)
        done[result["run"], result["protocol"]] = (store.folder(key) / "DONE.json").stat().st_mtime_ns
    events = read(trace)
    written = Counter((run, text) for _, event, run, text in events if event == "written")
    tally.repeated += sum(count - 1 for count in written.values())
    tally.repeated += sum(
        event == "start" and at > done.get((run, text), at) + SLACK for at, event, run, text in events
    )
    tally.folders += 1


def drill(kills: int, *, seed: int = 0) -> EvaluationKilling:
    """Disturb the evaluations of one copy of the runs after another until `kills` processes were killed."""
    rng, tally = random.Random(seed), EvaluationKilling()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        assert start(whole, "--workers", "1", epochs=4).wait(timeout=300) == 0
        shutil.copytree(whole, Path(folder, "trained"))
        assert go(whole, Path(folder, "trace-whole"), workers=1).wait(timeout=300) == 0
        total = len(finished_keys(EvaluationStore.beside(Store(whole)))[0])
        assert total == 4 * len(PROTOCOLS.split(","))
        while tally.kills < kills:
            runs, trace = Path(folder, str(tally.folders)), Path(folder, f"trace-{tally.folders}")
            shutil.copytree(Path(folder, "trained"), runs)
            before = files_of_runs(runs)
            disturb(runs, trace, rng, tally, kills, total)
            after = files_of_runs(runs)
            tally.changed_runs += sum(before.get(name) != after.get(name) for name in {*before, *after})
            compare(runs, whole, trace, tally)
    return tally
