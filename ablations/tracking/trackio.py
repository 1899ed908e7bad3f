"""Trackio: a run per run, in the project of the study and the group of its arm; local unless its variables say else."""

import contextvars
import os
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.tracking.tracker import TrackedRun, Tracker, report_text, without_credentials

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Variables that name a server, the first that is set."""


class Trackio(Tracker):
    """Writes to the folder TRACKIO_DIR, by default <folder>; with a variable of REMOTE, to that server.

    The project is the study. Runs are found again by their name, which has the key. From a server a run cannot be
    removed: one whose result was replaced stays there beside the new one.
    """

    def __init__(self, folder: Path, study: str) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        import trackio  # reads the variable

        self.library: Any = trackio
        self.study, self.runs = study, dict[str, Any]()
        server = next((os.environ[name] for name in REMOTE if os.environ.get(name)), None)
        self.local = server is None
        place = without_credentials((server or os.environ["TRACKIO_DIR"]).partition("?")[0])
        self.where = f"project {study} in {place}"
        show = f"to look: TRACKIO_DIR={shlex.quote(place)} trackio show --project {study}"
        self.next_step = show if self.local else ""
        self.problems: list[str] = []
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = self._take_warning  # type: ignore[assignment]

    def start_run(self, run: TrackedRun, *, resume: bool) -> bool:
        if not resume:
            self._remove(run.unique_name)
        self.runs[run.key] = self._init(
            run.unique_name, resume=resume, group=run.arm, config=run.config | {"vitab": run.tags}
        )
        return resume

    def log(self, run: TrackedRun, epochs: Sequence[Mapping[str, float]]) -> None:
        for metrics in epochs:
            numbers = {name: value for name, value in metrics.items() if name != "epoch"}
            self.runs[run.key].log(numbers, step=int(metrics["epoch"]))
        self._raise_problems()

    def finish(self, run: TrackedRun, epochs: int, results: Mapping[str, float]) -> None:
        self.runs[run.key].log(dict(results), step=epochs)
        self._close(self.runs.pop(run.key))

    def stop(self, run: TrackedRun, failure: str | None) -> None:
        stopped = self.runs.pop(run.key)
        if failure is not None:
            stopped.alert("failed", failure, self.library.AlertLevel.ERROR)
        self._close(stopped)

    def report(self, folder: Path) -> None:
        self._remove("report")
        made = self._init("report", resume=False)
        figures = {f"figures/{path.stem}": self.library.Image(path) for path in sorted(folder.glob("figures/*.png"))}
        made.log({"report": self.library.Markdown(report_text(folder))} | figures, step=0)
        artifact = self.library.Artifact(f"{self.study}-report", type="report")
        artifact.add_dir(folder)
        made.log_artifact(artifact)
        self._close(made)

    def _init(self, name: str, *, resume: bool, **fields: Any) -> Any:
        """Return a run. In a context of its own, since Trackio has one run at a time in each."""
        made = contextvars.Context().run(
            self.library.init,
            self.study,
            name=name,
            resume="allow" if resume else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
            **fields,
        )
        self._raise_problems()
        return made

    def _remove(self, name: str) -> None:
        """Remove the runs of this name, if they are here."""
        try:
            found = list(self.library.Api().runs(self.study)) if self.local else []
        except ValueError:  # no such project
            return
        for run in found:
            if run.name == name:
                run.delete()

    def _close(self, run: Any) -> None:
        run.finish()
        self._raise_problems()

    def _take_warning(self, message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        """Keep a warning of Trackio, which turns every error into one."""
        print(f"{category.__name__}: {message}", flush=True)
        if issubclass(category, UserWarning) and "trackio" in Path(filename).parts:
            self.problems.append(str(message))

    def _raise_problems(self) -> None:
        if self.problems:
            raise RuntimeError(self.problems[0])
