"""Store: the folder of runs and studies.

::

    runs/<first 16 characters of the key>/
        config.json  environment.json  metrics.csv  predictions.npz  checkpoint.safetensors  result.json
        mistakes.npz    absent in runs of older versions
        DONE.json       written last: the key and the SHA-256 of every other file
        failure.json    instead, when the run failed: the reason and the traceback
    runs/studies/<study>.json   the plan, with a checksum of its own

A reader sees all of a file or none of it (`ablations.storage.files`). A run is finished when its DONE.json names its
key; all other files that a killed process leaves in its folder are overwritten by the next attempt. One process at a
time writes a run; any number may read.
"""

import contextlib
import csv
import hashlib
import io
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ablations.config import RunConfig
from ablations.errors import TakenOverError, UsageError, VitabError
from ablations.storage.files import file_sha256, read_json, remove_leftovers, storage_errors, to_json, write_file
from ablations.storage.study_plan import StudyPlan

if TYPE_CHECKING:
    from ablations.data.preprocessing import Preprocessing
    from ablations.storage.records import RunRecord, TrainingRecord
    from vit import ViTConfig

FILES = (
    "config.json",
    "environment.json",
    "metrics.csv",
    "predictions.npz",
    "checkpoint.safetensors",
    "result.json",
)
LATER_FILES = ("mistakes.npz",)
METRICS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "validation_loss",
    "validation_accuracy",
    "seconds",
    "images_per_s",
)
RESULT = (
    "test_accuracy",
    "test_loss",
    "validation_accuracy",
    "parameters",
    "flops",
    "train_seconds",
    "seconds",
)

STALE = 3600.0
"""Seconds after which a temporary file of a plan is stale, by the clock of the file system."""

Held = Callable[[], bool]
"""Returns whether this process still holds the lease of a run."""


