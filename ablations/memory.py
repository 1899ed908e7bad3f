"""How much memory runs take, estimated before they start, and how much there is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.batches import is_augmented, parts_of, steps_of
from ablations.config import RunConfig, vit_config

if TYPE_CHECKING:
    from ablations.data import Dataset

PROCESS = 260 << 20
"""Bytes of a process that has trained the smallest run: Python, NumPy, SciPy, Numba, its compiled kernels, and
scikit-learn for the digits. Measured with `ablations.bench.peak_mb` on Linux: 258 MB."""
CONTEXT = 1 << 30
"""Bytes of a GPU that CUDA, its libraries and their workspaces take in a process: a guess on the safe side."""
USABLE = 0.9
"""Share of the available memory that runs may be planned to take."""


@dataclass(frozen=True)
class Need:
    """Bytes that R runs of one shape take in a process that trains them as one model."""

    dataset: int
    """Its images and labels, of which all runs of a process read."""
    runs: int
    """Everything else that the runs need at their peak."""
    device: int = 0
    """In the memory of a GPU, where they train there."""

    @property
    def process(self) -> int:
        """Of a process that does nothing else."""
        return PROCESS + self.dataset + self.runs


def need(config: RunConfig, dataset: "Dataset", *, runs: int = 1, threads: int = 1, backend: str = "numpy") -> Need:
    """What R such runs take, with so many threads on the CPU, to about a tenth.

    On a GPU everything counts as float32, which is the most it may be.
    """
    from ablations.stack import EVALUATED
    from vit.memory import device_training_bytes, parameter_bytes, training_bytes

    model = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    used, held = parts_of(config, len(dataset.train_labels))
    _, batch = steps_of(config, len(dataset.train_labels))
    pixels = dataset.image_size**2 * dataset.channels
    numbers = 4 * (pixels + dataset.classes)  # of an image as a model reads it, with its target, in float32
    parameters = parameter_bytes(model)
    average = parameters if config.ema else 0
    kept = 3 * parameters + average  # what a snapshot of a run holds
    tested = len(dataset.test_labels)

    feed = (used + held) * (pixels + 8) + (0 if is_augmented(config) else used * numbers)
    batches = 3 * batch * numbers  # at work, coming, and side by side with those of other runs
    evaluated = 3 * min(EVALUATED, max(held, tested)) * 4 * pixels
    results = 2 * parameters + 3 * tested * 4 * dataset.classes
    training = 0
    if backend == "numpy":
        training = training_bytes(model, runs=runs, batch_size=batch, threads=threads) + runs * average
    # Snapshots of all runs are copied at once and made to files one by one; results are there until they are written.
    moments = (runs * kept + 2 * kept, runs * (evaluated + average), runs * results)
    host = runs * (feed + batches) + max(moments)
    if backend == "numpy":
        return Need(dataset_bytes(dataset), host + training)
    training = device_training_bytes(
        model, runs=runs, batch_size=batch, precision=config.precision, average=bool(average)
    )
    swapped = runs * (batches + average)  # a batch of the host's, and the weights while their average is evaluated
    on_device = dataset_bytes(dataset) + training + swapped + runs * EVALUATED * 4 * dataset.classes
    return Need(dataset_bytes(dataset), host, CONTEXT + on_device)


def readable(size: int) -> str:
    """Bytes for people, in 2^20 and 2^30: 212 MB, 1.4 GB."""
    return f"{size / 2**20:.0f} MB" if size < 1000 * 2**20 else f"{size / 2**30:.1f} GB"


def dataset_bytes(dataset: "Dataset") -> int:
    """Of its images and labels."""
    arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    return sum(array.nbytes for array in arrays)


def available(root: Path = Path("/")) -> int | None:
    """Bytes that processes here may still take: of the machine, and of the control groups around this one.

    What the kernel would give back (caches) counts as available. None where it does not say.
    """
    free = [_kilobytes(root / "proc/meminfo", "MemAvailable:"), *_left_in_groups(root)]
    return min((value for value in free if value is not None), default=None)


def _left_in_groups(root: Path) -> Iterator[int | None]:
    """What is left of the limit of each control group that this process is in, and of those around it."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2
            mount, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):  # version 1
            mount, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        folder = mount / path.strip("/")
        for group in (folder, *folder.parents):  # a container may show its own group as the root
            values = [_number(group / name) for name in (limit, usage)]
            if values[0] is not None and values[1] is not None:
                yield max(0, values[0] - values[1] + (_field(group / "memory.stat", cache) or 0))
            if group == mount:
                break


def _number(path: Path) -> int | None:
    """The whole number in a file; None for `max`, and where there is none."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """The number behind a name in a file of names and numbers."""
    for line in _lines(path):
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdecimal():
            return int(words[1])
    return None


def _kilobytes(path: Path, name: str) -> int | None:
    value = _field(path, name)
    return None if value is None else 1024 * value


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
