"""Drill that kills Dask workers, clients and worker processes with SIGKILL at random times.

Two clients train the smoke grid at the same time on the two workers of a LocalCluster. Nannies replace killed workers,
and the drill replaces killed clients. In every second grid the workers do not share the folder of runs.
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

MAX_KILLS_PER_GRID = 25
"""Limit that makes a drill use several grids."""
UNSHARED = Path(__file__).with_name("unshared_worker.py")


@dataclass
class DaskKilling(Tally):
    """Counts of killed processes and their effects."""

    killed: Counter = field(default_factory=Counter)
    left_over: int = 0  # results left on the cluster after the grid is finished

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
    """Start a scheduler and two Dask workers with one thread each."""
    import dask
    from distributed import LocalCluster

    env = {"XDG_CACHE_HOME": str(folder)}
    options = {} if shared else {"preload": [str(UNSHARED)]}
    with dask.config.set({"distributed.nanny.environ": env}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", env=env, silence_logs=60, **options
        ) as made:
            yield made


def lease_pids(store: Store) -> list[int]:
    """Return the ids of the processes that hold a lease."""
    owners = [active_lease(folder) for folder in store.root.iterdir()] if store.root.exists() else []
    return [owner["pid"] for owner in owners if owner is not None]


def revive(made: Any) -> None:
    """Replace nannies that gave up, which they do if their worker is killed while it starts."""
    for name, nanny in list(made.workers.items()):
        if nanny.status.name in ("failed", "closed", "closing"):
            del made.workers[name]
    made.sync(made._correct_state)


def kill_one(made: Any, clients: list, stores: tuple[Store, ...], rng: random.Random, tally: DaskKilling) -> None:
    """Kill a Dask worker, a client or a worker process with SIGKILL."""
    known = set(made.scheduler.workers)  # a nanny gives up if its worker dies during its start
    workers = [nanny.pid for nanny in made.workers.values() if nanny.pid is not None and nanny.worker_address in known]
    processes = [pid for store in stores for pid in lease_pids(store) if pid not in [c.pid for c in clients]]
    live = [client.pid for client in clients if client.poll() is None]
    kinds = {"workers": (workers, 4), "clients": (live, 2), "worker processes": (processes, 2)}
    some = {kind: weight for kind, (pids, weight) in kinds.items() if pids}
    kind = rng.choices(list(some), list(some.values()))[0]
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(kinds[kind][0]), signal.SIGKILL)
        tally.killed[kind] += 1


def disturb(made: Any, store: Store, cache: Path, rng: random.Random, tally: DaskKilling, kills: int, go: Any) -> None:
    """Kill processes until the grid is finished or the number of kills is reached; then finish the grid."""
    stores = store, Store(cache / "vitab" / "cluster")
    clients = [go(), go()]
    kills = min(kills, tally.kills + MAX_KILLS_PER_GRID)
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
    """Disturb one grid after another until `kills` processes were killed."""
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
