"""Queue of the runs that this process still has to execute, some of which other processes may be training."""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, replace

from ablations.config import count
from ablations.errors import VitabError
from ablations.execution.lease import Lease, LeaseManager
from ablations.execution.stacking import shape, without_seed
from ablations.execution.tasks import ExecutionSettings, Listener, RunOutcome, Task, TransientFailure, finished_from
from ablations.storage import Store

POLL_INTERVAL = 0.25
"""Seconds between two checks of runs that other processes train."""
MAX_CHECKS = 64
"""Leased runs examined per call of `next_free`."""
MAX_EXPIRED = 3
"""Expired leases in a row, by a hang or a lost machine, after which a run counts as failed."""


class RunQueue:
    """Queue that claims free runs in order and reports runs that ended, here or in another process."""

    def __init__(self, tasks: Iterable[Task], settings: ExecutionSettings, listener: Listener) -> None:
        self._tasks = deque(tasks)
        self._store, self._listener = Store(settings.runs), listener
        self._leases = LeaseManager(settings.lease_timeout)
        self._last_reported = 0
        self._retried: set[str] = set()  # keys of runs with a transient failure

    def __len__(self) -> int:
        return len(self._tasks)

    def next_free(self) -> Task | None:
        """Remove the next free run from the queue and return it; None when none is free now."""
        leased = 0
        while leased < min(MAX_CHECKS, len(self._tasks)):
            task = self._tasks.popleft()
            if self._ended_elsewhere(task):
                continue
            if self._leases.is_free(self._store.folder(task.key)):
                return task
            self._tasks.append(task)
            leased += 1
        return None

    def claim(self, task: Task, pid: int) -> Lease | None:
        """Claim the run for a process of this machine; None when that failed.

        The run returns to the queue when another process claimed it first.
        """
        lease = self._leases.acquire(self._store.folder(task.key), pid)
        if lease is not None and task.evaluation is not None:
            lease.update(**asdict(task.evaluation))  # for `vitab status`
        if lease is None:
            self._tasks.append(task)
        elif self._ended_elsewhere(task):  # between `next_free` and this call
            lease.release()
            return None
        elif lease.expired >= MAX_EXPIRED:
            reason = f"{count(lease.expired, 'lease')} in a row expired before the end of an epoch"
            self._store.fail(task.key, task.config, reason, attempt=lease.number)
            lease.release()
            self._listener.failed(task, reason)
            return None
        return lease

    def claim_stack(self, pid: int) -> dict[Task, Lease]:
        """Claim a free run and others that can be trained as one model with it.

        Returns an empty dictionary, and reports the runs of other processes, when no run is free now.
        """
        while (task := self.next_free()) is not None:
            if (lease := self.claim(task, pid)) is not None:
                return {task: lease} | self.claim_stackable(task, pid, task.stack - 1)
        self.report_waiting()
        return {}

    def claim_stackable(self, task: Task, pid: int, limit: int) -> dict[Task, Lease]:
        """Claim up to `limit` free runs that can be trained as one model with `task`, runs of its arm first."""
        if limit < 1:
            return {}
        stackable = [other for other in self._tasks if other.stack > 1 and shape(other.config) == shape(task.config)]
        stackable.sort(key=lambda other: without_seed(other.config) != without_seed(task.config))
        claimed: dict[Task, Lease] = {}
        for other in stackable:
            if len(claimed) == limit:
                break
            self._tasks.remove(other)
            if self._ended_elsewhere(other):
                continue
            if not self._leases.is_free(self._store.folder(other.key)):
                self._tasks.append(other)
            elif (lease := self.claim(other, pid)) is not None:
                claimed[other] = lease
        return claimed

    def report_waiting(self) -> None:
        """Report that only runs of other processes are left, whenever their number has changed."""
        if self._tasks and len(self._tasks) != self._last_reported:
            self._last_reported = len(self._tasks)
            self._listener.waiting(self._last_reported)

    def finish(self, task: Task, lease: Lease, outcome: RunOutcome) -> None:
        """Release the lease of a run and report the outcome."""
        if isinstance(outcome, TransientFailure):
            self.retry_or_fail(task, lease, outcome)
            return
        lease.release()
        if outcome is None:
            self.requeue(task)
        elif isinstance(outcome, str):
            self._listener.failed(task, outcome)
        else:
            self._listener.finished(task, outcome)

    def retry_or_fail(self, task: Task, lease: Lease, failure: TransientFailure, *, retry: bool = True) -> None:
        """Release the lease of a run and requeue it; fail the run instead if not `retry`, or the second time."""
        if task.key in self._retried or not retry:
            self._store.fail(task.key, task.config, failure.reason, failure.details, lease.number)
            lease.release()
            self._listener.failed(task, failure.reason)
            return
        lease.release()
        self._retried.add(task.key)
        self.requeue(replace(task, stack=1))  # alone, so that a second crash affects no other run
        self._listener.retrying(task, failure.reason)

    def requeue(self, task: Task) -> None:
        """Append an unfinished run to the queue."""
        self._tasks.append(task)

    def _ended_elsewhere(self, task: Task) -> bool:
        if self._store.done(task.key, task.replaces):
            try:
                result = self._store.result(task.key)
            except VitabError as error:
                self._listener.failed(task, str(error))
            else:
                self._listener.finished_elsewhere(task, finished_from(result))
            return True
        if self._store.failed_attempt(task.key) > task.failed_before:
            reason = self._store.failure(task.key) or "no reason recorded"
            self._listener.failed(task, f"{reason} (in another process)")
            return True
        return False
