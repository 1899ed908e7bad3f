"""Evaluations of finished runs on disk, one folder each, in a folder beside the runs.

::

    runs/evaluations/<first 16 characters of the key>/
        config.json  environment.json  result.json  arrays.npz  DONE.json

They are claimed, written and verified as runs are (`ablations.storage.store`), and never touch the folder of a run.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ablations.config import RunConfig
from ablations.storage.files import read_json, to_json
from ablations.storage.store import Held, Store, npz_bytes

FOLDER = "evaluations"
FILES = ("config.json", "environment.json", "result.json", "arrays.npz")


class EvaluationStore(Store):
    """The evaluations of the runs in a folder."""

    files: ClassVar[tuple[str, ...]] = FILES
    later_files: ClassVar[tuple[str, ...]] = ()
    repeat: ClassVar[str] = "evaluate the study again"
    has_studies: ClassVar[bool] = False

    @classmethod
    def beside(cls, runs: Store) -> "EvaluationStore":
        """Return the evaluations of the runs of a store."""
        return cls(runs.root / FOLDER)

    @property
    def runs(self) -> Store:
        """The store of the runs that are evaluated."""
        return Store(self.root.parent)

    def write_evaluation(
        self,
        key: str,
        config: RunConfig,
        result: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        environment: Mapping[str, Any],
        held: Held = lambda: True,
        replaces: str | None = None,
    ) -> None:
        """Write a finished evaluation, DONE.json last. Raises as `Store.write`."""
        contents = {
            "config.json": to_json(config.canonical()),
            "environment.json": to_json(dict(environment)),
            "result.json": to_json({**result, "key": key}),
            "arrays.npz": npz_bytes(dict(arrays)),
        }
        self._put(key, contents, held, replaces)

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """Return the arrays of a finished evaluation."""
        return self._arrays(key, "arrays.npz")

    def finished(self, runs: Iterable[str], *, verify: bool = True) -> dict[str, dict[str, Any]]:
        """Return the results of all finished evaluations of these runs, by key.

        Raises VitabError if one of them, or one of an unknown run, is damaged, unless `verify` is false.
        """
        wanted, found = set(runs), {}
        for path in sorted(Path(self.root).glob("*/DONE.json")):
            done = read_json(path)
            key = done.get("key") if isinstance(done, dict) else None
            if not isinstance(key, str) or self.folder(key) != path.parent or not self.done(key):
                continue
            result = read_json(path.parent / "result.json")
            run = result.get("run") if isinstance(result, dict) else None
            if run in wanted or run is None:
                checked = self.result(key) if verify else result
                if run is not None:
                    found[key] = dict(checked or {})
        return found

    def is_of_current_run(self, result: Mapping[str, Any]) -> bool:
        """Return whether the run still has the result that was evaluated: it may have been trained again."""
        return result.get("run_result") in (None, self.runs.result_digest(str(result["run"])))
