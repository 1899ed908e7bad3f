"""A Dask cluster as `vitab run --dask ADDRESS` sees it: who may be trusted with the words, which workers fit."""

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

from ablations.errors import UsageError, VitabError
from ablations.execution.lease import is_dead, process
from ablations.machine import CUDA_PACKAGES, PACKAGES, versions
from ablations.storage import read_json, storage_errors, to_json, write_file
from ablations.storage.provenance import code_digest

if TYPE_CHECKING:
    from distributed import Client

LOOK_EVERY = 1.0
"""Seconds between two looks at which workers there are."""
CONNECT = "10s"
"""How long to wait for the scheduler."""
ANSWER = 5.0
"""Seconds to wait for a worker's answer, which comes at once unless it has just died; it is asked again."""
PROBE = ".shared."
"""How the name of a file begins by which a worker is found to see the folder."""
ENCRYPTED = ("tls", "wss")
UNREACHED = (OSError, TimeoutError, RuntimeError)
"""What distributed raises when a worker or the scheduler cannot be spoken to just now."""


@contextmanager
def connect(address: str, *, insecure: bool) -> "Iterator[Client]":
    """A Dask client; UsageError when there is none to be had, or its words could be read on the way."""
    if find_spec("distributed") is None:
        raise UsageError("--dask needs the package distributed: pip install 'vitab[dask]'")
    check_address(address, insecure=insecure)
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it has to say is said here in one line
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False, name="vitab")
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"--dask {address}: no Dask scheduler could be reached there ({why})") from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=2)


def check_address(address: str, *, insecure: bool, what: str = "--dask") -> None:
    """UsageError for what is no address, and for one of another machine that is not encrypted."""
    scheme, found, rest = address.partition("://")
    scheme, rest = (scheme, rest) if found else ("tcp", address)
    host, _, port = rest.rpartition(":")
    if scheme == "inproc":
        return
    if not host or not port.isdecimal() or not scheme.isalpha():
        raise UsageError(f"--dask must be an address such as tcp://127.0.0.1:8786 or tls://host:8786, got {address!r}")
    if scheme not in ENCRYPTED and not insecure and not is_here(host.strip("[]")):
        raise UsageError(
            f"{what} {address} is on another machine, and anybody between could read and change what is sent: "
            "use tls:// (set up in Dask's own configuration), or add --insecure on a network that you trust"
        )


def is_here(host: str) -> bool:
    """Whether a name or number is of this machine: one may listen there."""
    try:
        places = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--dask: the host {host!r} is not known here") from error
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as trial:
                trial.bind((place[0], 0, *place[2:]))
        except OSError:
            return False
    return True


