"""Study: a study in a folder of runs, as it is on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.api.loading import load_epochs, load_evaluations, load_predictions, load_runs, results_of
from ablations.config import count, level_text
from ablations.config.safe_text import bold, markdown, one_line, plain
from ablations.errors import VitabError
from ablations.storage import Store, StudyPlan, require_one_version

if TYPE_CHECKING:
    import pandas as pd

    from ablations.storage import Results


@dataclass(frozen=True, eq=False, repr=False)
class Study:
    """A study in a folder of runs. What it returns is read when it is asked for, so it follows runs in progress.

    Everything but `plan` raises UsageError as long as no run has finished. Jupyter shows its question, answer and
    table of verdicts.
    """

    name: str
    folder: Path
    """The folder of the runs."""

    @property
    def plan(self) -> StudyPlan:
        """The question, axes, seeds and configurations of the study."""
        return Store(self.folder).read_study(self.name)

    @property
    def runs(self) -> "pd.DataFrame":
        """A row for each finished run: see `load_runs`."""
        return load_runs(self.folder, self.name)

    @property
    def epochs(self) -> "pd.DataFrame":
        """A row for each epoch of each finished run: see `load_epochs`."""
        return load_epochs(self.folder, self.name)

    @property
    def predictions(self) -> "pd.DataFrame":
        """A row for each finished run and test image: see `load_predictions`."""
        return load_predictions(self.folder, self.name)

    @property
    def evaluations(self) -> "pd.DataFrame":
        """A row for each finished run, protocol and metric: see `load_evaluations`."""
        return load_evaluations(self.folder, self.name)

    @property
    def findings(self) -> list[str]:
        """The statements of the report as sentences, the answer to the question first.

        Raises UsageError if the runs come from several versions of the code or the data.
        """
        from ablations.reporting.findings import claims
        from ablations.reporting.wording import sentence
        from ablations.statistics import analyse

        return [plain(sentence(finding)) for finding in claims(analyse(self._comparable()))]

    def report(self, out: str | Path = "reports") -> Path:
        """Write the report of the study, as `vitab report` does, and return the path of its README.md.

        Raises UsageError if the folder `out` cannot be written, or as `findings`.
        """
        from ablations.evaluation import load_evaluations
        from ablations.reporting.report import write_report
        from ablations.reporting.tuning.analysis import tuning_sources

        results, store = self._comparable(), Store(self.folder)
        evaluations, tuning = load_evaluations(store, results.plan), tuning_sources(store, results)
        return write_report(results, Path(out), evaluations=evaluations, tuning=tuning) / "README.md"

    def _comparable(self) -> "Results":
        results = results_of(self.folder, self.name)
        require_one_version(results)
        return results

    def __repr__(self) -> str:
        return f"<Study {self.name} in {one_line(self.folder)}: {self._state()}>"

    def _repr_html_(self) -> str:
        from ablations.reporting.first_screen import first_screen
        from ablations.reporting.html import fragment
        from ablations.statistics import analyse

        try:
            found = first_screen(analyse(self._comparable()))
        except VitabError as error:
            found = markdown(error)
        return fragment(
            f"### {markdown(self.plan.question)}\n\nStudy {bold(self.name)}: {markdown(self._state())}.\n\n{found}"
        )

    def _state(self) -> str:
        """Return how many runs have finished, and what they are."""
        store, plan = Store(self.folder), self.plan
        done = sum(map(store.done, plan.keys))
        axes = (f"{axis.replace('_', ' ')} {', '.join(map(level_text, levels))}" for axis, levels in plan.axes.items())
        return one_line(
            "; ".join((f"{done} of {count(plan.all_runs, 'run')} finished", *axes, count(len(plan.seeds), "seed")))
        )


def study(name: str, runs: str | Path = "runs") -> Study:
    """Return a study that was planned before. Raises UsageError if the folder of runs has none of this name."""
    found = Study(name, Path(runs))
    found.plan  # noqa: B018  raises
    return found
