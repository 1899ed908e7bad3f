"""The stage `study`: wall time of whole studies through `vitab run`, beside one PyTorch process with the same runs.

The studies are the default grid on digits, twice, since only the first one compiles kernels, and one epoch of a grid on
random images in the format of CIFAR-10. PyTorch trains the same models on as many batches of the same size, eagerly and
one run after another; its batches are on the GPU already, and it neither augments nor evaluates.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.speed import torch_maker
from benchmarks.gpu.worker import Context, Item, Row
from benchmarks.peers import Make
from benchmarks.shapes import Shape

if TYPE_CHECKING:
    from ablations.config import Grid, RunConfig


VITAB = (sys.executable, "-c", "from ablations.cli import app; app()")
ROOT = Path(__file__).parents[2]
NEEDED = ("typer", "rich", "numba", "threadpoolctl", "safetensors", "pandas", "sklearn", "PIL", "scipy")
"""Packages without which `vitab run` cannot start or finish."""
CIFAR = """
question = "How long does an epoch take?"
seeds = 2

[base]
data = "cifar10"
width = 128
depth = 6
heads = 4
patch = 4
epochs = 1
warmup_epochs = 0.5
crop_padding = 4
flip = true

[axes]
position = ["none", "learned", "sinusoidal", "rope"]
"""
IMAGES = 10_000
"""Images of each of the five training files and of the test file, as in CIFAR-10."""
DIGITS = 1_400
"""Training images of digits."""
COMMAND = 60.0
"""Seconds that a command may take."""
SHARES = {"cifar": 0.35, "digits": 1.0}
"""Part of the time left that PyTorch may take for a study."""


def items(context: Context) -> list[Item]:
    study = Study(context)
    names = {"digits": "digits", "digits, compiled": "digits", "cifar": "cifar"}
    found = [Item("packages", study.packages)]
    found += [Item(f"vitab run, {name}", partial(study.run, name, grid)) for name, grid in names.items()]
    return found + [Item(f"PyTorch, {name}", partial(study.torch, name)) for name in SHARES]


class Study:
    """The studies, in a folder that ends with the worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.folder = Path(context.at_end.enter_context(tempfile.TemporaryDirectory()))

    def packages(self) -> Iterator[Row]:
        from importlib.util import find_spec

        missing = [name for name in NEEDED if find_spec(name) is None]
        yield {"passed": not missing, "missing": ", ".join(missing) or "none"}

    def grid(self, name: str) -> "tuple[str, Grid]":
        """Return a grid, and what `--grid` is given for it."""
        from ablations.config import find_grid

        if name == "digits":
            given: str = self.context.options.get("grid", "rope")
            return given, find_grid(given)
        path = self.folder / "cifar.toml"
        path.write_text(CIFAR)
        return str(path), find_grid(str(path))

    def run(self, name: str, grid: str) -> Iterator[Row]:
        """Run a study by the command line, and yield its wall time."""
        data: list[str] = []
        if grid == "cifar":
            data = ["--data-dir", str(write_cifar10(self.folder / "data", self.context.options.get("images", IMAGES)))]
        given, chosen = self.grid(grid)
        runs = self.folder / f"runs {name}"
        options = [*self.context.options.get("arguments", ["--backend", "cupy"]), *data]
        command = [*VITAB, "run", "--grid", given, "--runs", str(runs), "--quiet", *options]
        self.context.note(f"vitab run --grid {given}", COMMAND + 5)
        start = time.monotonic()
        code, printed = carry_out(command, min(COMMAND, self.context.left - 1))
        seconds = time.monotonic() - start
        finished, planned = len([*runs.glob("*/DONE.json")]), len(chosen.expand())
        complete = code == 0 and finished == planned
        row: Row = {"grid": name, "passed": complete, "seconds": seconds, "runs": finished, "of": planned}
        if not complete:
            row["traceback"] = (
                f"{printed[-2000:]}\n{f'exit code {code}' if code is not None else 'stopped for lack of time'}"
            )
        yield row

    def torch(self, name: str) -> Iterator[Row]:
        """Train the runs of a study in PyTorch, as far as there is time."""
        maker = torch_maker(self.context)
        if maker is None:
            yield {"note": "PyTorch is not installed"}
            return
        configs = self.grid(name)[1].expand()
        start = time.monotonic()
        end = start + SHARES[name] * (self.context.left - 2)
        done, trained = 0, 0
        for config in configs:
            self.context.note(f"PyTorch, run {done + 1} of {len(configs)}", 40)
            stepper = self._stepper(maker, config, name)
            left = self._steps(config, name)
            while left and time.monotonic() < end:
                count = min(CHUNK, left)
                stepper.start(count)
                stepper.wait()
                left, trained = left - count, trained + count
                self.context.note(f"PyTorch, run {done + 1} of {len(configs)}", 20)
            if left:
                break
            done += 1
        seconds = time.monotonic() - start
        every = sum(self._steps(config, name) for config in configs)
        row: Row = {"grid": name, "seconds": seconds, "runs": done, "of": len(configs)}
        if done < len(configs):
            row |= {"steps": trained, "of steps": every, "note": "stopped for lack of time; not all runs are measured"}
        yield row

    def _steps(self, config: "RunConfig", name: str) -> int:
        from ablations.data.loader import steps_of

        images = 5 * self.context.options.get("images", IMAGES) if name == "cifar" else DIGITS
        return steps_of(config, images)[0] * config.epochs

    def _stepper(self, maker: Make, config: "RunConfig", name: str) -> Any:
        """Return the model of a run in PyTorch."""
        if self.context.options.get("torch"):  # of a rehearsal
            return maker(name, config.position, False)
        from benchmarks.torch_gpu import TorchGpuStepper

        image, channels = (32, 3) if name == "cifar" else (8, 1)
        sizes = (config.width, config.depth, config.heads, config.patch, image, channels, 10, config.batch_size)
        return TorchGpuStepper(Shape(*sizes), config.position, compiled=False)


def carry_out(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run a command with the processes that it starts. Return its exit code, None for lack of time, and its output."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output.seek(0)
        return code, output.read()


CHUNK = 100
"""Steps between two looks at the clock."""


def write_cifar10(folder: Path, images: int) -> Path:
    """Write random images in the binary format of CIFAR-10."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (images, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] = np.arange(images) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n")
    return folder
