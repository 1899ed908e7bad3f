"""Evaluations of finished runs as tasks, which are claimed and executed as runs are."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.config import RunConfig, position_sources, run_key, run_label
from ablations.data.loading import dataset_for
from ablations.data.reading import Reading
from ablations.data.registry import check_data_dir
from ablations.errors import VitabError
from ablations.evaluation import Measurement, Protocol, own, protocol, protocol_label
from ablations.evaluation.checks import checked_measurement, checked_passes
from ablations.evaluation.finished_run import FinishedRun
from ablations.evaluation.keys import evaluation_code, evaluation_key, key_of
from ablations.evaluation.registry import described_protocol, protocol_sources
from ablations.evaluation.results import finished_evaluations
from ablations.execution.lease import LEASE_TIMEOUT, Lease, active_lease, last_attempt, read_lease
from ablations.execution.plan import shown_axes
from ablations.execution.tasks import Evaluation, ExecutionSettings, Finished, RunHooks, Task
from ablations.execution.worker import is_permanent
from ablations.models.training_data import other_data, require_data_dir
from ablations.storage import EvaluationStore, Store, StudyPlan


@dataclass(frozen=True)
class EvaluationWork:
    """The evaluations of a plan by protocols."""

    tasks: list[Task]
    """Those that are not finished."""
    done: int
    """Number of finished ones."""
    diverged: tuple[str, ...]
    """Labels of the runs that diverged, which are not evaluated."""


def evaluation_work(plan: StudyPlan, store: Store, protocols: Sequence[str]) -> EvaluationWork:
    """Return the evaluations of the finished runs of a plan by protocols in their standard spelling."""
    evaluations = EvaluationStore.beside(store)
    axes, tasks, done = shown_axes(plan), [], 0
    finished = [key for key in plan.keys if store.done(key)]
    diverged = set(store.diverged(finished))
    for text in protocols:
        asked = protocol(text)
        for run in finished:
            if run in diverged:
                continue
            config = plan.runs[run]
            key = evaluation_key(run, text, config.position)
            before = evaluations.result_digest(key)
            if before is not None and evaluations.is_of_current_run(evaluations.result(key)):
                done += 1
                continue
            tasks.append(
                Task(
                    key,
                    config,
                    f"{protocol_label(text)}: {run_label(config, axes)}",
                    weight=_weight(asked, config),
                    failed_before=evaluations.failed_attempt(key),
                    sources=(*position_sources(config.position), *protocol_sources(text)),
                    evaluation=Evaluation(run, text),
                    replaces=before,
                )
            )
    return EvaluationWork(tasks, done, tuple(run_label(plan.runs[key], axes) for key in plan.keys if key in diverged))


def check_datasets(store: Store, tasks: Sequence[Task], data_dir: Path | None) -> None:
    """Raise VitabError if a dataset is missing here, or is not the one that the runs were trained on."""
    check_data_dir((task.config.data for task in tasks), data_dir)
    fingerprints: dict[tuple[object, ...], str] = {}
    for task in tasks:
        assert task.evaluation is not None
        config, run = task.config, task.evaluation.run
        parts = config.data, config.labels, config.classes, config.per_class, Reading.of(config)
        if parts not in fingerprints:
            require_data_dir(store, run, config, data_dir)
            fingerprints[parts] = dataset_for(config, data_dir).fingerprint
        if run_key(config, fingerprints[parts]) != run:
            raise other_data(store, run, dataset_for(config, data_dir))


def _weight(asked: Protocol, config: RunConfig) -> float:
    """Return the expected share of the work: forward passes over tokens, in arbitrary units."""
    return 0.1 + checked_passes(asked, config, own) * config.depth * config.width / config.patch**2


def evaluate_and_store(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Apply a protocol to a finished run and write what it measures. `settings.runs` is the folder of evaluations."""
    assert task.evaluation is not None
    evaluations, begun = EvaluationStore(settings.runs), time.perf_counter()

    def heartbeat() -> None:
        hooks.heartbeat()
        if hooks.stop():
            raise KeyboardInterrupt

    run, text = task.evaluation.run, task.evaluation.protocol
    run_result = evaluations.runs.result_digest(run)
    measured = measure(evaluations.runs, run, text, settings, heartbeat)
    seconds = time.perf_counter() - begun
    summary = summarise(text, measured)
    result = {
        "run": run,
        "run_result": run_result,
        "protocol": text,
        "metrics": dict(measured.metrics),
        "reasons": list(measured.reasons),
        "seconds": seconds,
        "summary": summary,
    }
    environment = evaluation_environment(text, task.config.position, settings)
    evaluations.write_evaluation(
        task.key, task.config, result, measured.arrays, environment, hooks.holds_lease, task.replaces
    )
    return Finished(summary, seconds)