class Cluster:
    """The workers of a Dask cluster, as far as they can take runs of one folder.

    `say` takes a line about them for people.
    """

    def __init__(self, client: "Client", runs: Path, say: Callable[[str], None], *, insecure: bool = False) -> None:
        self.client, self.runs, self.say, self.insecure = client, runs.absolute(), say, insecure
        self.code = code_digest()
        self.workers: dict[str, dict[str, Any]] = {}  # what those say of themselves that may take runs
        self._known: set[str] = set()  # addresses of workers that were greeted
        self._told: dict[str, tuple[bool, int]] = {}  # what workers know that they may use
        self._said: set[str] = set()
        self._looked = -float("inf")
        self._probe, self._token = f"{PROBE}{secrets.token_hex(8)}", ""

    @property
    def folder(self) -> str:
        """What tells this folder from another of the same name on another machine."""
        return f"{self.runs}#{self.runs.stat().st_ino}"

    def choose_backend(self, name: str) -> str:
        """numpy or cupy by the workers there are; UsageError when none of them can work so."""
        able = [worker for worker in self.workers.values() if worker["cupy"] and worker["gpu"]]
        if name == "cupy" and self.workers and not able:
            raise UsageError(
                "--backend cupy needs Dask workers with CuPy, an NVIDIA GPU and --resources GPU=1, found none among "
                f"{len(self.workers)}; valid here: numpy"
            )
        return "cupy" if name == "cupy" or (name == "auto" and able) else "numpy"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within this context the folder has a file with a random token, which workers that see it can read.

        UsageError when there are workers, and none of them may take runs.
        """
        self._token = secrets.token_hex(32)
        path = self.runs / self._probe
        with storage_errors(f"{self.runs} could not be written"):
            for left in self.runs.glob(f"{PROBE}*"):
                if isinstance(owner := read_json(left), dict) and is_dead(owner):
                    left.unlink(missing_ok=True)
            write_file(path, to_json({"token": self._token} | process(os.getpid())))
        try:
            self.look()
            if self._known and not self.workers:
                raise UsageError(f"none of the {len(self._known)} Dask workers can take runs: {'; '.join(self._said)}")
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    def look(self) -> None:
        """Greet workers that are new, and forget those that are gone.

        VitabError when the scheduler is gone, UsageError when a worker may not be spoken to.
        """
        self._looked = time.monotonic()
        with self.reached():
            threads: dict[str, int] = dict(self.client.nthreads())
        news = [address for address in threads if address not in self._known]
        for address in news:
            check_address(address, insecure=self.insecure, what="the Dask worker")
        answers = self._greet(news)
        self._known = (self._known & set(threads)) | set(answers)
        self._told = {address: place for address, place in self._told.items() if address in threads}
        self.workers = {address: worker for address, worker in self.workers.items() if address in threads}
        for address, answer in answers.items():
            if (reason := self._unfit(answer)) is not None:
                self.say_once(f"no run is given to the Dask worker {_name(address, answer)}: {reason}")
                continue
            self.workers[address] = answer | {"threads": threads[address]}
            if differing := _differing(answer["packages"]):
                self.say_once(f"note: the Dask worker on {answer['host']} has {differing}")
        self._admit()

    def drop(self, address: str, reason: str) -> None:
        """Give a worker no more runs, which cannot do those of this client. VitabError when no other is there."""
        worker = self.workers.pop(address, None)
        self._told.pop(address, None)
        if worker is not None:
            self.say_once(f"no run is given any more to the Dask worker {_name(address, worker)}: {reason}")
        if not self.workers:
            raise VitabError(f"none of the Dask workers can take runs: {reason}")

    def meet_again(self, address: str) -> None:
        """A worker knows nothing of this client, perhaps because another process has its address now."""
        self._known.discard(address)
        self._told.pop(address, None)

    def look_now_and_then(self) -> None:
        """The same, not too often."""
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self.look()

    def describe(self) -> str:
        """How many workers there are, for people."""
        places = sum(worker["threads"] for worker in self.workers.values())
        seeing = sum(worker["shared"] for worker in self.workers.values())
        if not self.workers:
            return "no Dask worker is there yet; runs begin when one comes"
        return (
            f"{len(self.workers)} Dask worker{'s' * (len(self.workers) != 1)} with {places} "
            f"thread{'s' * (places != 1)}, {seeing} of them {'see' if seeing != 1 else 'sees'} {self.runs}"
        )

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Within this context a scheduler that does not answer ends the study with one line."""
        try:
            yield
        except UNREACHED as error:
            raise self.gone() from error

    def gone(self) -> VitabError:
        """What to raise when the scheduler does not answer."""
        return VitabError("the Dask scheduler is gone; finished runs are kept, and the same command goes on")

    def everywhere(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in all workers, and never mind those that cannot."""
        with contextlib.suppress(*UNREACHED, ValueError):
            self._call(function, *arguments, workers=list(self.workers))

    def _call(self, function: Callable[..., object], *arguments: object, workers: list[str]) -> dict[str, Any]:
        """What a function in each of the workers returns or raises, of those that answer.

        Not by `Client.run`, which waits for ever, with all others, for a worker that dies before it has answered.
        """

        async def ask(address: str) -> dict[str, Any]:
            asked = self.client._run(function, *arguments, workers=[address], on_error="return")
            return dict(await asyncio.wait_for(asked, ANSWER))

        async def ask_all() -> list[Any]:
            return await asyncio.gather(*map(ask, workers), return_exceptions=True)

        answers = self.client.sync(ask_all) if workers else []
        return {address: value for answer in answers if isinstance(answer, dict) for address, value in answer.items()}

    def _greet(self, addresses: list[str]) -> dict[str, Any]:
        """What workers answer; those that could not be asked just now are left out."""
        if not addresses:
            return {}
        arguments = (self.code, str(self.runs), self._probe, self._token)
        with contextlib.suppress(*UNREACHED):
            answers = self._call(_greeting(), *arguments, workers=addresses)
            return {address: answer for address, answer in answers.items() if not isinstance(answer, UNREACHED)}
        return {}

    def _unfit(self, answer: Any) -> str | None:
        """Why a worker with this answer can take no runs."""
        if not isinstance(answer, dict):
            return f"it answered with {type(answer).__name__}: {' '.join(str(answer).split())}"
        if "error" in answer:
            return f"vitab does not work there ({answer['error']})"
        if answer["code"] != self.code:
            return f"it has other code of vitab ({answer['code'][:12]}, here {self.code[:12]}); install the same there"
        return None

    def _admit(self) -> None:
        """Tell workers what they may use: the cores of a machine are shared by the workers on it."""
        from ablations.execution.dask.worker import admit

        on_host: dict[str, int] = {}
        for worker in self.workers.values():
            on_host[worker["host"]] = on_host.get(worker["host"], 0) + worker["threads"]
        places = {
            address: (worker["shared"], max(1, worker["cores"] // on_host[worker["host"]]))
            for address, worker in self.workers.items()
        }
        news = [address for address, place in places.items() if self._told.get(address) != place]
        with contextlib.suppress(*UNREACHED):  # the next look tries again
            answers = self._call(admit, self.folder, places, workers=news)
            self._told |= {address: places[address] for address, answer in answers.items() if answer is True}

    def say_once(self, line: str) -> None:
        """A line for people, the first time."""
        if line not in self._said:
            self._said.add(line)
            self.say(line)


def _greeting() -> Callable[..., Any]:
    # A function within a function is sent whole, and so it works, and says what is wrong, where vitab is not installed
    def greeting(code: str, runs: str, probe: str, token: str, dask_worker: Any) -> dict[str, Any]:
        gpu = dask_worker.state.total_resources.get("GPU", 0)
        try:
            from ablations.storage.provenance import code_digest

            answer = {"code": code_digest(), "gpu": gpu}
            if answer["code"] == code:
                from ablations.execution.dask.worker import greet

                answer |= greet(runs, probe, token)
            return answer
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    return greeting


def _name(address: str, answer: Any) -> str:
    return f"{address} on {answer['host']}" if isinstance(answer, dict) and "host" in answer else address


def _differing(packages: dict[str, str]) -> str:
    """The packages of a worker that are of another version than here: `numpy 2.3.1 (here 2.4.6)`."""
    here = {"python": platform.python_version()} | versions((*PACKAGES, *CUDA_PACKAGES))
    return ", ".join(
        f"{name} {packages[name]} (here {here[name]})" for name in here if packages.get(name, here[name]) != here[name]
    )
