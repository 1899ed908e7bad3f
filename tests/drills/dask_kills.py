"""Workers, clients and children of a Dask cluster killed with SIGKILL at random moments.

Two clients at once have the smoke grid trained by the two worker processes of a LocalCluster, whose nannies replace
those that are killed, as the drill does with clients. In every second grid the workers do not see the folder of runs.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.execution.lease import active_lease
from ablations.storage import Store

from .common import Tally, start, undisturbed

IN_A_GRID = 25
"""Kills at most, so that there are several grids."""
APART = Path(__file__).with_name("apart.py")


@dataclass
class DaskKilling(Tally):
    """What was killed."""

    killed: Counter = field(default_factory=Counter)
    left_over: int = 0  # results that the cluster still holds, or workers, when the grid is finished

    @property
    def kills(self) -> int:
        return self.killed.total()

    @property
    def good(self) -> bool:
        return super().good and not self.left_over

    def __str__(self) -> str:
        what = ", ".join(f"{count} of {kind}" for kind, count in sorted(self.killed.items()))
        return f"{self.kills} kills ({what}) over {super().__str__()}; {self.left_over} results left on the cluster"


@contextlib.contextmanager
def cluster(folder: Path, *, shared: bool) -> Iterator[Any]:
    """Two worker processes of one thread each, and their scheduler."""
    import dask
    from distributed import LocalCluster

    env = {"XDG_CACHE_HOME": str(folder)}
    options = {} if shared else {"preload": [str(APART)]}
    with dask.config.set({"distributed.nanny.environ": env}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", env=env, silence_logs=60, **options
        ) as made:
            yield made


def pids_at_work(store: Store) -> list[int]:
    """The children that hold a run by their own word."""
    owners = [active_lease(folder) for folder in store.root.iterdir()] if store.root.exists() else []
    return [owner["pid"] for owner in owners if owner is not None]


def revive(made: Any) -> None:
    """New nannies for those that have given up, as they do when their worker is killed while it begins."""
    for name, nanny in list(made.workers.items()):
        if nanny.status.name in ("failed", "closed", "closing"):
            del made.workers[name]
    made.sync(made._correct_state)


def kill_one(made: Any, clients: list, stores: tuple[Store, ...], rng: random.Random, tally: DaskKilling) -> None:
    """SIGKILL for a worker, a client or a child."""
    known = set(made.scheduler.workers)  # a nanny gives up when its worker dies before it has begun
    workers = [nanny.pid for nanny in made.workers.values() if nanny.pid is not None and nanny.worker_address in known]
    children = [pid for store in stores for pid in pids_at_work(store) if pid not in [c.pid for c in clients]]
    live = [client.pid for client in clients if client.poll() is None]
    kinds = {"workers": (workers, 4), "clients": (live, 2), "children": (children, 2)}
    some = {kind: weight for kind, (pids, weight) in kinds.items() if pids}
    kind = rng.choices(list(some), list(some.values()))[0]
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(kinds[kind][0]), signal.SIGKILL)
        tally.killed[kind] += 1


def disturb(made: Any, store: Store, cache: Path, rng: random.Random, tally: DaskKilling, kills: int, go: Any) -> None:
    """Kill until the grid is finished or there were enough kills; then finish it."""
    stores = store, Store(cache / "vitab" / "cluster")
    clients = [go(), go()]
    kills = min(kills, tally.kills + IN_A_GRID)
    while tally.kills < kills and tally.look(store) < 4:
        time.sleep(rng.uniform(0.2, 3.0))
        kill_one(made, clients, stores, rng, tally)
        revive(made)
        for client in clients:
            if client.poll() is not None:
                clients[clients.index(client)] = go()
    deadline = time.monotonic() + 300
    while any(client.poll() is None for client in clients) and time.monotonic() < deadline:
        revive(made)
        time.sleep(1.0)
    for client in clients:
        client.wait(timeout=1)
    if go().wait(timeout=300) and go().wait(timeout=300):
        print("the grid could not be finished", file=sys.stderr)
    tally.look(store)


def drill(kills: int, *, epochs: int = 1000, seed: int = 0) -> DaskKilling:
    """Grids one after another until so many processes were killed."""
    from distributed import Client

    rng, tally = random.Random(seed), DaskKilling()
    with tempfile.TemporaryDirectory() as folder:
        whole = undisturbed(Path(folder, "whole"), epochs)
        while tally.kills < kills:
            store, cache = Store(Path(folder, str(tally.grids))), Path(folder, f"cache-{tally.grids}")
            with cluster(cache, shared=tally.grids % 2 == 0) as made:

                def go(store: Store = store, address: str = made.scheduler_address) -> Any:
                    return start(store.root, "--dask", address, epochs=epochs)

                disturb(made, store, cache, rng, tally, kills, go)
                with Client(made) as client:
                    tally.left_over += len(client.list_datasets())
            tally.compare(store, whole)
    return tally
