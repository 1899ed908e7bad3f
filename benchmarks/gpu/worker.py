"""One process of a stage: carries out its items in order, and reports to the supervisor. Started by it alone."""

import faulthandler
import gc
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.progress import ON_HOST, Progress

if TYPE_CHECKING:
    from vit.backend.cuda.ops import CudaOps

PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cuda-pathfinder", "nvidia-cublas", "nvidia-cublas-cu12", "numpy", "torch")

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A part of a stage: what it is about, and a function that yields its results."""

    name: str
    work: Callable[[], Iterator[Row]]
    needed: bool = False
    """Whether the others cannot be carried out after an error in this one."""


@dataclass
class Context:
    """What the items of a stage are given."""

    progress: Progress
    waits: bool = False
    """Whether every launch is waited for."""
    seconds: float = 1e9
    """Seconds that this worker has, from its start."""
    options: Row = field(default_factory=dict)
    launched_before: frozenset[str] = frozenset()
    rows: list[Row] = field(default_factory=list)
    """Results so far, also of workers before this one."""
    start: float = field(default_factory=time.monotonic)
    at_end: ExitStack = field(default_factory=ExitStack)
    """What is to be closed when the worker ends."""

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.start)

    def note(self, what: str, seconds: float = ON_HOST) -> None:
        """Say what is done next, and for how long it may take."""
        self.progress.note(what, seconds)

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of the GPU, fastest first."""
        from vit.backend import cupy_precisions

        return cupy_precisions()

    def fast_ops(self) -> "CudaOps":
        """Return the operations in the fastest precision, without notes of launches where these need not be named."""
        from vit.backend import get_ops

        return self.ops() if self.waits else get_ops("cupy", precision=self.precisions[0])  # type: ignore[return-value]

    def ops(self, precision: str | None = None) -> "CudaOps":
        """Return the operations on the GPU, whose launches are noted."""
        return self._ops(precision or self.precisions[0])

    @cached_property
    def _ops(self) -> "Callable[[str], CudaOps]":
        @cache
        def made(precision: str) -> "CudaOps":
            from benchmarks.gpu.watched import WatchedDevice
            from vit.backend import get_ops
            from vit.backend.cuda.ops import CudaOps

            ops: Any = get_ops("cupy", precision=precision)
            self.devices.append(WatchedDevice(ops.device, self.progress, waits=self.waits))
            return CudaOps(self.devices[-1], precision)

        return made

    @cached_property
    def devices(self) -> list[Any]:
        """Devices of all precisions in use."""
        return []

    def launched(self) -> set[str]:
        """Return the names of the kernels launched so far, by this worker and those before it."""
        own = set().union(*(device.launched for device in self.devices))
        return self.launched_before | {name.partition("<")[0] for name in own}

    def tried(self, what: str, work: Callable[[], object]) -> Row:
        """Return the row of something that has to work. An error is a part of the row, unless the GPU is lost."""
        try:
            result = work()
        except Exception:
            if self.lost():
                raise
            return {"passed": False, "what": what, "traceback": traceback.format_exc()}
        return {"passed": True, "what": what} | ({} if result is None else {"found": str(result)[:200]})

    def lost(self) -> str | None:
        """Return why the GPU can no longer be used by this process, None if it can."""
        gc.collect()
        try:
            for device in self.devices[:1]:
                array = device.xp.zeros(4, dtype="float32")
                if device.to_numpy(array).any():
                    return "zeros are not zero"
                with suppress(AttributeError):
                    device.xp.get_default_memory_pool().free_all_blocks()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None


class Worker:
    """Carries out a job of the supervisor's."""

    def __init__(self, job: Row) -> None:
        self.job = job
        self._pipe = os.fdopen(job["pipe"], "w")
        progress = Progress(Path(job["progress"]))
        self.context = Context(
            progress, job["waits"], job["seconds"], job["options"], frozenset(job["launched"]), job["rows"]
        )

    def run(self) -> int:
        """Return the exit code."""
        try:
            items: list[Item] = import_module(f"benchmarks.gpu.{self.job['stage']}").items(self.context)
            about = machine()
        except Exception:
            self._problem("start")
            return 1
        self._send(items=[item.name for item in items], machine=about)
        for item in items:
            if item.name in self.job["skip"] or self.job["only"] not in (None, item.name):
                continue
            self._send(begin=item.name)
            self.context.note(item.name)
            failed = self._carry_out(item)
            lost = self.context.lost() if failed else None
            self._send(end=item.name, launched=sorted(self.context.launched()))
            if failed and item.needed:
                self._send(stop=f"{item.name} has failed, which all others need")
                break
            if lost:
                self._send(problem={"item": item.name, "what": f"the GPU is lost after it: {lost}", "traceback": ""})
                break  # the supervisor starts another process
        return 0

    def _carry_out(self, item: Item) -> bool:
        """Send the rows of an item. Return whether it has raised an error."""
        try:
            for row in item.work():
                self.context.rows.append({"item": item.name, **row})
                self._send(row=self.context.rows[-1])
        except Exception:
            self._problem(item.name)
            return True
        return False

    def _problem(self, item: str) -> None:
        error = sys.exception()
        what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        self._send(problem={"item": item, "what": what, "traceback": traceback.format_exc()})

    def _send(self, **message: object) -> None:
        self._pipe.write(json.dumps(message, default=str) + "\n")
        self._pipe.flush()


def machine() -> Row:
    """Return the GPU with its driver, the CPU, the system, and versions of packages and of CUDA."""
    from ablations.machine import cpu_model, describe_gpus

    about: Row = {"gpus": describe_gpus(), "cpu": cpu_model(), "cores": os.cpu_count()}
    about |= {"python": platform.python_version(), "system": platform.platform()}
    with suppress(Exception):
        import cupy

        runtime = cupy.cuda.runtime
        about["cuda"] = {"driver": runtime.driverGetVersion(), "runtime": runtime.runtimeGetVersion()}
        about["cuda"]["nvrtc"] = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            about[name] = version(name)
    return about


def main(arguments: Sequence[str]) -> int:
    faulthandler.enable()
    worker = Worker(json.loads(arguments[0]))
    code = worker.run()
    with suppress(Exception):
        worker.context.at_end.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without waiting for threads or for a device that is lost


if __name__ == "__main__":
    main(sys.argv[1:])
