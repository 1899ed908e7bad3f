"""A grid carried out: what there is to run, what it will cost, and the runs themselves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.config import Grid, RunConfig, run_key, vit_config
from ablations.environment import available_cores, has_cupy
from ablations.errors import UsageError
from ablations.hardware import devices, gpu_problem
from ablations.scheduling.children import in_processes
from ablations.scheduling.this_process import in_this_process
from ablations.scheduling.workers import (
    Finished,
    Job,
    Listener,
    Setting,
    Task,
    dataset_for,
    train_and_store,
)
from ablations.store import Store, StudyPlan

if TYPE_CHECKING:
    from ablations.cluster.client import Cluster
    from ablations.data import Dataset
    from ablations.trainer import EpochMetrics

BACKENDS = ("auto", "numpy", "cupy")
BLOCK_OVERHEAD = 1e8
"""Operations that the fixed cost of a block in a step is worth; only to share out the time left."""


@dataclass(frozen=True)
class Arm:
    """The runs of a plan that differ in their seed alone, and what one of them costs."""

    config: RunConfig
    keys: tuple[str, ...]
    done: int
    parameters: int
    steps: int  # of one run
    flops: int  # to train one run, to a fraction of a percent
    seconds: float | None = None  # to train one run with the threads of one worker

    @property
    def to_do(self) -> int:
        """Runs that are not finished."""
        return len(self.keys) - self.done


@dataclass
class Outcome:
    """How a study ended."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)  # finished by another process meanwhile
    failed: dict[str, str] = field(default_factory=dict)  # reasons by label


def make_plan(grid: Grid, *, study: str, data_dir: Path | None = None, command: str = "") -> StudyPlan:
    """The plan of a study; nothing is written.

    Raises UsageError for a run that cannot be: a field out of range, a data set that cannot be read, a model
    whose geometry does not work out on its images.
    """
    configs = grid.expand()
    keys = []
    sound = set()
    for config in configs:
        dataset = dataset_for(config, data_dir)
        shape = replace(config, seed=0)
        if shape not in sound:
            check_model(config, dataset)
            sound.add(shape)
        keys.append(run_key(config, dataset.fingerprint))
    return StudyPlan(
        study=study,
        grid=grid.name,
        question=grid.question,
        baseline=grid.baseline,
        axes=grid.axes,
        seeds=grid.seeds,
        keys=tuple(keys),
        configs=tuple(configs),
        command=command,
    )


def check_model(config: RunConfig, dataset: "Dataset") -> None:
    """UsageError when this run's model cannot be built for these images, or its augmentation makes no sense on them."""
    from vit import ConfigError

    if config.crop_padding > dataset.image_size:
        raise UsageError(
            f"crop_padding: {config.crop_padding} given, valid are 0 to {dataset.image_size} "
            f"({dataset.image_size}x{dataset.image_size} images of {config.data})"
        )

    try:
        vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    except ConfigError as error:
        images = f"{dataset.image_size}x{dataset.image_size} images of {config.data}"
        raise UsageError(f"{str(error).replace('patch_size:', 'patch:')} ({images})") from error


def survey(
    plan: StudyPlan,
    store: Store,
    *,
    data_dir: Path | None = None,
    measure: Callable[[RunConfig, "Dataset"], float] | None = None,
) -> list[Arm]:
    """What each arm of a plan costs, in order; `measure(config, dataset)` gives seconds an epoch."""
    arms: dict[RunConfig, list[str]] = {}
    for key, config in plan.runs.items():
        arms.setdefault(replace(config, seed=plan.seeds[0]), []).append(key)
    return [_arm(config, keys, store, data_dir, measure) for config, keys in arms.items()]


def _arm(
    config: RunConfig,
    keys: list[str],
    store: Store,
    data_dir: Path | None,
    measure: Callable[[RunConfig, "Dataset"], float] | None,
) -> Arm:
    from ablations.batches import steps_of
    from vit import cost

    dataset = dataset_for(config, data_dir)
    model = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
    steps, batch = steps_of(config, len(dataset.train_labels))
    done = sum(store.done(key) for key in keys)
    seconds = measure(config, dataset) * config.epochs if measure and done < len(keys) else None
    return Arm(
        config=config,
        keys=tuple(keys),
        done=done,
        parameters=cost.parameters(model),
        steps=config.epochs * steps,
        flops=cost.TRAINING_FACTOR * cost.forward_flops(model) * config.epochs * steps * batch,
        seconds=seconds,
    )


