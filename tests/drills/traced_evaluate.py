"""The program vitab with a trace: the start and the end of each evaluation are written to the file in VITAB_TRACE.

Worker processes start with `worker`, so their evaluations are traced too.
"""

import os
import time
from pathlib import Path
from typing import Any

from ablations.cli import app
from ablations.execution import evaluation, pool
from ablations.storage import EvaluationStore

_measure, _write, _worker_main = evaluation.measure, EvaluationStore.write_evaluation, pool._worker_main


def measure(store: Any, run: str, text: str, *arguments: Any) -> Any:
    """Measure, and note the start."""
    note("start", run, text)
    return _measure(store, run, text, *arguments)


def write_evaluation(store: EvaluationStore, key: str, config: Any, result: Any, *arguments: Any) -> None:
    """Write an evaluation, and note the end."""
    _write(store, key, config, result, *arguments)
    note("written", str(result["run"]), str(result["protocol"]))


def note(event: str, run: str, text: str) -> None:
    line = f"{time.time_ns()} {event} {run} {text}\n"
    with Path(os.environ["VITAB_TRACE"]).open("ab", buffering=0) as file:
        file.write(line.encode())


def read(path: Path) -> list[tuple[int, str, str, str]]:
    """Return time in ns, event, run and protocol of each line."""
    lines = [line.split(" ", 3) for line in path.read_text().splitlines()] if path.exists() else []
    return [(int(time_ns), event, run, text) for time_ns, event, run, text in lines]


def trace() -> None:
    """Trace the evaluations of this process."""
    evaluation.measure = measure
    EvaluationStore.write_evaluation = write_evaluation


def worker(*arguments: Any) -> None:
    """Trace the evaluations of a worker process."""
    trace()
    _worker_main(*arguments)


if __name__ == "__main__":
    from tests.drills import traced_evaluate  # worker processes import it by this name

    traced_evaluate.trace()
    pool._worker_main = traced_evaluate.worker
    app()
