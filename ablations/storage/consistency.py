"""Whether the runs of a study come from one version of code and data, and which runs are out of date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ablations.config import RunConfig, count, level_text
from ablations.config.run_config import PICTURE_FIELDS
from ablations.errors import UsageError
from ablations.storage.code_version import code_version, recorded_version
from ablations.storage.files import read_json
from ablations.storage.trials import TrialStore

if TYPE_CHECKING:
    from ablations.storage.results import Results
    from ablations.storage.store import Store
    from ablations.storage.study_plan import StudyPlan

DATA = ("data", "labels", "classes", "per_class", "columns", *PICTURE_FIELDS)
"""The fields of a run that select its data; runs that agree in them should have the same fingerprint."""


def version_conflicts(*sources: Results) -> list[str]:
    """Return a clause for every component of the code, and every selection of data, of which the runs have several."""
    code: dict[str, Counter[str]] = {}
    data: dict[str, Counter[str]] = {}
    for results in sources:
        for environment in results.environments.values():
            for component, digest in recorded_version(environment).items():
                code.setdefault(component, Counter())[digest] += 1
        fields = [field for field in DATA if field in results.runs]
        for row in results.runs[["key", *fields]].to_dict("records"):
            fingerprint = results.environments.get(row["key"], {}).get("data_sha256")
            if fingerprint:
                data.setdefault(", ".join(level_text(row[field]) for field in fields), Counter())[str(fingerprint)] += 1
    found = [_conflict(f"code ({component})", digests) for component, digests in code.items() if len(digests) > 1]
    return found + [_conflict("data", digests) for digests in data.values() if len(digests) > 1]


def require_one_version(*sources: Results) -> list[str]:
    """Return no conflict; raise UsageError if the runs come from several versions of the code or the data."""
    found = version_conflicts(*sources)
    if found:
        names = " and ".join(dict.fromkeys(results.plan.study for results in sources))
        raise UsageError(f"{names}: {'; '.join(found)}; use --mixed to include them; the output states this")
    return found


def stale_runs(store: Store, plan: StudyPlan) -> dict[str, list[str]]:
    """Return the finished runs that other code has trained: the components that differ, by key."""
    return _stale(store, plan.runs)


def stale_trials(store: Store, plan: StudyPlan) -> dict[str, list[str]]:
    """Return the finished runs of trials that other code has trained, as `stale_runs`. `store` is that of the runs."""
    return _stale(TrialStore.beside(store), {run.key: run.config for run in plan.trials})


def _stale(store: Store, runs: Mapping[str, RunConfig]) -> dict[str, list[str]]:
    found = {}
    for key, config in runs.items():
        if store.done(key):
            environment: Any = read_json(store.folder(key) / "environment.json")
            recorded = recorded_version(environment if isinstance(environment, dict) else {})
            if recorded:
                current = code_version(config.position, str(environment.get("backend", "numpy")))
                differ = [name for name in current if recorded.get(name) != current[name]]
                if differ:
                    found[key] = differ
    return found


def stale_runs_warning(plan: StudyPlan, stale: dict[str, list[str]], what: str = "finished run") -> str | None:
    """Return a warning about the stale runs of a study, as `stale_runs` returns them; None if there are none."""
    if not stale:
        return None
    components = ", ".join(dict.fromkeys(name for names in stale.values() for name in names))
    harm = "a report does not mix them with new runs" if what == "finished run" else "the choice rests on them"
    return (
        f"{count(len(stale), what)} of study {plan.study} trained with different code ({components}); {harm}; to "
        f"retrain them: vitab retry {plan.study} --stale"
    )


def _conflict(what: str, digests: Counter[str]) -> str:
    listed = ", ".join(f"{digest[:8]} ({count(n, 'run')})" for digest, n in digests.most_common())
    return f"the runs come from {len(digests)} versions of the {what}: {listed}"
