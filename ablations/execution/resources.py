"""How many runs side by side: processes by cores, GPUs and memory, and runs that a process trains as one model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ablations.config import RunConfig
from ablations.data.loading import dataset_for
from ablations.errors import UsageError
from ablations.execution.stacking import shape
from ablations.execution.tasks import Task
from ablations.machine import available_cores, available_memory, devices, format_bytes, gpu_problem, has_cupy
from ablations.training import memory
from ablations.training.memory import USABLE, Need

LARGEST = 4
"""Shapes of run that are looked at for each number of workers: those that take most with as many as there may be."""


@dataclass(frozen=True)
class ResourcePlan:
    """How the runs that are left are shared out."""

    tasks: list[Task]
    """Each with the number of runs that may be trained as one model with it."""
    workers: int
    threads: int
    """Of each worker."""
    devices: tuple[str, ...]
    """What CUDA_VISIBLE_DEVICES is for the workers, in turn."""
    lines: list[str]
    """What memory has decided, for people."""


@dataclass
class _Group:
    """Runs of one shape, and how many of them are trained as one model."""

    tasks: list[Task]
    stack: int
    data_dir: Path | None
    backend: str

    def need(self, workers: int, runs: int | None = None) -> Need:
        """Of so many runs, or a whole stack, in one of so many workers."""
        config = self.tasks[0].config
        return memory_need(config, self.data_dir, runs=runs or self.stack, workers=workers, backend=self.backend)

    def host(self, workers: int, runs: int | None = None) -> int:
        """Bytes that a worker takes; a single one is this very process, which has all but the runs already."""
        need = self.need(workers, runs)
        return need.runs if workers == 1 else need.process

    def fit(self, takes: Callable[[int], int], room: int, what: str) -> None:
        """Make the stack as large as fits. Raises UsageError when not even one run does."""
        if takes(1) > room:
            raise UsageError(
                f"{self.tasks[0].label} takes about {format_bytes(takes(1))} of {what} to train, and {format_bytes(room)} can "
                "be used here; less width or depth, larger patches or a smaller batch_size take less"
            )
        low, high = 1, self.stack
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if takes(middle) <= room else (low, middle - 1)
        self.stack = low


def resolve(tasks: Sequence[Task], *, workers: str, stack: str, backend: str, data_dir: Path | None) -> ResourcePlan:
    """Share out runs. Raises UsageError, before anything starts, for bad input and for a run that cannot fit."""
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
    count = _fit_memory(groups, most, lines)
    largest = max((group.stack for group in groups), default=1)
    if largest < wanted if asked else wanted > 1:
        instead = f" instead of {wanted}" if largest < wanted else ""
        lines.append(f"stacks of up to {largest} runs{instead} trained as one model, by the memory there is")
    sizes = {task.key: group.stack for group in groups for task in group.tasks}
    return ResourcePlan(
        tasks=[replace(task, stack=sizes[task.key]) for task in tasks],
        workers=count,
        threads=max(1, available_cores() // count),
        devices=tuple(device.chosen for device in on_gpu),
        lines=lines,
    )


def _fit_gpus(groups: Sequence[_Group], free: int, workers: int) -> None:
    """Make stacks fit into a GPU with so many free bytes that so many workers share."""
    room = int(USABLE * free) // workers
    for group in groups:
        group.fit(lambda runs, group=group: group.need(1, runs).device, room, "GPU memory")  # type: ignore[misc]


def _fit_memory(groups: Sequence[_Group], most: int, lines: list[str]) -> int:
    """The number of workers that fit, of `most`; stacks too large for a single worker are made to fit."""
    free = available_memory()
    if free is None or not groups:
        return most
    room = int(USABLE * free)
    largest = sorted(groups, key=lambda group: -group.host(most))[:LARGEST]
    takes = {count: max(group.host(count) for group in largest) for count in range(1, most + 1)}
    count = max((count for count in takes if count * takes[count] <= room), default=1)
    if count < most:
        lines.append(
            f"{count} worker{'s' * (count > 1)} instead of {most}: each of {most} would take about "
            f"{format_bytes(takes[most])}, and {format_bytes(room)} of memory can be used"
        )
    for group in groups:
        group.fit(lambda runs, group=group: group.host(count, runs), room // count, "memory")  # type: ignore[misc]
    return count


def memory_need(config: RunConfig, data_dir: Path | None, *, runs: int, workers: int, backend: str) -> Need:
    """What R runs take in one of so many workers."""
    threads = max(1, available_cores() // workers)
    return memory.need(config, dataset_for(config, data_dir), runs=runs, threads=threads, backend=backend)


def parse_stack(text: str) -> int | None:
    """How many runs may be trained as one model; None for auto."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--stack must be auto or a whole number of 1 or more, got {text!r}")
    return int(text)


BACKENDS = ("auto", "numpy", "cupy")


def resolve_backend(name: str, *, here: bool = True) -> str:
    """numpy or cupy; UsageError when it is neither, or cupy cannot work here. Unchanged where runs are not `here`."""
    if name not in BACKENDS:
        raise UsageError(f"--backend must be {', '.join(BACKENDS)}, got {name!r}")
    if not here:
        return name
    if name == "numpy" or (name == "auto" and not (has_cupy() and devices())):
        return "numpy"
    problem = gpu_problem()
    if name == "cupy" and problem:
        raise UsageError(f"--backend cupy cannot train here, as {problem}; valid here: numpy")
    return "numpy" if problem else "cupy"


def resolve_workers(text: str, *, runs: int, backend: str) -> int:
    """The number of processes side by side; "auto" is one a core on a CPU, and one a GPU."""
    if text == "auto":
        return max(1, min(available_cores() if backend == "numpy" else len(devices()), runs))
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--workers must be auto or a whole number of 1 or more, got {text!r}")
    return max(1, min(int(text), runs))
