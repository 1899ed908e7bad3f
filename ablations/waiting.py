"""The runs that a process still has to do, while others may be at some of them."""

from collections import deque
from collections.abc import Iterable

from ablations.attempts import Attempt, Attempts
from ablations.errors import VitabError
from ablations.stacks import but_seed, shape
from ablations.store import Store
from ablations.workers import Finished, Listener, Setting, Task

PAUSE = 0.25
"""Seconds between two looks at runs that other processes are at."""
LOOKS = 64
"""Runs of others that one look goes through."""


class Waiting:
    """Hands out runs that are free, in order, and tells of those that other processes have ended."""

    def __init__(self, tasks: Iterable[Task], setting: Setting, listener: Listener) -> None:
        self._tasks = deque(tasks)
        self._store, self._listener = Store(setting.runs), listener
        self._attempts = Attempts(setting.expiry)
        self._told = 0

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

    def claim(self, task: Task, pid: int) -> Attempt | None:
        """The run for a process of this machine; None, and back into the queue, when another was faster."""
        attempt = self._attempts.take(self._store.folder(task.key), pid)
        if attempt is None:
            self._tasks.append(task)
        elif self._ended_elsewhere(task):  # between the look and the claim
            attempt.release()
            return None
        return attempt

    def take(self, pid: int) -> dict[Task, Attempt]:
        """A free run with the attempt at it, and others that can be trained as one model with it.

        Empty when there is none just now, of which people are told.
        """
        while (task := self.next()) is not None:
            if (attempt := self.claim(task, pid)) is not None:
                return {task: attempt} | self.claim_alike(task, pid, task.stack - 1)
        self.say_waiting()
        return {}

    def claim_alike(self, task: Task, pid: int, count: int) -> dict[Task, Attempt]:
        """Up to so many free runs that can be trained as one model with this one; those of its arm first."""
        if count < 1:
            return {}
        alike = [other for other in self._tasks if other.stack > 1 and shape(other.config) == shape(task.config)]
        alike.sort(key=lambda other: but_seed(other.config) != but_seed(task.config))
        claimed: dict[Task, Attempt] = {}
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
