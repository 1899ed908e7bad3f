"""Copy of runs in a tracker: what it has of them, what it lacks, and when a copy must be made anew."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ablations.storage import Store, read_json, to_json, write_file
from ablations.tracking.tracker import TrackedRun, Tracker


class Mirror:
    """Copies runs of a store to a tracker, each epoch once.

    A file beside the copies, the record of a run, says what the tracker has of it::

        <folder>/vitab/<study>/<first 16 characters of the key>.json
            where   the place in the tracker, with . for the folder
            epochs  number of epochs
            result  digest of the result, by `Store.result_digest`; absent until the run is finished

    It is removed when the run is opened, and written when it was closed, unless it failed. So a run without a record,
    which a killed process may have left in part, is copied anew; and so is one whose result was replaced, or which is
    elsewhere.
    """

    def __init__(self, tracker: Tracker, store: Store, folder: Path) -> None:
        self.tracker, self.store, self.folder = tracker, store, folder
        self.where = tracker.where.replace(str(folder), ".")
        self.open: dict[str, TrackedRun] = {}
        """Runs in progress by key."""
        self.epochs: dict[str, int] = {}
        """Number of epochs of each that the tracker has."""

    def start(self, run: TrackedRun) -> None:
        """Open a run that is being trained, or is finished. Nothing happens if it is open: then it was retried."""
        if run.key in self.open:
            return
        record = self._record(run)
        stopped = record is not None and "result" not in record
        self._path(run).unlink(missing_ok=True)
        kept = self.tracker.start_run(run, resume=stopped)
        self.open[run.key] = run
        self.epochs[run.key] = record["epochs"] if record is not None and kept else 0

    def epoch(self, run: TrackedRun, metrics: Mapping[str, float]) -> None:
        """Copy an epoch, unless the tracker has it or lacks one before it; `finish` adds what is lacking."""
        if run.key in self.open and metrics["epoch"] == self.epochs[run.key] + 1:
            self.tracker.log(run, [metrics])
            self.epochs[run.key] += 1

    def finish(self, run: TrackedRun) -> bool:
        """Copy what the tracker lacks of a finished run, and return whether that was anything."""
        if self.is_copied(run):
            return False
        digest = self.store.result_digest(run.key)
        epochs, result = self.store.metrics(run.key), self.store.result(run.key)
        self.start(run)
        if lacking := [row | {"epoch": int(row["epoch"])} for row in epochs[self.epochs[run.key] :]]:
            self.tracker.log(run, lacking)
        results = {f"result/{name}": value for name, value in result.items() if isinstance(value, int | float)}
        self.tracker.finish(run, len(epochs), results)
        self._close(run, {"epochs": len(epochs), "result": digest})
        return True

    def fail(self, run: TrackedRun, reason: str | None) -> None:
        """Close an open run that failed, or without a reason was interrupted."""
        if run.key in self.open:
            self.tracker.stop(run, reason)
            taken_over = self._record(run) is not None  # and copied by another process
            self._close(run, None if reason or taken_over else {"epochs": self.epochs[run.key]})

    def report(self, folder: Path) -> None:
        """Copy the report of the study."""
        self.tracker.report(folder)

    def is_copied(self, run: TrackedRun) -> bool:
        """Return whether the tracker has the present result of a run."""
        return (self._record(run) or {}).get("result", "") == self.store.result_digest(run.key)

    def lacking(self, runs: Iterable[TrackedRun]) -> int:
        """Return how many of the runs are finished and not copied."""
        return sum(self.store.done(run.key) and not self.is_copied(run) for run in runs)

    def close(self) -> dict[str, str]:
        """Close the runs in progress, as interrupted. Return where the copies are, and what to do with them."""
        for run in list(self.open.values()):
            self.fail(run, None)
        return {"where": self.tracker.where, "next_step": self.tracker.next_step}

    def _close(self, run: TrackedRun, record: dict[str, Any] | None) -> None:
        del self.open[run.key], self.epochs[run.key]
        if record is not None:
            self._path(run).parent.mkdir(parents=True, exist_ok=True)
            write_file(self._path(run), to_json({"where": self.where} | record))

    def _record(self, run: TrackedRun) -> dict[str, Any] | None:
        """Return the record of a run in this place; None if there is none."""
        record = read_json(self._path(run))
        return record if isinstance(record, dict) and record.get("where") == self.where else None

    def _path(self, run: TrackedRun) -> Path:
        return self.folder / "vitab" / run.study / f"{run.key[:16]}.json"
