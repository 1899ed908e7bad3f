"""The runs that a process still has to do, while others may be at some of them."""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from ablations.errors import VitabError
from ablations.execution.lease import Lease, LeaseManager
from ablations.execution.stacking import shape, without_seed
from ablations.execution.tasks import ExecutionSettings, Finished, Listener, RunOutcome, Task, TransientFailure
from ablations.storage import Store

PAUSE = 0.25
"""Seconds between two looks at runs that other processes are at."""
LOOKS = 64
"""Runs of others that one look goes through."""
SILENT = 3
"""LeaseManager in a row that may fall silent, by hanging or with their machine, before a run counts as failed."""


class RunQueue:
    """Hands out runs that are free, in order, and tells of those that have ended, here or elsewhere."""

    def __init__(self, tasks: Iterable[Task], setting: ExecutionSettings, listener: Listener) -> None:
        self._tasks = deque(tasks)
        self._store, self._listener = Store(setting.runs), listener
        self._attempts = LeaseManager(setting.expiry)
        self._told = 0
        self._cut_short: set[str] = set()  # keys of the runs that were cut short once

    def __len__(self) -> int:
        return len(self._tasks)

    def next(self) -> Task | None:
        """A run that is free, which leaves the queue; None when there is none just now."""
        busy = 0
        while busy < min(LOOKS, len(self._tasks)):
            task = self._tasks.popleft()
            if self._ended_elsewhere(task):
                continue
            if self._attempts.free(self._store.folder(task.key)):
                return task
            self._tasks.append(task)
            busy += 1
        return None

    def claim(self, task: Task, pid: int) -> Lease | None:
        """The run for a process of this machine; None, and back into the queue, when another was faster."""
        attempt = self._attempts.take(self._store.folder(task.key), pid)
        if attempt is None:
            self._tasks.append(task)
        elif self._ended_elsewhere(task):  # between the look and the claim
            attempt.release()
            return None
        elif attempt.expired >= SILENT:
            reason = f"{attempt.expired} attempts in a row gave no sign of life, and none came to the end of an epoch"
            self._store.fail(task.key, task.config, reason, attempt=attempt.number)
            attempt.release()
            self._listener.failed(task, reason)
            return None
        return attempt

    def take(self, pid: int) -> dict[Task, Lease]:
        """A free run with the attempt at it, and others that can be trained as one model with it.

        Empty when there is none just now, of which people are told.
        """
        while (task := self.next()) is not None:
            if (attempt := self.claim(task, pid)) is not None:
                return {task: attempt} | self.claim_stackable(task, pid, task.stack - 1)
        self.say_waiting()
        return {}

    def claim_stackable(self, task: Task, pid: int, count: int) -> dict[Task, Lease]:
        """Up to so many free runs that can be trained as one model with this one; those of its arm first."""
        if count < 1:
            return {}
        alike = [other for other in self._tasks if other.stack > 1 and shape(other.config) == shape(task.config)]
        alike.sort(key=lambda other: without_seed(other.config) != without_seed(task.config))
        claimed: dict[Task, Lease] = {}
        for other in alike:
            if len(claimed) == count:
                break
            self._tasks.remove(other)
            if self._ended_elsewhere(other):
                continue
            if not self._attempts.free(self._store.folder(other.key)):
                self._tasks.append(other)
            elif (attempt := self.claim(other, pid)) is not None:
                claimed[other] = attempt
        return claimed

    def say_waiting(self) -> None:
        """Tell that only runs of other processes are left, once for each number of them."""
        if self._tasks and len(self._tasks) != self._told:
            self._told = len(self._tasks)
            self._listener.waiting(self._told)

    def ended(self, task: Task, attempt: Lease, outcome: RunOutcome) -> None:
        """Let go of a run of this process, and tell how it ended."""
        if isinstance(outcome, TransientFailure):
            self.transient_failure(task, attempt, outcome)
            return
        attempt.release()
        if outcome is None:
            self.put_back(task)
        elif isinstance(outcome, str):
            self._listener.failed(task, outcome)
        else:
            self._listener.finished(task, outcome)

    def transient_failure(self, task: Task, attempt: Lease, cut: TransientFailure, *, again: bool = True) -> None:
        """Let go of a run that something else has ended, to try it once more if `again`, and not for ever."""
        if task.key in self._cut_short or not again:
            self._store.fail(task.key, task.config, cut.reason, cut.details, attempt.number)
            attempt.release()
            self._listener.failed(task, cut.reason)
            return
        attempt.release()
        self._cut_short.add(task.key)
        self.put_back(replace(task, stack=1))  # one that takes its process along takes no other again
        self._listener.again(task, cut.reason)

    def put_back(self, task: Task) -> None:
        """The run was not ended; it is looked at again after the others."""
        self._tasks.append(task)

    def _ended_elsewhere(self, task: Task) -> bool:
        if self._store.done(task.key):
            try:
                result = self._store.result(task.key)
            except VitabError as error:
                self._listener.failed(task, str(error))
            else:
                names = ("test_accuracy", "validation_accuracy", "seconds")
                self._listener.elsewhere(task, Finished(*(float(result[name]) for name in names)))
            return True
        if self._store.failed_attempt(task.key) > task.failed_before:
            reason = self._store.failure(task.key) or "no reason given"
            self._listener.failed(task, f"{reason} (in another process)")
            return True
        return False
