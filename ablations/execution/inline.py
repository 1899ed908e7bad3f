"""Execution of runs in the calling process, one stack after another."""

import os
import time
from collections.abc import Callable, Sequence

from ablations.execution.lease import Lease
from ablations.execution.queue import POLL_INTERVAL, RunQueue
from ablations.execution.stacking import execute_stack
from ablations.execution.tasks import ExecutionSettings, Job, Listener, RunOutcome, Task
from ablations.execution.worker import train_and_store


def run_inline(
    tasks: Sequence[Task],
    settings: ExecutionSettings,
    listener: Listener,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Execute the runs in order, runs leased by other processes last.

    Raises KeyboardInterrupt, after the checkpoints are saved, when `stop` returns True.
    """
    queue = RunQueue(tasks, settings, listener)
    leases: dict[Task, Lease] = {}

    def on_end(task: Task, outcome: RunOutcome) -> None:
        queue.finish(task, leases.pop(task), outcome)

    try:
        while True:
            leases |= queue.claim_stack(os.getpid())
            if stop():
                raise KeyboardInterrupt
            if not leases and not queue:
                return
            if not leases:
                time.sleep(POLL_INTERVAL)
                continue
            for task in leases:
                listener.started(task)
            execute_stack(
                list(leases.items()),
                settings,
                job,
                epoch=listener.epoch,
                on_end=on_end,
                stop=stop,
                log=listener.note,
            )
    finally:
        for lease in leases.values():
            lease.release()
