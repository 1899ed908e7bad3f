"""Evaluations of finished runs as tasks, which are claimed and executed as runs are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.config import RunConfig, position_sources, run_key, run_label
from ablations.data.loading import dataset_for
from ablations.errors import UsageError
from ablations.evaluation import protocol
from ablations.evaluation.finished_run import FinishedRun
from ablations.evaluation.keys import evaluation_code, evaluation_key
from ablations.execution.plan import shown_axes
from ablations.execution.tasks import Evaluation, ExecutionSettings, Finished, RunHooks, Task
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
            if evaluations.done(key):
                done += 1
                continue
            tasks.append(
                Task(
                    key,
                    config,
                    f"{text}: {run_label(config, axes)}",
                    weight=_weight(asked.passes(config), config),
                    failed_before=evaluations.failed_attempt(key),
                    sources=position_sources(config.position),
                    evaluation=Evaluation(run, text),
                )
            )
    return EvaluationWork(tasks, done, tuple(run_label(plan.runs[key], axes) for key in plan.keys if key in diverged))


def check_datasets(tasks: Sequence[Task], data_dir: Path | None) -> None:
    """Raise VitabError if a dataset is missing here, or is not the one that the runs were trained on."""
    fingerprints: dict[tuple[object, ...], str] = {}
    for task in tasks:
        assert task.evaluation is not None
        config = task.config
        parts = config.data, config.labels, config.classes, config.per_class
        if parts not in fingerprints:
            fingerprints[parts] = dataset_for(config, data_dir).fingerprint
        if run_key(config, fingerprints[parts]) != (run := task.evaluation.run):
            raise UsageError(
                f"the dataset must be the one that run {run[:16]} was trained on, got a different {config.data}"
            )


def _weight(passes: float, config: RunConfig) -> float:
    """Return the expected share of the work: forward passes over tokens, in arbitrary units."""
    return 0.1 + passes * config.depth * config.width / config.patch**2


def evaluate_and_store(task: Task, settings: ExecutionSettings, hooks: RunHooks) -> Finished:
    """Apply a protocol to a finished run and write what it measures. `settings.runs` is the folder of evaluations."""
    from ablations.storage.provenance import describe

    assert task.evaluation is not None
    evaluations = EvaluationStore(settings.runs)
    begun = time.perf_counter()

    def heartbeat() -> None:
        hooks.heartbeat()
        if hooks.stop():
            raise KeyboardInterrupt

    run = FinishedRun(
        evaluations.runs,
        task.evaluation.run,
        data_dir=settings.data_dir,
        backend=settings.backend,
        threads=settings.threads,
        heartbeat=heartbeat,
    )
    asked = protocol(task.evaluation.protocol)
    try:
        measured = asked.measure(run)
    finally:
        run.close()
    metrics = {name: float(value) for name, value in measured.metrics.items()}
    seconds = time.perf_counter() - begun
    summary = summarise(task.evaluation.protocol, metrics, measured.reasons)
    result = {
        "run": task.evaluation.run,
        "protocol": task.evaluation.protocol,
        "metrics": metrics,
        "reasons": list(measured.reasons),
        "seconds": seconds,
        "summary": summary,
    }
    environment = describe(position=task.config.position, backend=settings.backend, threads=settings.threads)
    environment["evaluation"] = evaluation_code(task.evaluation.protocol, task.config.position)
    evaluations.write_evaluation(task.key, task.config, result, measured.arrays, environment, hooks.holds_lease)
    return Finished(summary, seconds)


def summarise(text: str, metrics: dict[str, float], reasons: Sequence[str]) -> str:
    """Return the first metric of a protocol in a phrase, or why it has none."""
    for metric in protocol(text).metrics():
        if metric.name in metrics:
            value = metrics[metric.name]
            return f"{metric.noun} " + (f"{value:.1%}" if metric.unit == "%" else f"{value:.3g} {metric.unit}".rstrip())
    return reasons[0] if reasons else "no metric"
