"""The program vitab with a trace: the start and the end of each evaluation are written to the file in VITAB_TRACE.

Worker processes are started with this module as their main module, so their evaluations are traced too.
"""

import os
import time
from pathlib import Path
from typing import Any

from ablations.cli import app
from ablations.execution import evaluation
from ablations.storage import EvaluationStore

_measure, _write = evaluation.measure, EvaluationStore.write_evaluation


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


if __name__ in ("__main__", "__mp_main__"):  # but not where the module is imported to read traces
    evaluation.measure = measure
    EvaluationStore.write_evaluation = write_evaluation

if __name__ == "__main__":
    app()
