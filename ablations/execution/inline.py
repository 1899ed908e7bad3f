"""Runs carried out in this very process, one stack after another."""

import os
import time
from collections.abc import Callable, Sequence

from ablations.execution.lease import Lease
from ablations.execution.queue import PAUSE, RunQueue
from ablations.execution.stacking import execute_stack
from ablations.execution.tasks import ExecutionSettings, Job, Listener, RunOutcome, Task
from ablations.execution.worker import train_and_store


def run_inline(
    tasks: Sequence[Task],
    setting: ExecutionSettings,
    listener: Listener,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Carry out the runs one after another, those that no other process is at first."""
    waiting = RunQueue(tasks, setting, listener)
    held: dict[Task, Lease] = {}

    def end(task: Task, outcome: RunOutcome) -> None:
        attempt = held.pop(task)
        waiting.ended(task, attempt, outcome)

    try:
        while True:
            held |= waiting.take(os.getpid())
            if stop():
                raise KeyboardInterrupt
            if not held and not waiting:
                return
            if not held:
                time.sleep(PAUSE)
                continue
            for task in held:
                listener.started(task)
            execute_stack(list(held.items()), setting, job, epoch=listener.epoch, end=end, stop=stop, say=listener.note)
    finally:
        for attempt in held.values():
            attempt.release()
