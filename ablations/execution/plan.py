"""Plan a study: its runs, the cost of each arm, and the runs still to train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.config import Grid, RunConfig, run_key, run_label, vit_config
from ablations.data.loading import dataset_for
from ablations.errors import UsageError
from ablations.execution.tasks import Task
from ablations.storage import Store, StudyPlan

if TYPE_CHECKING:
    from ablations.data import Dataset

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
    from ablations.data.loader import steps_of
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


def shown_axes(plan: StudyPlan) -> list[str]:
    """The axes that tell the arms of a plan apart, and position in any case."""
    varying = [axis for axis, levels in plan.axes.items() if len(levels) > 1]
    return varying if "position" in varying else ["position", *varying]


def tasks_of(plan: StudyPlan, arms: Sequence[Arm], store: Store) -> list[Task]:
    """The runs that are not finished, in order."""
    weights = {key: arm.flops + BLOCK_OVERHEAD * arm.config.depth * arm.steps for arm in arms for key in arm.keys}
    axes = shown_axes(plan)
    return [
        Task(key, config, run_label(config, axes), weights[key], store.failed_attempt(key))
        for key, config in plan.runs.items()
        if not store.done(key)
    ]
