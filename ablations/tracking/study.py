"""The finished runs of a study in a tracker, after they were trained."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ablations.config import RunConfig, count, run_label
from ablations.errors import UsageError, VitabError
from ablations.execution.plan import shown_axes
from ablations.machine import versions
from ablations.storage import Store, StudyPlan
from ablations.tracking.process import TrackerError, TrackerProcess, tracking_folder
from ablations.tracking.tracker import TrackedRun

NAME_LENGTH = 120
"""Longest name of a run, in characters. Weights & Biases takes 128."""


@dataclass(frozen=True)
class Tracked:
    """What was copied to a tracker."""

    copied: int
    """Runs that it did not have."""
    present: int
    """Runs that it had."""
    unfinished: int
    """Runs that are not finished."""
    report: str | None
    """Why the report was not copied; None if it was."""
    where: str
    next_step: str
    """As in `Tracker`."""


def track_study(
    tracker: str, store: Store, plan: StudyPlan, on_step: Callable[[str], None] = lambda text: None
) -> Tracked:
    """Copy the finished runs of a study, and its report, to a tracker, except runs that it has.

    `on_step` is called with what comes next, in a phrase. Raises UsageError if no run is finished, and VitabError if
    the tracker fails.
    """
    finished = {key: config for key, config in plan.runs.items() if store.done(key)}
    if not finished:
        raise UsageError(f"study {plan.study} has no finished run to track; run it first")
    copied = 0
    try:
        with TrackerProcess(tracker, store, plan.study) as process:
            for key, config in finished.items():
                run = tracked_run(plan, key, config)
                on_step(run.name)
                copied += process.call("finish", run)
            problem = None
            on_step("the report")
            try:
                with written_report(store, plan.study) as folder:
                    process.call("report", folder)
            except UsageError as error:
                problem = str(error)
            place = process.call("close")
    except OSError as error:
        raise VitabError(f"cannot start {tracker} in {store.root}: {error.strerror or error}") from error
    except TrackerError as error:
        log = tracking_folder(store, tracker) / "vitab" / "log"
        raise VitabError(f"{tracker} failed after {count(copied, 'run')}: {error}; it printed {log}") from error
    return Tracked(copied, len(finished) - copied, len(plan.keys) - len(finished), problem, **place)


def tracked_run(plan: StudyPlan, key: str, config: RunConfig) -> TrackedRun:
    """Return a run of a plan as trackers show it."""
    axes = shown_axes(plan)
    name, arm = (_shortened(run_label(config, axes, seed=seed)) for seed in (True, False))
    version = versions(("vitab",)).get("vitab", "unknown")
    return TrackedRun(plan.study, key, name, arm, config.canonical(), version)


@contextmanager
def written_report(store: Store, study: str) -> Iterator[Path]:
    """Return a context with the folder of the report of a study, which is removed afterwards.

    Raises UsageError if no run is finished, or if the runs come from several versions of the code or the data.
    """
    from ablations.evaluation import load_evaluations
    from ablations.reporting.report import write_report
    from ablations.reporting.tuning.analysis import tuning_sources
    from ablations.storage import load_results, version_conflicts

    results = load_results(store, study)
    if conflicts := version_conflicts(results):
        raise UsageError(f"{'; '.join(conflicts)}; to write it all the same: vitab report {study} --mixed")
    evaluations, tuning = load_evaluations(store, results.plan), tuning_sources(store, results)
    with tempfile.TemporaryDirectory(prefix="vitab-") as folder:
        yield write_report(results, Path(folder), "html", evaluations=evaluations, tuning=tuning)


def _shortened(text: str) -> str:
    return text if len(text) <= NAME_LENGTH else f"{text[: NAME_LENGTH - 3]}..."