def label(config: RunConfig, axes: Iterable[str], *, seed: bool = True) -> str:
    """A run as people read it: `rope, depth 2, patch 4, seed 0`."""
    named = [f"{axis.replace('_', ' ')} {getattr(config, axis)}" for axis in axes]
    parts = [text.removeprefix("position ") for text in named]
    return ", ".join(parts + [f"seed {config.seed}"] * seed)


def shown_axes(plan: StudyPlan) -> list[str]:
    """The axes that tell the arms of a plan apart, and position in any case."""
    varying = [axis for axis, levels in plan.axes.items() if len(levels) > 1]
    return varying if "position" in varying else ["position", *varying]


def tasks_of(plan: StudyPlan, arms: Sequence[Arm], store: Store) -> list[Task]:
    """The runs that are not finished, in order."""
    weights = {key: arm.flops + BLOCK_OVERHEAD * arm.config.depth * arm.steps for arm in arms for key in arm.keys}
    axes = shown_axes(plan)
    return [
        Task(key, config, label(config, axes), weights[key], store.failed_attempt(key))
        for key, config in plan.runs.items()
        if not store.done(key)
    ]


def power_warning(grid: Grid) -> str | None:
    """A line for a plan whose comparisons cannot reach p = 0.05, whatever the runs give; else None."""
    from ablations.inference.power import smallest_p

    comparisons = len(grid.levels) - 1
    if comparisons < 1 or smallest_p(grid.blocks) * comparisons <= 0.05:
        return None
    per_seed = grid.blocks // len(grid.seeds)
    seeds = next(n for n in range(1, 100) if smallest_p(per_seed * n) * comparisons <= 0.05)
    family = f" after Holm over {comparisons} comparisons" if comparisons > 1 else ""
    return (
        f"no difference can reach p = 0.05 with {count(grid.blocks, 'pair')} of runs: "
        f"the smallest p is {least_p(grid):.2g}{family}; --seeds {seeds} would do"
    )


def least_p(grid: Grid) -> float:
    """The smallest two-sided p that the study can give after Holm's correction; 1 with nothing to compare."""
    from ablations.inference.power import smallest_p

    return min(1.0, smallest_p(grid.blocks) * (len(grid.levels) - 1 or 1))


def count(number: int, what: str) -> str:
    """3 runs, 1 run."""
    return f"{number} {what}{'s' * (number != 1)}"


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


def run(
    plan: StudyPlan,
    store: Store,
    tasks: Sequence[Task],
    *,
    setting: Setting,
    workers: int,
    listener: Listener,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
    cluster: "Cluster | None" = None,
) -> Outcome:
    """Write the plan and carry out its tasks, here or on a cluster; a run that fails stops no other.

    Raises KeyboardInterrupt after `stop` has said yes, when the runs at work are written down.
    """
    store.write_study(plan)
    to_do = {task.key for task in tasks}
    notes = _Notes(listener, Outcome(skipped=[key for key in plan.keys if key not in to_do]))
    if cluster is not None:
        from ablations.cluster.runs import on_cluster

        on_cluster(tasks, setting, notes, cluster, stop)
    elif workers > 1:
        in_processes(tasks, setting, notes, workers=workers, job=job, stop=stop)
    else:
        in_this_process(tasks, setting, notes, job=job, stop=stop)
    return notes.outcome


class _Notes:
    """Passes on what happens, and keeps the outcome."""

    def __init__(self, listener: Listener, outcome: Outcome) -> None:
        self.listener = listener
        self.outcome = outcome
        self.started = listener.started
        self.again, self.waiting, self.note = listener.again, listener.waiting, listener.note
        self.epoch: Callable[[Task, EpochMetrics], None] = listener.epoch

    def finished(self, task: Task, result: Finished) -> None:
        self.outcome.finished.append(task.key)
        self.listener.finished(task, result)

    def failed(self, task: Task, reason: str) -> None:
        self.outcome.failed[task.label] = reason
        self.listener.failed(task, reason)

    def elsewhere(self, task: Task, result: Finished) -> None:
        self.outcome.elsewhere.append(task.key)
        self.listener.elsewhere(task, result)
