"""Runs of one study should come from one code and one data set: are there several, and which?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ablations.config import level_text
from ablations.errors import UsageError
from ablations.storage.files import read_json

if TYPE_CHECKING:
    from ablations.storage.results import Results
    from ablations.storage.store import Store
    from ablations.storage.study_plan import StudyPlan

CODE = {"vit_sha256": "code of the model", "training_sha256": "code of the training"}
DATA = ("data", "labels", "classes", "per_class")
"""The fields of a run that choose its data; runs alike in them should have the same fingerprint."""


def version_conflicts(*sources: Results) -> list[str]:
    """A clause for every kind of thing of which the runs have several: each digest, cut to 8, and its runs."""
    found = []
    environments = [each for results in sources for each in results.environments.values()]
    for name, words in CODE.items():
        counts = Counter(str(each[name]) for each in environments if each.get(name))
        found += [_clause(words, name, counts)] if len(counts) > 1 else []
    prints: dict[str, Counter[str]] = {}
    for results in sources:
        for row in results.runs[["key", *DATA]].to_dict("records"):
            fingerprint = results.environments.get(row["key"], {}).get("data_sha256")
            if fingerprint:
                chosen = ", ".join(level_text(row[field]) for field in DATA)
                prints.setdefault(chosen, Counter())[str(fingerprint)] += 1
    found += [_clause("data", "data_sha256", counts) for counts in prints.values() if len(counts) > 1]
    return found


def require_one_version(*sources: Results) -> list[str]:
    """`version_conflicts`, of which there is none: UsageError when the runs come from several versions of code or data."""
    found = version_conflicts(*sources)
    if found:
        names = " and ".join(dict.fromkeys(results.plan.study for results in sources))
        raise UsageError(f"{names}: {'; '.join(found)}; --mixed takes them together and says so")
    return found


def stale_runs_warning(store: Store, plan: StudyPlan) -> str | None:
    """A line for a study of which finished runs were trained by other code than this; else None."""
    from ablations.storage.provenance import training_digest, vit_digest

    now = {"vit_sha256": vit_digest(), "training_sha256": training_digest()}
    others: Counter[str] = Counter()
    for key in plan.keys:
        if store.done(key):
            environment: Any = read_json(store.folder(key) / "environment.json")
            before = environment if isinstance(environment, dict) else {}
            differ = [name for name in CODE if before.get(name) and before[name] != now[name]]
            if differ:
                others[", ".join(f"{name} {before[name][:8]}, now {now[name][:8]}" for name in differ)] += 1
    if not others:
        return None
    listed = "; ".join(f"{n} with {text}" for text, n in others.items())
    return (
        f"{sum(others.values())} finished runs of study {plan.study} were trained by other code ({listed}): a report "
        "will not mix them with new ones unless asked to"
    )


def _clause(words: str, name: str, counts: Counter[str]) -> str:
    parts: Sequence[str] = [f"{digest[:8]} ({n} run{'s' * (n != 1)})" for digest, n in counts.most_common()]
    return f"{len(counts)} versions of the {words} made these runs, {name} {', '.join(parts)}"
