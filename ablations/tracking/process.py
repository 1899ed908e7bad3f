"""The process of a tracker: its library, threads, output and faults stay out of the process that runs the study."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import warnings
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from ablations.storage import Store
from ablations.tracking.mirror import Mirror
from ablations.tracking.registry import TRACKERS

CALL_LIMIT = 60.0
"""Seconds for one call. The first includes the import of the library, and a database that is made."""
EXIT_LIMIT = 5.0
"""Seconds for the process to exit when it has nothing more to do."""


class TrackerError(Exception):
    """Failed call of a tracker: why, in one line."""


class TrackerProcess:
    """A `Mirror` of a study in a process of its own, which works for one call after another.

    The process has a session of its own, so Ctrl-C does not reach it. What it prints is in <folder>/vitab/log.
    """

    def __init__(self, tracker: str, store: Store, study: str) -> None:
        """Start the process. Raises OSError."""
        folder = tracking_folder(store, tracker)
        (folder / "vitab").mkdir(parents=True, exist_ok=True)
        self.connection, remote = Pipe()
        arguments = [str(remote.fileno()), TRACKERS[tracker], str(folder), str(store.root), study]
        with remote, (folder / "vitab" / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ablations.tracking.process", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[remote.fileno()],
                start_new_session=True,
            )

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the mirror and return what it returns.

        Raises TrackerError if it raises or takes longer than CALL_LIMIT. Nothing may be called after that.
        """
        try:
            self.connection.send((method, arguments))
            if not self.connection.poll(CALL_LIMIT):
                raise TrackerError(f"no answer within {CALL_LIMIT:g} s")
            failed, answer = self.connection.recv()
        except (OSError, EOFError) as error:
            raise TrackerError("its process ended unexpectedly") from error
        if failed:
            raise TrackerError(answer)
        return answer

    def end(self) -> None:
        """Let the process exit; kill it if it does not."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_LIMIT)
        self.kill()

    def kill(self) -> None:
        """Kill the process and those that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has exited
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_LIMIT)

    def __enter__(self) -> "TrackerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end() if kind is None else self.kill()


def tracking_folder(store: Store, tracker: str) -> Path:
    """Return the folder for a tracker beside the runs of a store."""
    return store.root / "tracking" / tracker


def main(descriptor: int, tracker: str, folder: Path, runs: Path, study: str) -> None:
    """Answer the calls that arrive at a connection, until the other end is closed."""
    warnings.simplefilter("default")  # a deprecation in a library is not an error here
    connection = Connection(descriptor)
    mirror: Mirror | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            break
        try:
            if mirror is None:
                module, _, name = tracker.partition(":")
                kind = getattr(importlib.import_module(module), name)
                mirror = Mirror(kind(folder, study), Store(runs), folder)
            answer = False, getattr(mirror, method)(*arguments)
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = True, f"{type(error).__name__}: {' '.join(str(error).split())}"
        with contextlib.suppress(OSError):
            connection.send(answer)
    if mirror is not None and mirror.open:  # the program was killed
        signal.alarm(int(CALL_LIMIT))
        mirror.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
