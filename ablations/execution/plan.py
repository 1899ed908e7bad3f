"""Plan of a study: its runs, the cost of each arm, and the unfinished runs."""

import shlex
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.config import (
    Costs,
    Grid,
    RelativeCost,
    RunConfig,
    TuningDesign,
    match_epochs,
    position_as_given,
    position_sources,
    run_key,
    run_label,
    vit_config,
)
from ablations.config.run_config import OWN_DATA
from ablations.config.tuning import Group, Values
from ablations.data.loading import dataset_for
from ablations.data.registry import NAME_A_KIND, check_data_dir
from ablations.errors import UsageError
from ablations.execution.tasks import Task
from ablations.models.training_data import numbers, place_missing
from ablations.storage import Store, StudyPlan, TrialRun, TrialStore, trial_key

if TYPE_CHECKING:
    from ablations.data import Dataset
    from vit import ViTConfig

BLOCK_OVERHEAD = 1e8
"""Fixed overhead of one block per step, in FLOPs. Used only to estimate the remaining time."""


@dataclass(frozen=True)
class Arm:
    """Runs of a plan that differ only in their seed, and the cost of one of them."""

    config: RunConfig
    keys: tuple[str, ...]
    done: int
    parameters: int
    steps: int  # of one run
    flops: int  # to train one run, accurate to a fraction of a percent
    seconds: float | None = None  # to train one run with the threads of one worker process

    @property
    def to_do(self) -> int:
        """Number of unfinished runs."""
        return len(self.keys) - self.done


def make_plan(
    grid: Grid,
    *,
    study: str,
    data_dir: Path | None = None,
    command: str = "",
    times: Costs | None = None,
    trials: TrialStore | None = None,
) -> StudyPlan:
    """Return the plan of a study. Nothing is written.

    `times` measures the relative times of an epoch, which a grid that matches seconds needs. `trials` has the finished
    runs of trials, which a tuned grid needs: its plan goes as far as these allow, and has no runs before their values
    are chosen. Raises UsageError for an impossible run: a field out of range, a dataset that cannot be read, or a model
    that does not fit the images; and for arms that cannot be matched.
    """

    def fingerprint(config: RunConfig) -> str:
        return dataset_for(config, data_dir).fingerprint

    configs = grid.expand()
    if grid.tuning is not None:
        grid = replace(grid, tuning=grid.tuning.limited_to(grid.base.epochs))
    check_data_dir((config.data for config in configs), data_dir, NAME_A_KIND)
    checked = set()
    for config in configs:
        shape = replace(config, seed=0, **({} if grid.tuning is None else grid.tuning.largest))
        if shape not in checked:
            check_model(shape, dataset_for(shape, data_dir))
            checked.add(shape)
    match = None
    if grid.match is not None:
        costs = times if grid.match == "seconds" else partial(relative_flops, data_dir=data_dir)
        assert costs is not None
        match = match_epochs(grid, configs, costs)
        configs = list(map(match.matched, configs))
    found = None
    if grid.tuning is not None:
        from ablations.tuning import search

        assert trials is not None
        found = search(grid, configs, trials, fingerprint)
        configs = [] if found.chosen is None else tuned(grid, configs, found.chosen)
    keys = [run_key(config, fingerprint(config)) for config in configs]
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
        protocols=grid.protocols,
        match=match,
        tuning=grid.tuning,
        trials=() if found is None else found.runs,
    )


def tuned(grid: Grid, configs: Iterable[RunConfig], chosen: Mapping[Group, Values]) -> list[RunConfig]:
    """Return runs of a grid with the values that were chosen for their groups."""
    assert grid.tuning is not None
    return [replace(config, **chosen[grid.tuning.group(config, grid.axes)]) for config in configs]


def relative_flops(pairs: Sequence[tuple[RunConfig, RunConfig]], data_dir: Path | None) -> list[RelativeCost]:
    """Return the FLOPs of an epoch of the first run of each pair, divided by those of the second."""
    return [RelativeCost(epoch_flops(arm, data_dir) / epoch_flops(baseline, data_dir)) for arm, baseline in pairs]


