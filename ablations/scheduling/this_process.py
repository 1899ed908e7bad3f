"""Runs carried out in this very process, one stack after another."""

import os
import time
from collections.abc import Callable, Sequence

from ablations.scheduling.attempts import Attempt
from ablations.scheduling.stacks import carry_out_together
from ablations.scheduling.waiting import PAUSE, Waiting
from ablations.scheduling.workers import Job, Listener, Outcome, Setting, Task, train_and_store


def in_this_process(
    tasks: Sequence[Task],
    setting: Setting,
    listener: Listener,
    job: Job = train_and_store,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Carry out the runs one after another, those that no other process is at first."""
    waiting = Waiting(tasks, setting, listener)
    held: dict[Task, Attempt] = {}

    def end(task: Task, outcome: Outcome) -> None:
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
            carry_out_together(
                list(held.items()), setting, job, epoch=listener.epoch, end=end, stop=stop, say=listener.note
            )
    finally:
        for attempt in held.values():
            attempt.release()
