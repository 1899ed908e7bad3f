"""Weights & Biases: a run per run, in the group of the study; offline unless WANDB_MODE says otherwise."""

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from ablations.tracking.tracker import TrackedRun, Tracker, without_credentials

TAG_LENGTH = 64
"""Maximum length of a tag."""
SETTINGS = {"console": "off", "silent": True, "disable_git": True, "disable_code": True, "x_disable_stats": True}
"""This process is not the one that trains: what it prints, and how busy it is, says nothing about the run."""


class WeightsAndBiases(Tracker):
    """Writes offline runs to <folder>/wandb, which `wandb sync` uploads; with WANDB_MODE=online, to the server.

    WANDB_PROJECT, by default vitab, and the other variables of W&B are respected. The id of a run has the study and its
    key. An offline run cannot be resumed: one that was stopped is written anew. An online run can; but W&B does not
    replace what it has, so a run whose result was replaced keeps its epochs.
    """

    def __init__(self, folder: Path, study: str) -> None:
        for name, part in {"WANDB_DIR": ".", "WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data"}.items():
            os.environ.setdefault(name, str(folder.resolve() / part))
        self.online = os.environ.setdefault("WANDB_MODE", "offline") in ("online", "shared")
        self.project = os.environ.get("WANDB_PROJECT", "vitab")
        self.folder = Path(os.environ["WANDB_DIR"]) / "wandb"
        self.study, self.runs = study, dict[str, Any]()
        if self.online:
            address = without_credentials(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
            entity = os.environ.get("WANDB_ENTITY")
            self.where = f"project {f'{entity}/' if entity else ''}{self.project} at {address}"
            self.next_step = ""
        else:
            shown = folder if self.folder == folder.resolve() / "wandb" else self.folder.parent
            self.where = f"offline runs in {shown}/wandb"
            self.next_step = f"to upload: wandb sync {shlex.quote(str(shown))}/wandb/offline-run-*"

    def start_run(self, run: TrackedRun, *, resume: bool) -> bool:
        tags = [f"{name} {value}"[:TAG_LENGTH] for name, value in run.tags.items() if name != "study"]
        self.runs[run.key] = made = self._init(
            run.key[:16],
            name=run.name,
            job_type=run.arm[:TAG_LENGTH],
            tags=tags,
            config=run.config | {"vitab": run.tags},
        )
        return resume and bool(made.resumed)

    def log(self, run: TrackedRun, epochs: Sequence[Mapping[str, float]]) -> None:
        for metrics in epochs:
            self.runs[run.key].log(dict(metrics), step=int(metrics["epoch"]))

    def finish(self, run: TrackedRun, epochs: int, results: Mapping[str, float]) -> None:
        self.runs[run.key].summary.update(dict(results))
        self.runs.pop(run.key).finish(exit_code=0)

    def stop(self, run: TrackedRun, failure: str | None) -> None:
        if failure is not None:
            self.runs[run.key].summary.update({"failure": failure})
        self.runs.pop(run.key).finish(exit_code=1)

    def report(self, folder: Path) -> None:
        made = self._init("report", name=f"report of {self.study}", job_type="report")
        made.log({"report": wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False)})
        artifact = wandb.Artifact(f"{self.study}-report", type="report")
        artifact.add_dir(str(folder))
        made.log_artifact(artifact)
        made.finish(exit_code=0)

    def _init(self, last: str, **fields: Any) -> Any:
        identity = f"{self.study}-{last}"
        if not self.online:
            for old in self.folder.glob(f"offline-run-*-{identity}"):
                shutil.rmtree(old)
        return wandb.init(
            id=identity,
            project=self.project,
            group=self.study,
            resume="allow" if self.online else None,
            reinit="create_new",
            settings=wandb.Settings(**SETTINGS),
            **fields,
        )
