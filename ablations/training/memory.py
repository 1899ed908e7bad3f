"""The memory that runs need, estimated before they start."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ablations.config import RunConfig, vit_config
from ablations.data.loader import parts_of, steps_of

if TYPE_CHECKING:
    from ablations.data import Dataset

PROCESS = 260 << 20
"""Bytes of a process that has trained the smallest run: Python, NumPy, SciPy, Numba, its compiled kernels, and
scikit-learn for the digits. Measured with `ablations.machine.bench.peak_mb` on Linux: 258 MB."""
CONTEXT = 1 << 30
"""Bytes of a GPU that CUDA, its libraries and their workspaces take in a process: a guess on the safe side."""
USABLE = 0.9
"""Share of the available memory that runs may be planned to take."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory in bytes of a process that trains R runs of one shape as one model."""

    dataset: int
    """Images and labels, shared by all runs of the process."""
    runs: int
    """Everything else that the runs need at their peak."""
    device: int = 0
    """Memory of the GPU, if the runs train on one."""

    @property
    def process(self) -> int:
        """Memory of a process that executes only these runs."""
        return PROCESS + self.dataset + self.runs


def estimate_memory(
    config: RunConfig, dataset: "Dataset", *, runs: int = 1, threads: int = 1, backend: str = "numpy"
) -> MemoryEstimate:
    """Return the memory of R runs of this config, accurate to about 10 %.

    On a GPU all arrays are counted as float32, an upper bound.
    """
    from ablations.training.stack import EVALUATED
    from vit.memory import device_training_bytes, parameter_bytes, training_bytes

    model = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    used, held = parts_of(config, dataset.train_part, dataset.validation_images)
    _, batch = steps_of(config, dataset.train_part, dataset.validation_images)
    pixels = dataset.image_size**2 * dataset.channels
    numbers = 4 * (pixels + dataset.classes)  # of an image as a model reads it, with its target, in float32
    parameters = parameter_bytes(model)
    average = parameters if config.ema else 0
    kept = 3 * parameters + average  # what a snapshot of a run holds
    tested = len(dataset.test_labels)

    loader = 8 * (used + held)  # indices; batches are made from the dataset
    batches = 3 * batch * numbers  # at work, coming, and side by side with those of other runs
    evaluated = 3 * min(EVALUATED, max(held, tested)) * 4 * pixels
    results = 2 * parameters + 3 * tested * 4 * dataset.classes
    training = 0
    if backend == "numpy":
        training = training_bytes(model, runs=runs, batch_size=batch, threads=threads) + runs * average
    # Snapshots of all runs are copied at once and made to files one by one; results are there until they are written.
    moments = (runs * kept + 2 * kept, runs * (evaluated + average), runs * results)
    host = runs * (loader + batches) + max(moments)
    if backend == "numpy":
        return MemoryEstimate(dataset_bytes(dataset, mapped=False), host + training)
    training = device_training_bytes(
        model, runs=runs, batch_size=batch, precision=config.precision, average=bool(average)
    )
    swapped = runs * (batches + average)  # a batch of the host's, and the weights while their average is evaluated
    on_device = dataset_bytes(dataset) + training + swapped + runs * EVALUATED * 4 * dataset.classes
    return MemoryEstimate(dataset_bytes(dataset, mapped=False), host, CONTEXT + on_device)


def dataset_bytes(dataset: "Dataset", *, mapped: bool = True) -> int:
    """Of its images and labels; without `mapped`, only of those that are not mapped from a file.

    Pages of a mapped file are shared by processes, and the system drops them where memory is scarce.
    """
    arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    return sum(array.nbytes for array in arrays if mapped or not _is_mapped(array))


def _is_mapped(array: np.ndarray | None) -> bool:
    """Return whether an array is a view of a mapped file."""
    while array is not None and not isinstance(array, np.memmap):
        array = array.base if isinstance(array.base, np.ndarray) else None
    return array is not None
