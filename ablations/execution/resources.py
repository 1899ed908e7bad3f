"""Resources for the runs: number of worker processes, threads, GPUs, and runs trained as one model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ablations.config import RunConfig, count
from ablations.data.loading import dataset_for
from ablations.errors import UsageError
from ablations.execution.stacking import shape
from ablations.execution.tasks import Task
from ablations.machine import available_cores, available_memory, devices, format_bytes, gpu_problem, has_cupy
from ablations.training import memory
from ablations.training.memory import USABLE, MemoryEstimate

MAX_SHAPES = 4
"""Number of run shapes, those that need most memory, examined for each number of workers."""


@dataclass(frozen=True)
class ResourcePlan:
    """Allocation of the unfinished runs to worker processes and stacks."""

    tasks: list[Task]
    """Unfinished runs, each with the size of its stack."""
    workers: int
    threads: int
    """Threads per worker."""
    devices: tuple[str, ...]
    """Values of CUDA_VISIBLE_DEVICES, assigned to the workers in turn."""
    lines: list[str]
    """Messages about limits set by memory."""


@dataclass
class _Group:
    """Runs of one shape, and the number of them trained as one model."""

    tasks: list[Task]
    stack: int
    data_dir: Path | None
    backend: str

    def need(self, workers: int, runs: int | None = None) -> MemoryEstimate:
        """Return the memory needed by `runs` runs, or a full stack, in one of `workers` workers."""
        config = self.tasks[0].config
        return memory_need(config, self.data_dir, runs=runs or self.stack, workers=workers, backend=self.backend)

    def host(self, workers: int, runs: int | None = None) -> int:
        """Return the bytes that a worker needs. A single worker is this process, which needs more only for the runs."""
        need = self.need(workers, runs)
        return need.runs if workers == 1 else need.process

    def fit(self, needed: Callable[[int], int], available: int, what: str) -> None:
        """Reduce the stack until `needed(stack)` bytes are available. Raises UsageError if one run does not fit."""
        if needed(1) > available:
            raise UsageError(
                f"{self.tasks[0].label} needs about {format_bytes(needed(1))} of {what} for training, but only "
                f"{format_bytes(available)} is available; reduce width, depth or batch_size, or use larger patches"
            )
        low, high = 1, self.stack
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if needed(middle) <= available else (low, middle - 1)
        self.stack = low


def plan_resources(
    tasks: Sequence[Task], *, workers: str, stack: str, backend: str, data_dir: Path | None
) -> ResourcePlan:
    """Allocate the runs to worker processes and stacks. Raises UsageError for bad input or a run that does not fit."""
    asked = parse_stack(stack)
    most = resolve_workers(workers, runs=len(tasks), backend=backend)
    on_gpu = devices() if backend == "cupy" else ()
    measured = bool(on_gpu) and all(device.free for device in on_gpu)
    shapes: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        shapes.setdefault(shape(task.config), []).append(task)
    groups = [
        _Group(own, min(len(own), asked or (len(own) if measured else 1)), data_dir, backend) for own in shapes.values()
    ]
    wanted = max((group.stack for group in groups), default=1)
    lines: list[str] = []
    if measured:
        _fit_gpus(groups, min(device.free for device in on_gpu), workers=-(-most // len(on_gpu)))
    worker_count = _fit_memory(groups, most, lines)
    largest = max((group.stack for group in groups), default=1)
    if largest < wanted:
        lines.append(f"training stacks of up to {count(largest, 'run')} instead of {wanted}, limited by memory")
    elif not asked and wanted > 1:
        lines.append(f"training stacks of up to {count(largest, 'run')} as one model")
    sizes = {task.key: group.stack for group in groups for task in group.tasks}
    return ResourcePlan(
        tasks=[replace(task, stack=sizes[task.key]) for task in tasks],
        workers=worker_count,
        threads=max(1, available_cores() // worker_count),
        devices=tuple(device.chosen for device in on_gpu),
        lines=lines,
    )


def _fit_gpus(groups: Sequence[_Group], free: int, workers: int) -> None:
    """Reduce the stacks to fit into a GPU with `free` bytes that `workers` workers share."""
    available = int(USABLE * free) // workers
    for group in groups:
        group.fit(lambda runs, group=group: group.need(1, runs).device, available, "GPU memory")  # type: ignore[misc]


def _fit_memory(groups: Sequence[_Group], most: int, lines: list[str]) -> int:
    """Return the number of workers, at most `most`, that fit into memory, and reduce the stacks to fit."""
    free = available_memory()
    if free is None or not groups:
        return most
    available = int(USABLE * free)
    largest = sorted(groups, key=lambda group: -group.host(most))[:MAX_SHAPES]
    needed = {workers: max(group.host(workers) for group in largest) for workers in range(1, most + 1)}
    workers = max((workers for workers in needed if workers * needed[workers] <= available), default=1)
    if workers < most:
        lines.append(
            f"{count(workers, 'worker')} instead of {most}: each of {most} would need about "
            f"{format_bytes(needed[most])}, but only {format_bytes(available)} of memory is available"
        )
    for group in groups:
        group.fit(lambda runs, group=group: group.host(workers, runs), available // workers, "memory")  # type: ignore[misc]
    return workers


def memory_need(config: RunConfig, data_dir: Path | None, *, runs: int, workers: int, backend: str) -> MemoryEstimate:
    """Return the memory needed by `runs` runs trained as one model in one of `workers` workers."""
    threads = max(1, available_cores() // workers)
    return memory.estimate_memory(config, dataset_for(config, data_dir), runs=runs, threads=threads, backend=backend)


def parse_stack(text: str) -> int | None:
    """Return the maximum number of runs trained as one model; None for auto. Raises UsageError for bad input."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--stack must be auto or an integer of at least 1, got {text!r}")
    return int(text)


BACKENDS = ("auto", "numpy", "cupy")


def resolve_backend(name: str, *, here: bool = True) -> str:
    """Return numpy or cupy; the name unchanged when the runs are not executed `here`.

    Raises UsageError for an unknown name, and for cupy if it cannot train here.
    """
    if name not in BACKENDS:
        raise UsageError(f"--backend must be {', '.join(BACKENDS)}, got {name!r}")
    if not here:
        return name
    if name == "numpy" or (name == "auto" and not (has_cupy() and devices())):
        return "numpy"
    problem = gpu_problem()
    if name == "cupy" and problem:
        raise UsageError(f"--backend cupy cannot be used on this machine: {problem}; use --backend numpy")
    return "numpy" if problem else "cupy"


def resolve_workers(text: str, *, runs: int, backend: str) -> int:
    """Return the number of worker processes, at most `runs`; "auto" is one per core on a CPU, one per GPU."""
    if text == "auto":
        return max(1, min(available_cores() if backend == "numpy" else len(devices()), runs))
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--workers must be auto or an integer of at least 1, got {text!r}")
    return max(1, min(int(text), runs))
