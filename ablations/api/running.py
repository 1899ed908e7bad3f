"""Run a study from Python: plan, train and evaluate it."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.api.studies import Study
from ablations.config import Grid
from ablations.errors import UsageError, VitabError
from ablations.storage import Store

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.execution.execute import StudyOutcome
    from ablations.execution.tasks import Task
    from ablations.storage import StudyPlan
    from ablations.tracking.live import LiveTracking


def run(
    grid: str | Path | Grid,
    *,
    study: str | None = None,
    runs: str | Path = "runs",
    data_dir: str | Path | None = None,
    recipe: str | None = None,
    seeds: int | None = None,
    until_decided: bool = False,
    max_seeds: int | None = None,
    match: str | None = None,
    protocol: str | Sequence[str] | None = None,
    workers: int | str = "auto",
    stack: int | str = "auto",
    backend: str = "auto",
    track: str | None = None,
    quiet: bool = False,
    **changes: Any,
) -> Study:
    """Train the runs of a grid that are not finished yet, and return the study.

    It does what `vitab run` does, and its arguments are the options of the command: finished runs are kept and never
    trained again, and the same call resumes after an interruption (KeyboardInterrupt, after the checkpoints are saved)
    or a failure. The trials of a grid with `tuning` are trained first. Progress is one display in Jupyter, a live table
    on a terminal, and plain lines elsewhere. Warnings of the command are Python warnings, except those of a tracker,
    which are lines on stderr.

    - `grid`: the name of a built-in grid, the path of a TOML file, or a Grid
    - `study`: the name of the study, by default that of the grid
    - `runs`: the folder of the runs
    - `data_dir`: the folder or file of the dataset, by default the user's cache
    - `recipe`: a preset of training fields for photographs, "light" or "strong"; `changes` override its fields
    - `seeds`: the number of seeds, 0 to `seeds` - 1
    - `until_decided`: add seeds in rounds to arms that are not yet better, worse or equivalent, up to `max_seeds`, by
      default four times `seeds`
    - `match`: "flops" or "seconds" gives every arm the training FLOPs, or the measured training time, of the baseline
      arm instead of its epochs; by default as the grid says
    - `protocol`: protocols that are measured after the training, such as "resolution" or ["shift", "calibration"], by
      default those of the grid
    - `workers`: the number of worker processes, which changes no result; "auto" is one per core, or one per GPU
    - `stack`: the maximum number of runs that are trained as one model; "auto" is 1 on a CPU, as many as fit on a GPU
    - `backend`: "numpy" or "cupy"; "auto" is cupy if there is a usable GPU
    - `track`: copy the runs to this experiment tracker: "tensorboard", "mlflow", "wandb" or "trackio"
    - `quiet`: print nothing but warnings
    - `changes`: fields of a run, such as `position=["none", "rope"], depth=2, epochs=3`; a list makes the field an axis
      with these levels, any other value is the same in all runs

    Raises UsageError for bad input, before anything is trained, and VitabError if runs have failed; the others are
    finished then.
    """
    from ablations.api.command import command_of
    from ablations.commands.data_notes import decoding_shown, say_about_data
    from ablations.commands.display import describe_match, say
    from ablations.commands.evaluate import standard_protocols
    from ablations.commands.execute import allocate, begin, diverged_warning, noun_of
    from ablations.commands.phases import train_in_phases
    from ablations.commands.track import live_tracking
    from ablations.config import (
        check_match,
        check_name,
        coerce_changes,
        find_grid,
        find_recipe,
        override,
        pruning_warning,
        with_tuning,
    )
    from ablations.data.registry import check_is_name
    from ablations.execution.execute import execute_plan
    from ablations.execution.paired_times import PairedTimes
    from ablations.execution.plan import plan_study, unfinished_tasks
    from ablations.execution.resources import parse_stack, resolve_backend, resolve_workers
    from ablations.execution.tasks import ExecutionSettings
    from ablations.machine import unused_gpu
    from ablations.statistics import power_warning
    from ablations.statistics.sequential.rounds import plan_to_continue, with_seeds
    from ablations.training.precision import choose
    from vit.options import split

    if max_seeds is not None and not until_decided:
        raise UsageError("max_seeds requires until_decided=True; without it, seeds=N sets the number of seeds")
    most = _plain(max_seeds)
    if most is not None and type(most) is not int:
        raise UsageError(f"max_seeds must be an integer, got {most!r}")
    given = {name: _plain(value) for name, value in changes.items()}
    check_is_name(given.get("data"))
    axes, settings = coerce_changes(given)
    precision = settings.pop("precision", None)
    named = grid if isinstance(grid, Grid) else find_grid(str(grid))
    prepared = override(named, settings=find_recipe(recipe) if recipe is not None else {})
    chosen = with_tuning(override(prepared, axes=axes, settings=settings, seeds=_plain(seeds)), {}, {}, settings)
    name = check_name("study", study) if study is not None else chosen.name
    used = resolve_backend(backend)
    resolve_workers(str(workers), runs=1, backend=used)
    parse_stack(str(stack))
    chosen = choose(chosen, precision, used)
    asked = split(protocol, ",") if isinstance(protocol, str) else protocol
    chosen = replace(chosen, protocols=tuple(standard_protocols(chosen.protocols if asked is None else asked)))
    if match is not None:
        chosen = replace(chosen, match=check_match(match))
    if (precision := chosen.base.precision) != "float32" and "precision" not in axes:
        given["precision"] = precision
    options = {
        "study": study,
        "recipe": recipe,
        "seeds": _plain(seeds),
        "until_decided": until_decided or None,
        "max_seeds": most,
        "match": match,
        "protocol": None if asked is None else list(asked),
    }
    arguments = {option: value for option, value in options.items() if value is not None} | given
    command = command_of(grid if isinstance(grid, Grid) else str(grid), arguments)

    console, store, data = _console(quiet), Store(Path(runs)), None if data_dir is None else Path(data_dir)
    times = PairedTimes(
        store, name, data, used, str(workers), str(stack), len(chosen.seeds), say=lambda line: say(console, line)
    )

    def plan_of(grid: Grid) -> "StudyPlan":
        return plan_study(grid, store, study=name, data_dir=data, command=command, times=times)

    planned = partial(plan_to_continue, chosen, store, name, plan_of, grows=until_decided, maximum=most)
    with live_tracking(track, store, name, console) as tracking:
        with decoding_shown(console):
            plan = planned()
        for described in describe_match(plan):
            say(console, described)
        if backend != used == "numpy" and (line := unused_gpu()):
            say(console, f"note: {line}")
        say_about_data(plan.all_configs, data, partial(say, console))
        failed: dict[str, str] = {}

        def train(plan: "StudyPlan", tried: frozenset[str]) -> None:
            """Train the unfinished runs of a plan, except those tried before."""
            tasks = [task for task in unfinished_tasks(plan, store, data) if task.key not in tried]
            resources = allocate(console, tasks, workers=str(workers), stack=str(stack), backend=used, data_dir=data)
            store.check_writable()
            if not tried and (
                caution := power_warning(with_seeds(chosen, plan.design.maximum) if plan.design else chosen)
            ):
                _warn(caution)
            if plan.searching and not tried and (caution := pruning_warning(plan.tuning)):
                _warn(caution)
            done = begin(console, store, plan, tasks, _warn, data)
            execution = ExecutionSettings(store.root, data, used, threads=resources.threads, devices=resources.devices)
            start = partial(execute_plan, plan, store, resources.tasks, settings=execution, workers=resources.workers)
            noun = noun_of(plan)
            outcome = _executed(console, resources.tasks, start, done=done, noun=noun, plan=plan, tracking=tracking)
            if outcome.diverged and not plan.searching:
                _warn(diverged_warning(outcome, len(tasks)))
            if plan.searching:
                _require_success(outcome.failed, done + len(tasks), noun)
            failed.update(outcome.failed)

        plan = train_in_phases(console, store, plan, chosen, planned=planned, plan_of=plan_of, train=train)
    _require_success(failed, len(plan.keys), "run")
    if chosen.protocols:
        _evaluate(console, store, plan, chosen.protocols, data_dir=data, workers=str(workers), backend=used)
    return Study(name, store.root)


def _warn(text: str) -> None:
    """Issue a warning that names the line outside of this package from which it was called."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "ablations":
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, stacklevel=depth)


