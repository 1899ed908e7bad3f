"""Client's view of a Dask cluster for `vitab run --dask ADDRESS`: connection, security, and the workers that fit."""

import asyncio
import contextlib
import logging
import os
import platform
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.config import count
from ablations.errors import UsageError, VitabError
from ablations.execution.lease import is_dead, process_identity
from ablations.machine import CUDA_PACKAGES, PACKAGES, versions
from ablations.storage import read_json, storage_errors, to_json, write_file
from ablations.storage.code_version import package_digest

if TYPE_CHECKING:
    from distributed import Client

REFRESH_INTERVAL = 1.0
"""Seconds between two queries for the workers of the cluster."""
CONNECT_TIMEOUT = "10s"
"""Time to wait for the scheduler."""
ANSWER_TIMEOUT = 5.0
"""Seconds to wait for the answer of a worker. A worker that does not answer is asked again."""
PROBE_PREFIX = ".shared."
"""Prefix of the file by which a worker detects that it shares the folder of runs."""
ENCRYPTED = ("tls", "wss")
CONNECTION_ERRORS = (OSError, TimeoutError, RuntimeError)
"""Exceptions that distributed raises when a worker or the scheduler cannot be reached."""


@contextmanager
def connect(address: str, *, insecure: bool) -> "Iterator[Client]":
    """Return a context with a Dask client.

    Raises UsageError if the scheduler cannot be reached, or needs encryption and has none.
    """
    if find_spec("distributed") is None:
        raise UsageError("--dask needs the package distributed: pip install 'vitab[dask]'")
    check_address(address, insecure=insecure)
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # errors are reported here, in one line
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False, name="vitab")
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"--dask {address}: cannot reach a Dask scheduler ({why})") from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=2)


def check_address(address: str, *, insecure: bool, what: str = "--dask") -> None:
    """Raise UsageError if the address is malformed, or on another machine without encryption and not `insecure`."""
    scheme, found, rest = address.partition("://")
    scheme, rest = (scheme, rest) if found else ("tcp", address)
    host, _, port = rest.rpartition(":")
    if scheme == "inproc":
        return
    if not host or not port.isdecimal() or not scheme.isalpha():
        raise UsageError(f"--dask must be an address such as tcp://127.0.0.1:8786 or tls://host:8786, got {address!r}")
    if scheme not in ENCRYPTED and not insecure and not is_local(host.strip("[]")):
        raise UsageError(
            f"{what} {address} is on another machine and not encrypted, so others on the network could read and change "
            "the data: use tls:// (set up in Dask's own configuration), or add --insecure on a network that you trust"
        )