def epoch_flops(config: RunConfig, data_dir: Path | None) -> int:
    """Return the training FLOPs of an epoch, accurate to a fraction of a percent."""
    from ablations.data.loader import steps_of
    from vit import cost

    dataset = dataset_for(config, data_dir)
    steps, batch = steps_of(config, dataset.train_part, dataset.validation_images)
    return cost.TRAINING_FACTOR * cost.forward_flops(_model(config, dataset)) * steps * batch


def plan_study(
    grid: Grid, store: Store, *, study: str, data_dir: Path | None, command: str, times: Costs | None = None
) -> StudyPlan:
    """Return the plan of a study in a folder of runs, as `make_plan` and `with_protocols_chosen_before`."""
    trials = TrialStore.beside(store)
    plan = make_plan(grid, study=study, data_dir=data_dir, command=command, times=times, trials=trials)
    return with_protocols_chosen_before(plan, store)


def with_protocols_chosen_before(plan: StudyPlan, store: Store) -> StudyPlan:
    """Return the plan with those of its protocols that are chosen before the training.

    That is all of them until a run is finished. Afterwards it is the stored ones, neither more nor fewer: results could
    be known when others are named.
    """
    if not any(map(store.done, plan.keys)):
        return plan
    try:
        return replace(plan, protocols=store.read_study(plan.study).protocols)
    except UsageError:  # no such study: its runs were trained for another one
        return replace(plan, protocols=())


def check_model(config: RunConfig, dataset: "Dataset") -> None:
    """Raise UsageError if this run is impossible with these images: its model, its crop or its validation part."""
    from ablations.data.loader import check_validation

    check_validation(config, dataset)
    images = f"{dataset.image_size}x{dataset.image_size} images of {config.data}"
    if config.crop_padding > dataset.image_size:
        raise UsageError(f"crop_padding must be 0 to {dataset.image_size} for {images}, got {config.crop_padding}")
    _model(config, dataset, f" ({images})")


def _model(config: RunConfig, dataset: "Dataset", place: str = "") -> "ViTConfig":
    """Return the model of a run. Raises UsageError, also for an exception of an encoding in a file or a package."""
    from vit import ConfigError
    from vit.cost import forward_flops
    from vit.model import capture_problem
    from vit.positions import encoding, own

    kinds = []
    try:
        kinds = [type(part) for part in encoding(config.position).parts if own.is_own(part.name)]
        model = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
        if kinds:
            capture_problem(model, "numpy")  # a pass without values
            forward_flops(model)
    except ConfigError as error:
        raise UsageError(f"{str(error).replace('patch_size', 'patch')}{place}") from error
    except Exception as error:
        if not kinds:
            raise
        given = position_as_given(config.position)
        raise UsageError(
            f"position {given} raises {own.describe_error(error, kinds)}; to check it: vitab positions check "
            f"{shlex.quote(given)}"
        ) from error
    return model


def survey(
    plan: StudyPlan,
    store: Store,
    *,
    data_dir: Path | None = None,
    measure: Callable[[RunConfig, "Dataset"], float] | None = None,
) -> list[Arm]:
    """Return the arms of a plan, in order, with their costs. `measure(config, dataset)` returns seconds per epoch."""
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
    model = _model(config, dataset)
    steps, _ = steps_of(config, dataset.train_part, dataset.validation_images)
    done = sum(store.done(key) for key in keys)
    seconds = measure(config, dataset) * config.epochs if measure and done < len(keys) else None
    return Arm(
        config=config,
        keys=tuple(keys),
        done=done,
        parameters=cost.parameters(model),
        steps=config.epochs * steps,
        flops=epoch_flops(config, data_dir) * config.epochs,
        seconds=seconds,
    )