def _plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays, tuples and ranges as Python's numbers and lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(map(_plain, value)) if isinstance(value, list | tuple | range) else value


def _console(quiet: bool) -> "Console":
    from rich.console import Console

    return Console(quiet=quiet, force_jupyter=False)


def _executed(
    console: "Console",
    tasks: "Sequence[Task]",
    start: "Callable[..., StudyOutcome]",
    *,
    done: int,
    noun: str,
    plan: "StudyPlan",
    tracking: "LiveTracking | None" = None,
) -> "StudyOutcome":
    """Execute tasks of a plan by `start`, called with `listener` and `stop`, with progress where the program is.

    `tracking` copies the runs to a tracker.
    """
    from rich.console import Console

    from ablations.api.notebook import NotebookProgress
    from ablations.commands.display import say
    from ablations.commands.progress import LiveProgress, Progress
    from ablations.execution.interrupt import Interrupt

    kind = Progress
    if tasks and not console.quiet:
        kind = NotebookProgress if Console().is_jupyter else LiveProgress if console.is_terminal else Progress
    interrupt = Interrupt("saving checkpoints" if noun == "run" else "ending the evaluations in progress")
    listener = kind(console, tasks, skipped=done)
    try:
        with interrupt, listener:
            watched = listener if tracking is None else tracking.listener(plan, listener)
            return start(listener=watched, stop=interrupt)
    except KeyboardInterrupt:
        say(console, f"interrupted after {listener.count} of {listener.total} {noun}s; the same call resumes")
        raise


def _require_success(failed: Mapping[str, str], total: int, noun: str) -> None:
    """Raise VitabError if tasks failed, with their reasons by label."""
    if failed:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in failed.items())
        number = len(failed)
        raise VitabError(f"{number} of {total} {noun}s failed; the same call tries them again; {reasons}")


def _evaluate(
    console: "Console",
    store: Store,
    plan: "StudyPlan",
    protocols: Sequence[str],
    *,
    data_dir: Path | None,
    workers: str,
    backend: str,
) -> None:
    """Measure the finished runs of a plan by protocols in their standard spelling."""
    from ablations.commands.evaluate import begin_evaluations, gpus
    from ablations.execution.evaluation import check_datasets, evaluate_and_store, evaluation_work
    from ablations.execution.execute import execute_tasks
    from ablations.execution.resources import resolve_workers
    from ablations.execution.tasks import ExecutionSettings
    from ablations.storage import EvaluationStore

    work = evaluation_work(plan, store, protocols)
    check_datasets(store, work.tasks, data_dir)
    number = resolve_workers(workers, runs=len(work.tasks), backend=backend)
    settings = ExecutionSettings(EvaluationStore.beside(store).root, data_dir, backend, devices=gpus(backend))
    settings = begin_evaluations(console, store, plan, work, settings, number)
    total = len(work.tasks) + work.done
    start = partial(execute_tasks, work.tasks, settings=settings, workers=number, job=evaluate_and_store)
    outcome = _executed(console, work.tasks, start, done=work.done, noun="evaluation", plan=plan)
    _require_success(outcome.failed, total, "evaluation")
