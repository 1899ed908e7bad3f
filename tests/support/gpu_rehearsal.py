"""A worker of `benchmarks.gpu` on a machine without a GPU: `python -m tests.support.gpu_rehearsal FOLDER [FAULT] JOB`.

CuPy is the fake one, whose kernels are the CUDA sources themselves, compiled by g++ into FOLDER. FAULT is what goes
wrong: "hang", "crash" or "lost" at the first launch of `softmax`, or "missing" for a function that CuPy does not have.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from benchmarks.gpu import signatures, worker
from tests.golden.make_signatures import FILE
from tests.support.cuda_shim import Shim
from tests.support.fake_cupy import CUDARuntimeError, FakeCupy, Library

FAULTY = "softmax<float, 1>"


def install(folder: Path, fault: str = "") -> FakeCupy:
    """Make the fake one CuPy, with the signatures of the real one."""
    shim: Any = Shim(folder)
    fake = FakeCupy(shim if fault in ("", "missing") else Faulty(shim, fault))  # type: ignore[arg-type]
    fake.__spec__ = ModuleSpec("cupy", None)
    fake.__version__ = "14.0.0 (fake)"
    sys.modules["cupy"] = fake
    from vit.backend import cupy_ops

    cupy_ops._cublas_library = Library  # type: ignore[assignment]
    cupy_ops._PARTS["CUDA headers"] = lambda: "/include"
    known: dict[str, str] = json.loads(FILE.read_text())["CUDA 13"]["cupy"]
    if fault == "missing":
        known.pop("einsum")
    signatures.of_module = lambda cupy: known.get  # type: ignore[assignment]
    return fake


class Faulty:
    """A shim of which one kernel does what kernels do when they are wrong."""

    lost = False

    def __init__(self, shim: Any, fault: str) -> None:
        self.shim, self.fault = shim, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shim, name)

    def __call__(self, kernel: str, *launch: Any) -> None:
        if kernel == FAULTY:
            FAULTS[self.fault]()
            Faulty.lost = True
        if Faulty.lost:
            raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
        self.shim(kernel, *launch)


FAULTS: dict[str, Callable[[], object]] = {
    "hang": lambda: time.sleep(60),
    "crash": lambda: os.abort(),
    "lost": lambda: None,
}


def main() -> None:
    folder, *fault, job = sys.argv[1:]
    fake = install(Path(folder), *fault)
    if fault == ["lost"]:
        read = fake.asnumpy

        def asnumpy(array: Any, stream: Any = None) -> Any:
            if Faulty.lost:
                raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
            return read(array, stream)

        fake.asnumpy = asnumpy  # type: ignore[method-assign]
    worker.main([job])


if __name__ == "__main__":
    main()
