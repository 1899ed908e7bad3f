"""Run a study from Python: plan, train and evaluate it."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.api.studies import Study
from ablations.config import Grid
from ablations.errors import VitabError
from ablations.storage import Store

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.execution.execute import StudyOutcome
    from ablations.execution.tasks import Task
    from ablations.storage import StudyPlan


def run(
    grid: str | Path | Grid,
    *,
    study: str | None = None,
    runs: str | Path = "runs",
    data_dir: str | Path | None = None,
    workers: int | str = "auto",
    backend: str = "auto",
    seeds: int | None = None,
    quiet: bool = False,
    **changes: Any,
) -> Study:
    """Train the runs of a grid that are not finished yet, and return the study.

    It does what `vitab run` does: finished runs are kept and never trained again, and the same call resumes after an
    interruption (KeyboardInterrupt, after the checkpoints are saved) or a failure. The trials of a grid with `tuning`
    are trained first. Protocols that the grid names are measured after the training. Progress is one display in
    Jupyter, a live table on a terminal, and plain lines elsewhere. Warnings of the command are Python warnings.

    - `grid`: the name of a built-in grid, the path of a TOML file, or a Grid
    - `study`: the name of the study, by default that of the grid
    - `runs`: the folder of the runs
    - `data_dir`: the folder of the dataset's files, by default the user's cache
    - `workers`: the number of worker processes, which changes no result; "auto" is one per core, or one per GPU
    - `backend`: "numpy" or "cupy"; "auto" is cupy if there is a usable GPU
    - `seeds`: the number of seeds, 0 to `seeds` - 1
    - `quiet`: print nothing
    - `changes`: fields of a run, such as `position=["none", "rope"], depth=2, epochs=3`; a list makes the field an axis
      with these levels, any other value is the same in all runs

    Raises UsageError for bad input, before anything is trained, and VitabError if runs have failed; the others are
    finished then.
    """
    from ablations.api.command import command_of
    from ablations.commands.display import say
    from ablations.commands.evaluate import standard_protocols
    from ablations.commands.execute import allocate, begin, diverged_warning, noun_of
    from ablations.commands.tune import show_choice
    from ablations.config import check_name, coerce_changes, find_grid, override, with_tuning
    from ablations.execution.execute import execute_plan
    from ablations.execution.plan import plan_study, unfinished_tasks
    from ablations.execution.resources import resolve_backend, resolve_workers
    from ablations.execution.tasks import ExecutionSettings
    from ablations.machine import unused_gpu
    from ablations.statistics import power_warning
    from ablations.statistics.sequential.rounds import require_fixed
    from ablations.training.precision import choose

    given = {name: _plain(value) for name, value in changes.items()}
    axes, settings = coerce_changes(given)
    precision = settings.pop("precision", None)
    named = grid if isinstance(grid, Grid) else find_grid(str(grid))
    chosen = with_tuning(override(named, axes=axes, settings=settings, seeds=_plain(seeds)), {}, {}, settings)
    name = check_name("study", study) if study is not None else chosen.name
    used = resolve_backend(backend)
    resolve_workers(str(workers), runs=1, backend=used)
    chosen = choose(chosen, precision, used)
    chosen = replace(chosen, protocols=tuple(standard_protocols(chosen.protocols)))
    if (precision := chosen.base.precision) != "float32" and "precision" not in axes:
        given["precision"] = precision
    options = {"study": study, "seeds": _plain(seeds)}
    arguments = {option: value for option, value in options.items() if value is not None} | given
    command = command_of(grid if isinstance(grid, Grid) else str(grid), arguments)

    console, store, data = _console(quiet), Store(Path(runs)), None if data_dir is None else Path(data_dir)
    require_fixed(store, name)

    def planned() -> "StudyPlan":
        """Return the plan as far as finished trials allow."""
        return plan_study(chosen, store, study=name, data_dir=data, command=command)

    cautions = [caution] if (caution := power_warning(chosen)) else []

    def train(plan: "StudyPlan") -> None:
        """Train the unfinished runs of a plan, or of its trials."""
        tasks = unfinished_tasks(plan, store, data)
        resources = allocate(console, tasks, workers=str(workers), stack="auto", backend=used, data_dir=data)
        store.check_writable()
        done = begin(console, store, plan, tasks, cautions.append)
        while cautions:
            warnings.warn(cautions.pop(0), stacklevel=3)
        execution = ExecutionSettings(store.root, data, used, threads=resources.threads, devices=resources.devices)
        start = partial(execute_plan, plan, store, resources.tasks, settings=execution, workers=resources.workers)
        outcome = _executed(console, resources.tasks, start, done=done, noun=noun_of(plan))
        if outcome.diverged and not plan.searching:
            warnings.warn(diverged_warning(outcome, len(tasks)), stacklevel=3)
        _require_success(outcome, done + len(tasks), noun_of(plan))

    plan = planned()
    if backend != used == "numpy" and (line := unused_gpu()):
        say(console, f"note: {line}")
    while plan.searching:
        train(plan)
        plan = planned()
    if plan.tuning is not None:
        show_choice(console, store, plan)
    train(plan)
    if chosen.protocols:
        _evaluate(console, store, plan, chosen.protocols, data_dir=data, workers=str(workers), backend=used)
    return Study(name, store.root)


def _plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays, tuples and ranges as Python's numbers and lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(map(_plain, value)) if isinstance(value, list | tuple | range) else value


def _console(quiet: bool) -> "Console":
    from rich.console import Console

    return Console(quiet=quiet, force_jupyter=False)


def _executed(
    console: "Console", tasks: "Sequence[Task]", start: "Callable[..., StudyOutcome]", *, done: int, noun: str
) -> "StudyOutcome":
    """Execute tasks by `start`, called with `listener` and `stop`, with progress where the program is."""
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
            return start(listener=listener, stop=interrupt)
    except KeyboardInterrupt:
        say(console, f"interrupted after {listener.count} of {listener.total} {noun}s; the same call resumes")
        raise


def _require_success(outcome: "StudyOutcome", total: int, noun: str) -> None:
    """Raise VitabError if tasks failed."""
    if outcome.failed:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in outcome.failed.items())
        number = len(outcome.failed)
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
    check_datasets(work.tasks, data_dir)
    number = resolve_workers(workers, runs=len(work.tasks), backend=backend)
    settings = ExecutionSettings(EvaluationStore.beside(store).root, data_dir, backend, devices=gpus(backend))
    settings = begin_evaluations(console, store, plan, work, settings, number)
    total = len(work.tasks) + work.done
    start = partial(execute_tasks, work.tasks, settings=settings, workers=number, job=evaluate_and_store)
    _require_success(_executed(console, work.tasks, start, done=work.done, noun="evaluation"), total, "evaluation")
