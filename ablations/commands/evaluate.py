"""`vitab evaluate`: measure finished runs by protocols."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablations.commands.base import console as make_console
from ablations.commands.base import echo
from ablations.commands.data_notes import decoding_shown
from ablations.commands.options import Backend, Dask, DataDir, Insecure, ProtocolList, Quiet, Runs, Workers
from ablations.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from ablations.execution.evaluation import EvaluationWork
    from ablations.execution.tasks import ExecutionSettings, Task
    from ablations.storage import Store, StudyPlan


def evaluate(
    study: Annotated[str | None, typer.Argument(help="Name of the study. Default: the last one planned.")] = None,
    protocol: ProtocolList = None,
    data_dir: DataDir = None,
    backend: Backend = "auto",
    workers: Workers = "auto",
    dask: Dask = None,
    insecure: Insecure = False,
    runs: Runs = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be measured and the expected time; write nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure the finished runs of a study by protocols.

    What is measured is kept in runs/evaluations; the runs are not changed. Finished evaluations are not repeated. After
    an interruption the same command resumes, and failed evaluations are tried again. An evaluation is repeated if the
    code of its protocol has changed. Exit codes: 0 success, 1 some evaluations failed, 2 bad input, 130 interrupted.
    """
    from ablations.commands.report import last_study
    from ablations.execution.evaluation import check_datasets, evaluation_work
    from ablations.execution.resources import resolve_backend, resolve_workers
    from ablations.execution.tasks import ExecutionSettings
    from ablations.storage import EvaluationStore, Store
    from vit.options import split

    asked = standard_protocols([] if protocol is None else split(protocol, ","))
    store = Store(runs)
    plan = store.read_study(last_study(store) if study is None else study)
    asked = asked or list(plan.protocols)
    if not asked:
        raise UsageError("--protocol must name a protocol, such as resolution; to list them: vitab protocols")
    if dask is not None and workers != "auto":
        raise UsageError("--workers is for this machine and cannot be combined with --dask")
    used = resolve_backend(backend, here=dask is None)
    if not any(map(store.done, plan.keys)):
        raise UsageError(f"study {plan.study} has no finished run to evaluate; run it first")
    work = evaluation_work(plan, store, asked)
    number = resolve_workers(workers, runs=len(work.tasks), backend=used) if dask is None else 1
    console = make_console()
    if dry_run:
        print_forecast(console, store, asked, work.tasks)
    else:
        with decoding_shown(console):
            check_datasets(store, work.tasks, data_dir)
    print_left_out(store, plan, work)
    if not dry_run:
        settings = ExecutionSettings(EvaluationStore.beside(store).root, data_dir, used, devices=gpus(used))
        execute_evaluations(
            console, store, plan, work, settings, workers=number, quiet=quiet, dask=dask, insecure=insecure
        )


def standard_protocols(texts: "Iterable[str]") -> list[str]:
    """Return the standard spellings of protocols, each once. Raises UsageError for one that does not exist."""
    from ablations.evaluation import protocol, protocol_label
    from ablations.evaluation.registry import protocol_as_given

    labels: dict[str, str] = {}
    for text in (str(protocol(text)) for text in texts):
        first = labels.setdefault(protocol_label(text), text)
        if first != text:
            both = f"{protocol_as_given(first)} and {protocol_as_given(text)}"
            raise UsageError(f"protocols must have different labels, got {both}")
    return list(labels.values())


def gpus(backend: str) -> tuple[str, ...]:
    """Return the GPUs that worker processes share, as values of CUDA_VISIBLE_DEVICES."""
    from ablations.machine import devices

    return tuple(device.chosen for device in devices()) if backend == "cupy" else ()


def print_left_out(store: "Store", plan: "StudyPlan", work: "EvaluationWork") -> None:
    """Print how many runs of a plan are not evaluated, and why."""
    from ablations.config import count

    planned = count(len(plan.keys), "run")
    if unfinished := sum(not store.done(key) for key in plan.keys):
        echo(f"note: not evaluated: {unfinished} of {planned}, not finished", err=True)
    if work.diverged:
        echo(f"note: not evaluated: {len(work.diverged)} of {planned}, diverged: {'; '.join(work.diverged)}", err=True)


def print_forecast(console: "Console", store: "Store", protocols: "Sequence[str]", tasks: "Sequence[Task]") -> None:
    """Print evaluations and their expected time, from the time that the training took."""
    from ablations.commands import display
    from ablations.evaluation import protocol, protocol_label

    rows = display.table("protocol", "what is measured", "to do", "about", right=("to do", "about"))
    for text in protocols:
        own = [task for task in tasks if task.evaluation and task.evaluation.protocol == text]
        seconds = sum(_seconds(store, task) for task in own)
        display.add_row(
            rows, protocol_label(text), protocol(text).description, str(len(own)), display.duration(seconds)
        )
    console.print(rows)


def _seconds(store: "Store", task: "Task") -> float:
    """Return the expected time of an evaluation; a pass takes a third of the time of a training step."""
    from ablations.evaluation import protocol

    assert task.evaluation is not None
    result = store.result(task.evaluation.run)
    tested = len(store.predictions(task.evaluation.run)["labels"])
    speed = [epoch["images_per_s"] for epoch in store.metrics(task.evaluation.run)]
    if not speed or not result["train_seconds"]:
        return 0.0
    return protocol(task.evaluation.protocol).passes(task.config) * tested / (3 * max(speed))


def begin_evaluations(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    work: "EvaluationWork",
    settings: "ExecutionSettings",
    workers: int,
) -> "ExecutionSettings":
    """Print how many evaluations a study has, and return settings with the threads of each worker process.

    Raises UsageError if evaluations cannot be written.
    """
    from ablations.commands.execute import announce
    from ablations.machine import available_cores
    from ablations.storage import EvaluationStore

    EvaluationStore.beside(store).check_writable()
    to_do, done = len(work.tasks), work.done
    announce(console, plan, "evaluation", total=to_do + done, to_do=to_do, done=done)
    return replace(settings, threads=max(1, available_cores() // max(workers, 1)))


def execute_evaluations(
    console: "Console",
    store: "Store",
    plan: "StudyPlan",
    work: "EvaluationWork",
    settings: "ExecutionSettings",
    *,
    workers: int,
    quiet: bool,
    dask: str | None = None,
    insecure: bool = False,
) -> None:
    """Execute evaluations with progress on the terminal, here or on the Dask cluster with the address `dask`.

    Ends the program with exit code 1 if one failed, or 130 if interrupted.
    """
    from ablations.commands.execute import execute, on_cluster
    from ablations.execution.evaluation import evaluate_and_store
    from ablations.execution.execute import execute_tasks
    from ablations.execution.interrupt import Interrupt

    settings = begin_evaluations(console, store, plan, work, settings, workers)
    tasks = work.tasks
    with ExitStack() as stack:
        cluster = None
        if dask is not None:
            cluster, settings = stack.enter_context(on_cluster(console, store, settings, dask, insecure=insecure))
        execute(
            console,
            store,
            plan,
            tasks,
            partial(execute_tasks, tasks, settings=settings, workers=workers, job=evaluate_and_store),
            noun="evaluation",
            total=len(tasks) + work.done,
            done=work.done,
            interrupt=Interrupt("ending the evaluations in progress"),
            quiet=quiet,
            cluster=cluster,
        )