def is_local(host: str) -> bool:
    """Return whether a host name or address belongs to this machine: whether a socket can be bound to it."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--dask: cannot resolve the host {host!r}") from error
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as trial:
                trial.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True


class Cluster:
    """Workers of a Dask cluster that can execute runs of one folder. `log` receives messages for the user."""

    def __init__(self, client: "Client", runs: Path, log: Callable[[str], None], *, insecure: bool = False) -> None:
        self.client, self.runs, self.log, self.insecure = client, runs.absolute(), log, insecure
        self.code = package_digest()
        self.workers: dict[str, dict[str, Any]] = {}  # descriptions of the accepted workers, by address
        self._known: set[str] = set()  # addresses of the workers that answered a query
        self._authorized: dict[str, tuple[bool, int]] = {}  # by address: shares the folder, threads per run
        self._logged: set[str] = set()
        self._last_refresh = -float("inf")
        self._probe, self._token = f"{PROBE_PREFIX}{secrets.token_hex(8)}", ""

    @property
    def folder(self) -> str:
        """Identity of the folder of runs: distinguishes it from a folder with the same path on another machine."""
        return f"{self.runs}#{self.runs.stat().st_ino}"

    def choose_backend(self, name: str) -> str:
        """Return numpy or cupy, depending on the workers. Raises UsageError for cupy if no worker has it."""
        able = [worker for worker in self.workers.values() if worker["cupy"] and worker["gpu"]]
        if name == "cupy" and self.workers and not able:
            raise UsageError(
                "--backend cupy needs Dask workers with CuPy, an NVIDIA GPU and --resources GPU=1, got "
                f"{count(len(self.workers), 'worker')} without; valid here: numpy"
            )
        return "cupy" if name == "cupy" or (name == "auto" and able) else "numpy"

    @contextmanager
    def folder_probe(self) -> Iterator[None]:
        """Return a context in which the folder has a file with a random token, which workers that share it can read.

        Queries the workers. Raises UsageError if there are workers and none of them can execute runs.
        """
        self._token = secrets.token_hex(32)
        path = self.runs / self._probe
        with storage_errors(f"cannot write {self.runs}"):
            for leftover in self.runs.glob(f"{PROBE_PREFIX}*"):
                if isinstance(owner := read_json(leftover), dict) and is_dead(owner):
                    leftover.unlink(missing_ok=True)
            write_file(path, to_json({"token": self._token} | process_identity(os.getpid())))
        try:
            self.refresh_workers()
            if self._known and not self.workers:
                raise UsageError(
                    f"no Dask worker can execute runs ({count(len(self._known), 'worker')} found): "
                    f"{'; '.join(self._logged)}"
                )
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    def refresh_workers(self) -> None:
        """Query new workers, and remove workers that have left the cluster.

        Raises VitabError if the scheduler cannot be reached, UsageError if a worker needs encryption and has none.
        """
        self._last_refresh = time.monotonic()
        with self.scheduler_errors():
            threads: dict[str, int] = dict(self.client.nthreads())
        new = [address for address in threads if address not in self._known]
        for address in new:
            check_address(address, insecure=self.insecure, what="the Dask worker")
        answers = self._query_workers(new)
        self._known = (self._known & set(threads)) | set(answers)
        self._authorized = {address: share for address, share in self._authorized.items() if address in threads}
        self.workers = {address: worker for address, worker in self.workers.items() if address in threads}
        for address, answer in answers.items():
            if (reason := self._reason_unfit(answer)) is not None:
                self.log_once(f"the Dask worker {_worker_name(address, answer)} is excluded: {reason}")
                continue
            self.workers[address] = answer | {"threads": threads[address]}
            if different := _different_packages(answer["packages"]):
                self.log_once(f"note: the Dask worker on {answer['host']} has {different}")
        self._authorize_workers()

    def refresh_if_due(self) -> None:
        """Refresh the workers if the last refresh is at least REFRESH_INTERVAL seconds ago."""
        if time.monotonic() - self._last_refresh >= REFRESH_INTERVAL:
            self.refresh_workers()

    def exclude_worker(self, address: str, reason: str) -> None:
        """Exclude a worker that cannot execute the runs. Raises VitabError if no other worker is left."""
        worker = self.workers.pop(address, None)
        self._authorized.pop(address, None)
        if worker is not None:
            self.log_once(f"the Dask worker {_worker_name(address, worker)} is excluded from now on: {reason}")
        if not self.workers:
            raise VitabError(f"no Dask worker can execute the runs: {reason}")

    def forget_worker(self, address: str) -> None:
        """Forget a worker that does not know this client, perhaps since another process has its address now.

        The next refresh queries it again.
        """
        self._known.discard(address)
        self._authorized.pop(address, None)

    def describe(self) -> str:
        """Return a message with the number of workers."""
        threads = sum(worker["threads"] for worker in self.workers.values())
        sharing = sum(worker["shared"] for worker in self.workers.values())
        if not self.workers:
            return "no Dask workers yet; runs start when one joins"
        return (
            f"{count(len(self.workers), 'Dask worker')} with {count(threads, 'thread')}, "
            f"{sharing} with access to {self.runs}"
        )

    @contextmanager
    def scheduler_errors(self) -> Iterator[None]:
        """Return a context that turns connection errors into a VitabError."""
        try:
            yield
        except CONNECTION_ERRORS as error:
            raise self.scheduler_lost() from error

    def scheduler_lost(self) -> VitabError:
        """Return the error for a scheduler that does not answer."""
        return VitabError("lost the connection to the Dask scheduler; finished runs are kept, the same command resumes")

    def call_all_workers(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in all workers, and ignore workers that cannot be reached."""
        with contextlib.suppress(*CONNECTION_ERRORS, ValueError):
            self._call(function, *arguments, workers=list(self.workers))

    def _call(self, function: Callable[..., object], *arguments: object, workers: list[str]) -> dict[str, Any]:
        """Call a function in each of the workers; return what it returned or raised in those that answered.

        `Client.run` is not used: it waits forever for a worker that dies before it has answered.
        """

        async def ask(address: str) -> dict[str, Any]:
            call = self.client._run(function, *arguments, workers=[address], on_error="return")
            return dict(await asyncio.wait_for(call, ANSWER_TIMEOUT))

        async def ask_all() -> list[Any]:
            return await asyncio.gather(*map(ask, workers), return_exceptions=True)

        answers = self.client.sync(ask_all) if workers else []
        return {address: value for answer in answers if isinstance(answer, dict) for address, value in answer.items()}

    def _query_workers(self, addresses: list[str]) -> dict[str, Any]:
        """Return the answers of workers, by address, without those that cannot be reached now."""
        if not addresses:
            return {}
        arguments = (self.code, str(self.runs), self._probe, self._token)
        with contextlib.suppress(*CONNECTION_ERRORS):
            answers = self._call(_worker_query(), *arguments, workers=addresses)
            return {address: answer for address, answer in answers.items() if not isinstance(answer, CONNECTION_ERRORS)}
        return {}

    def _reason_unfit(self, answer: Any) -> str | None:
        """Return why a worker with this answer cannot execute runs, or None."""
        if not isinstance(answer, dict):
            return f"its answer was {type(answer).__name__}: {' '.join(str(answer).split())}"
        if "error" in answer:
            return f"cannot import vitab there ({answer['error']})"
        if answer["code"] != self.code:
            return f"its version of vitab differs ({answer['code'][:12]}, here {self.code[:12]}); install the same one"
        return None

    def _authorize_workers(self) -> None:
        """Authorize workers to execute runs of the folder; workers on one machine share its cores."""
        from ablations.execution.dask.worker import authorize

        threads_on_host: dict[str, int] = {}
        for worker in self.workers.values():
            threads_on_host[worker["host"]] = threads_on_host.get(worker["host"], 0) + worker["threads"]
        shares = {
            address: (worker["shared"], max(1, worker["cores"] // threads_on_host[worker["host"]]))
            for address, worker in self.workers.items()
        }
        changed = [address for address, share in shares.items() if self._authorized.get(address) != share]
        with contextlib.suppress(*CONNECTION_ERRORS):  # the next refresh tries again
            answers = self._call(authorize, self.folder, shares, workers=changed)
            self._authorized |= {address: shares[address] for address, answer in answers.items() if answer is True}

    def log_once(self, line: str) -> None:
        """Log a message the first time only."""
        if line not in self._logged:
            self._logged.add(line)
            self.log(line)


def _worker_query() -> Callable[..., Any]:
    # A nested function is serialized by value, so it also runs, and reports the error, where vitab is not installed
    def query(code: str, runs: str, probe: str, token: str, dask_worker: Any) -> dict[str, Any]:
        gpu = dask_worker.state.total_resources.get("GPU", 0)
        try:
            from ablations.storage.code_version import package_digest

            answer = {"code": package_digest(), "gpu": gpu}
            if answer["code"] == code:
                from ablations.execution.dask.worker import describe_worker

                answer |= describe_worker(runs, probe, token)
            return answer
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    return query


def _worker_name(address: str, answer: Any) -> str:
    return f"{address} on {answer['host']}" if isinstance(answer, dict) and "host" in answer else address


def _different_packages(packages: dict[str, str]) -> str:
    """Return the packages of a worker whose versions differ from those here: `numpy 2.3.1 (here 2.4.6)`."""
    here = {"python": platform.python_version()} | versions((*PACKAGES, *CUDA_PACKAGES))
    return ", ".join(
        f"{name} {packages[name]} (here {here[name]})" for name in here if packages.get(name, here[name]) != here[name]
    )