class Store:
    """The runs and studies under one folder."""

    files: ClassVar[tuple[str, ...]] = FILES
    """Names of the files of a run, besides DONE.json."""
    later_files: ClassVar[tuple[str, ...]] = LATER_FILES
    """Names of files that runs of older versions do not have."""
    repeat: ClassVar[str] = "run the study again"
    """How a damaged run is repaired, after its folder was deleted."""
    has_studies: ClassVar[bool] = True
    """Whether the folder has plans of studies."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        """Return the folder of a run."""
        return self.root / key[:16]

    def snapshot(self, key: str) -> Path:
        """Return the path of the checkpoint of an unfinished run."""
        return self.folder(key) / "resume.bin"

    def check_writable(self) -> None:
        """Create the folder. Raises UsageError if it is not writable."""
        try:
            (self.root / "studies" if self.has_studies else self.root).mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe.{secrets.token_hex(8)}"
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink(missing_ok=True)
            for path in (self.root / "studies").glob(".*.tmp"):
                if now - path.stat().st_mtime > STALE:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to --runs {self.root}: {error.strerror or error}") from error

    def tidy(self, keys: Iterable[str]) -> None:
        """Remove files that finished runs no longer need and that a killed process has left."""
        with contextlib.suppress(OSError):
            for key in keys:
                (self.folder(key) / "failure.json").unlink(missing_ok=True)
                self.snapshot(key).unlink(missing_ok=True)

    # -- runs --

    def done(self, key: str, replaces: str | None = None) -> bool:
        """Return whether the run is finished, with another result than that with the digest `replaces`."""
        return self.result_digest(key) not in (None, replaces)

    def result_digest(self, key: str) -> str | None:
        """Return the SHA-256 of a finished run's checksums, which identifies this result; None if not finished."""
        sums = self._manifest(key)
        return None if sums is None else _checksum(sums)

    def write(
        self,
        key: str,
        record: "RunRecord",
        environment: dict[str, Any],
        model: "ViTConfig",
        held: Held = lambda: True,
        replaces: str | None = None,
        mistakes: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write a finished run, DONE.json last, in place of the result with the digest `replaces` if there is one.

        The metadata of the checkpoint tell how the model is used: key, configuration, preprocessing, version.
        `mistakes` are the test images that it is most confidently wrong about, as the method of this name returns them.
        Raises StorageError, and TakenOverError if the run is no longer `held` or has another result.
        """
        from ablations.storage.model_facts import model_facts
        from vit import checkpoint

        facts = model_facts(key, record.config, record.preprocessing)
        metadata = {"vitab": json.dumps(facts)}  # safetensors shuffles several entries
        result = {name: plain_number(getattr(record, name)) for name in RESULT} | {"key": key}
        if record.diverged is not None:
            result["diverged"] = record.diverged
        contents = {
            "config.json": to_json(facts["config"]),
            "environment.json": to_json(environment),
            "metrics.csv": metrics_csv(record),
            "predictions.npz": npz_bytes(record.predictions),
            "checkpoint.safetensors": checkpoint.to_bytes(record.state, model, metadata),
            "result.json": to_json(result),
        }
        if mistakes is not None:
            contents["mistakes.npz"] = npz_bytes(mistakes)
        self._put(key, contents, held, replaces)

    def contents(self, key: str) -> tuple[dict[str, bytes], dict[str, str]]:
        """Return the files of a finished run except DONE.json, and their checksums. Raises VitabError if damaged."""
        sums = self._manifest(key) or {}
        return {name: self._checked(key, name) for name in sums}, sums

    def receive(
        self,
        key: str,
        contents: dict[str, bytes],
        sums: dict[str, str],
        held: Held = lambda: True,
        replaces: str | None = None,
    ) -> None:
        """Write a run that was finished in another store, otherwise as `write`.

        Raises VitabError, and writes nothing, if it is damaged.
        """
        names = (*self.files, *(name for name in self.later_files if name in sums))
        for name in names:
            if hashlib.sha256(contents.get(name, b"")).hexdigest() != sums.get(name):
                raise VitabError(f"{name} of run {key[:16]} does not match its checksum")
        self._put(key, {name: contents[name] for name in names}, held, replaces)

    def fail(self, key: str, config: RunConfig, error: str, details: str = "", attempt: int = 0) -> None:
        """Record why a run failed: one line, and the traceback if there is one. A finished run keeps its result."""
        if self.done(key):
            return
        folder = self._fresh(key)
        reason: dict[str, Any] = {"key": key, "config": config.canonical(), "error": error, "details": details}
        reason["attempt"] = attempt
        reason["time"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with storage_errors(f"cannot write the failure of run {key[:16]} to {self.root}"):
            write_file(folder / "failure.json", to_json(reason))

    def failure(self, key: str) -> str | None:
        """Return why the run failed last, in one line; None if it is finished or has not failed."""
        reason = read_json(self.folder(key) / "failure.json")
        if not isinstance(reason, dict) or reason.get("key") != key or self.done(key):
            return None
        return str(reason.get("error", "no reason given"))

    def failed_attempt(self, key: str) -> int:
        """Return the number of the attempt that failed, 0 if none has."""
        reason = read_json(self.folder(key) / "failure.json")
        number = reason.get("attempt") if isinstance(reason, dict) and reason.get("key") == key else None
        return number if isinstance(number, int) else 0

    def verify(self, key: str) -> list[str]:
        """Return the files of a run that are missing or damaged; empty for an intact finished run."""
        sums = self._manifest(key)
        if sums is None:
            return ["DONE.json"]
        return [name for name, digest in sums.items() if file_sha256(self.folder(key) / name) != digest]

    def result(self, key: str) -> dict[str, Any]:
        """Return the result.json of a finished run: the numbers of RESULT, and the epoch `diverged` if it diverged."""
        return dict(json.loads(self._checked(key, "result.json")))

    def diverged(self, keys: Iterable[str]) -> list[str]:
        """Return those of the finished runs that diverged. A damaged run counts as none of them."""
        results = {key: read_json(self.folder(key) / "result.json") for key in keys if self.done(key)}
        return [key for key, result in results.items() if isinstance(result, dict) and result.get("diverged")]

    def metrics(self, key: str) -> list[dict[str, float]]:
        """Return the epochs of a finished run, one mapping per epoch, with the columns of METRICS."""
        rows = csv.DictReader(io.StringIO(self._checked(key, "metrics.csv").decode()))
        return [{name: float(value) for name, value in row.items()} for row in rows]

    def environment(self, key: str) -> dict[str, Any]:
        """Return the environment.json of a finished run."""
        return dict(json.loads(self._checked(key, "environment.json")))

    def predictions(self, key: str) -> dict[str, np.ndarray]:
        """Return labels (n,), predicted (n,) and probabilities (n, C) of the test examples of a finished run."""
        return self._arrays(key, "predictions.npz")

    def mistakes(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the test images that a finished run is most confidently wrong about, the most confident first.

        `image` (k,) are their indices among the test images, `pixels` (k, h, w, c) uint8. None for a run of an older
        version.
        """
        return self._arrays(key, "mistakes.npz") if "mistakes.npz" in (self._manifest(key) or {}) else None

    def checkpoint(self, key: str) -> dict[str, np.ndarray]:
        """Return the weights of a finished run, with the names and layouts of ViT.state_dict."""
        return self._load_checkpoint(key)[0]

    def preprocessing(self, key: str) -> "Preprocessing | None":
        """Return the preprocessing in the checkpoint of a finished run; None in one of an older version."""
        from ablations.data.preprocessing import Preprocessing

        plain = json.loads(self._load_checkpoint(key)[1].get("vitab", "{}")).get("preprocessing")
        return None if plain is None else Preprocessing.from_plain(plain)

    def _load_checkpoint(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Return the arrays and the metadata of the checkpoint of a finished run."""
        from vit import checkpoint

        self._checked(key, "checkpoint.safetensors")
        return checkpoint.load(self.folder(key) / "checkpoint.safetensors")

    # -- studies --

    def write_study(self, plan: StudyPlan) -> None:
        """Write a plan, replacing an earlier one of the same name."""
        with storage_errors(f"cannot write study {plan.study} to {self.root}"):
            (self.root / "studies").mkdir(parents=True, exist_ok=True)
            plain = plan.to_plain()
            write_file(self.root / "studies" / f"{plan.study}.json", to_json(plain | {"sha256": _checksum(plain)}))

    def read_study(self, name: str) -> StudyPlan:
        """Return the plan of a study. Raises UsageError if there is none or it is damaged."""
        path = self.root / "studies" / f"{name}.json"
        if name not in self.studies():
            raise UsageError(f"no study {name!r} in {self.root}; {self.describe_studies()}")
        try:
            plain = json.loads(path.read_bytes())
            if plain.pop("sha256", None) != _checksum(plain) or plain["study"] != name:
                raise ValueError("checksum mismatch; it may be from an older version")
            return StudyPlan.from_plain(plain)
        except OSError as error:
            raise UsageError(f"cannot read the plan {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
            raise UsageError(f"the plan {path} is damaged ({error}); run the study again to rewrite it") from error

    def plan_differs(self, plan: StudyPlan) -> bool:
        """Return whether the stored study of this name has other runs."""
        written = read_json(self.root / "studies" / f"{plan.study}.json")
        if not isinstance(written, dict):
            return False
        if plan.tuning is not None or (written.get("design") and plan.design):  # it grows
            last = max((trial.round for trial in plan.trials), default=0)
            before = {trial["key"] for trial in written.get("trials", ()) if trial["round"] <= last}
            before |= set() if plan.searching else {*written.get("keys", ())}
            return not before <= {*plan.keys, *(trial.key for trial in plan.trials)}
        return written.get("keys") != list(plan.keys)

    def studies(self) -> list[str]:
        """Return the names of the planned studies, the last planned first."""
        try:
            paths = [(path.stat().st_mtime_ns, path.stem) for path in (self.root / "studies").glob("*.json")]
        except OSError:
            return []
        return [name for _, name in sorted(paths, reverse=True)]

    def describe_studies(self) -> str:
        """Return a clause for messages that lists the studies."""
        names = self.studies()
        if not names:
            return f"there are no studies in {self.root} yet: start one with `vitab run --grid rope`"
        return f"studies there: {', '.join(names)}"

    # -- inside --

    def _put(self, key: str, contents: dict[str, bytes], held: Held, replaces: str | None = None) -> None:
        """Write all files of a run that is not finished yet or whose result is to be replaced, DONE.json last.

        A process that was suspended must not change what the next owner of the run has written, so `held` is
        called directly before each file appears.
        """

        def check() -> None:
            if not held() or self.done(key, replaces):
                raise TakenOverError

        check()
        folder = self._fresh(key)
        with storage_errors(f"cannot write run {key[:16]} to {self.root}"):
            try:
                sums = {name: write_file(folder / name, content, check) for name, content in contents.items()}
                write_file(folder / "DONE.json", to_json({"key": key, "sha256": sums}), check)
            except OSError:
                check()  # the next owner may have removed what this one was writing
                raise
        self.tidy([key])

    def _manifest(self, key: str) -> dict[str, str] | None:
        """Return the checksums of a finished run by file name."""
        done = read_json(self.folder(key) / "DONE.json")
        if not isinstance(done, dict) or done.get("key") != key or not isinstance(done.get("sha256"), dict):
            return None
        return dict(done["sha256"])

    def _checked(self, key: str, name: str) -> bytes:
        path = self.folder(key) / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise VitabError(f"cannot read {path}: {error.strerror or error}") from error
        if hashlib.sha256(content).hexdigest() != (self._manifest(key) or {}).get(name):
            raise VitabError(f"{path} is damaged: delete {path.parent} and {self.repeat}")
        return content

    def _arrays(self, key: str, name: str) -> dict[str, np.ndarray]:
        """Return the arrays in an .npz file of a finished run."""
        with np.load(io.BytesIO(self._checked(key, name))) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def _fresh(self, key: str) -> Path:
        """Return the folder of a run, without DONE.json and without temporary files of killed attempts."""
        folder = self.folder(key)
        with storage_errors(f"cannot create the folder of run {key[:16]} in {self.root}"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "DONE.json").unlink(missing_ok=True)
            remove_leftovers(folder)
        return folder


def _checksum(plain: dict[str, Any]) -> str:
    """Return the SHA-256 of plain values as JSON."""
    return hashlib.sha256(to_json(plain)).hexdigest()


def metrics_csv(record: "TrainingRecord") -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(METRICS)
    for metrics in record.metrics:
        row = asdict(metrics)
        table.writerow([repr(plain_number(row[name])) for name in METRICS])
    return text.getvalue().encode()


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a compressed .npz file."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


def plain_number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