def check_planned_data(plan: StudyPlan, store: Store, data_dir: Path | None) -> None:
    """Raise UsageError if the data of the runs of a plan, or of its trials, are not there or have changed."""
    runs = dict(plan.runs) | {trial.key: trial.config for trial in plan.trials}
    thresholds = {trial.key: trial.thresholds for trial in plan.trials}
    check_data_dir((config.data for config in runs.values()), data_dir)
    for key, config in runs.items():
        if data_dir is None and config.data in OWN_DATA:
            raise place_missing(f"study {plan.study} was planned with your own data ({config.data})", config)
        fingerprint = dataset_for(config, data_dir).fingerprint
        is_trial = key in thresholds
        if key != (trial_key(config, fingerprint, thresholds[key]) if is_trial else run_key(config, fingerprint)):
            raise UsageError(
                f"the data of study {plan.study} ({config.data}) have changed since it was planned; to plan it again: "
                f"{plan.command or 'vitab run'}"
            )


def changed_data(plan: StudyPlan, store: Store, data_dir: Path | None) -> str | None:
    """Return how many images a run of the stored plan had and has now, if a run of the plan has other data than then.

    Such as `: 122 images, now 120`, empty if the number is not known. None if no run has other data.
    """
    try:
        before = store.read_study(plan.study).runs
    except UsageError:
        return None
    now = {config: key for key, config in plan.runs.items()}
    other = [(key, config) for key, config in before.items() if config in now and now[config] != key]
    if not other:
        return None
    known = [(key, config) for key, config in other if store.done(key)]
    return numbers(store, known[0][0], dataset_for(known[0][1], data_dir)) if known else ""


def shown_axes(plan: StudyPlan) -> list[str]:
    """Return the axes with more than one level, and always position."""
    varying = [axis for axis, levels in plan.axes.items() if len(levels) > 1]
    return varying if "position" in varying else ["position", *varying]


def tasks_of(plan: StudyPlan, arms: Sequence[Arm], store: Store, again: Container[str] = ()) -> list[Task]:
    """Return the unfinished runs, and the finished ones to train `again` (keys), in order."""
    weights = {key: _weight(arm) for arm in arms for key in arm.keys}
    axes = shown_axes(plan)
    return [
        Task(
            key,
            config,
            run_label(config, axes),
            weights[key],
            store.failed_attempt(key),
            sources=position_sources(config.position),
            replaces=result,
        )
        for key, config in plan.runs.items()
        if (result := store.result_digest(key)) is None or key in again
    ]


def _weight(arm: Arm) -> float:
    """Return the expected share of a run of an arm in the work."""
    return arm.flops + BLOCK_OVERHEAD * arm.config.depth * arm.steps


def trial_tasks(plan: StudyPlan, store: Store, data_dir: Path | None, again: Container[str] = ()) -> list[Task]:
    """Return the runs of the planned trials of a tuned study as `tasks_of`, in order."""
    trials, axes, tasks = TrialStore.beside(store), shown_axes(plan), {}
    weights: dict[RunConfig, float] = {}
    for run in plan.trials:
        result = trials.result_digest(run.key)
        if run.key in tasks or (result is not None and run.key not in again):
            continue
        assert plan.tuning is not None
        shape = replace(run.config, seed=0)
        if shape not in weights:
            weights[shape] = _weight(_arm(run.config, [], trials, data_dir, None))
        tasks[run.key] = Task(
            run.key,
            run.config,
            trial_label(run, plan.tuning, axes),
            weights[shape],
            trials.failed_attempt(run.key),
            sources=position_sources(run.config.position),
            thresholds=run.thresholds,
            replaces=result,
        )
    return [*tasks.values()]


def trial_label(run: TrialRun, design: TuningDesign, axes: Sequence[str]) -> str:
    """Return a run of a trial as text: `rope, depth 2, trial 3`, with the number of its seed if there are several."""
    of = f", seed {design.trial_seeds.index(run.config.seed) + 1} of {design.seeds}" if design.seeds > 1 else ""
    return f"{run_label(run.config, axes, seed=False)}, trial {run.number + 1}{of}"


def unfinished_tasks(plan: StudyPlan, store: Store, data_dir: Path | None) -> list[Task]:
    """Return the unfinished runs of a plan, in order; those of its trials while it is `searching`."""
    if plan.searching:
        return trial_tasks(plan, store, data_dir)
    return tasks_of(plan, survey(plan, store, data_dir=data_dir), store)