def measure(
    store: Store, run: str, text: str, settings: ExecutionSettings, heartbeat: Callable[[], object] = lambda: None
) -> Measurement:
    """Return what a protocol measures on a finished run, as `checked_measurement` does.

    Raises VitabError for errors of a protocol in a file or a package, with the line that raised them.
    """
    finished = FinishedRun(
        store,
        run,
        data_dir=settings.data_dir,
        backend=settings.backend,
        threads=settings.threads,
        heartbeat=heartbeat,
    )
    asked = protocol(text)
    try:
        measured = asked.measure(finished)
    except Exception as error:
        if isinstance(error, VitabError) or not own.digest_of(asked.name) or not is_permanent(error):
            raise
        raise VitabError(own.describe_error(error, [type(asked)])) from error
    finally:
        finished.close()
    return checked_measurement(measured, asked, own)


def evaluation_environment(text: str, position: str, settings: ExecutionSettings) -> dict[str, Any]:
    """Return the contents of the environment.json of an evaluation."""
    from ablations.storage.provenance import describe

    environment = describe(position=position, backend=settings.backend, threads=settings.threads)
    described = described_protocol(text)
    return (
        environment | {"evaluation": evaluation_code(text, position)} | ({"protocol": described} if described else {})
    )


def summarise(text: str, measured: Measurement) -> str:
    """Return the first metric of a protocol in a phrase, or why it has none."""
    for metric in protocol(text).metrics():
        if metric.name in measured.metrics:
            value = measured.metrics[metric.name]
            return f"{metric.noun} " + (f"{value:.1%}" if metric.unit == "%" else f"{value:.3g} {metric.unit}".rstrip())
    return measured.reasons[0] if measured.reasons else "no metric"


@dataclass(frozen=True)
class UnfinishedEvaluation:
    """An evaluation that failed or is running."""

    run: str
    protocol: str
    owner: dict[str, Any] | None
    """Content of the lease of one that is running."""
    failure: str
    """Reason and file of one that failed."""


@dataclass(frozen=True)
class EvaluationStates:
    """The evaluations of the runs in a folder by the protocols as they are now, by key of the run."""

    finished: Counter[str]
    outdated: Counter[str]
    """Of other code, and not renewed."""
    unfinished: tuple[UnfinishedEvaluation, ...]


def evaluation_states(store: Store, positions: Mapping[str, str]) -> EvaluationStates:
    """Return the states of the evaluations of runs, whose encodings are given by key."""
    evaluations = EvaluationStore.beside(store)
    done = finished_evaluations(evaluations, positions, verify=False)
    unfinished: list[UnfinishedEvaluation] = []
    for folder in sorted(path.parent for path in evaluations.root.glob("*/attempt-*.json")):
        lease = read_lease(Lease(folder, last_attempt(folder)).path) or {}
        run, text = str(lease.get("run")), str(lease.get("protocol"))
        key = key_of(run, text, positions[run]) if run in positions else None
        if key is None or evaluations.folder(key) != folder or evaluations.done(key):
            continue
        owner = active_lease(folder)
        if owner is not None and owner["silent"] < LEASE_TIMEOUT:
            unfinished.append(UnfinishedEvaluation(run, text, owner, ""))
        elif (reason := evaluations.failure(key)) is not None:
            unfinished.append(UnfinishedEvaluation(run, text, None, f"{reason} ({folder / 'failure.json'})"))
    finished, outdated = (Counter(run for run, _ in found) for found in (done.current, done.outdated))
    return EvaluationStates(finished, outdated, tuple(unfinished))
