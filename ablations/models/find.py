"""Find a finished run by its key or by its arm."""

from collections.abc import Mapping

from ablations.config import FIELDS, RunConfig, level_text, run_label
from ablations.errors import UsageError
from ablations.storage import Store, StudyPlan
from ablations.storage.verification import finished_keys
from vit.options import split


def find_run(store: Store, text: str, study: str | None = None) -> str:
    """Return the key of the finished run that a text means.

    The text is the key or its first characters; or an arm of a study, such as `rope,depth=4,seed=0`: a positional
    encoding and fields of the configuration. Fields that are left out must not be ambiguous, except the seed, whose
    smallest value is taken. `study` is the last planned one by default. Raises UsageError if no finished run, or more
    than one, is meant.
    """
    keys = [key for key in finished_keys(store)[0] if text and key.startswith(text)]
    if len(keys) == 1:
        return keys[0]
    if len(keys) > 1:
        raise UsageError(f"{len(keys)} finished runs in {store.root} have a key that begins with {text!r}")
    names = store.studies()
    if study is None and not names:
        raise UsageError(
            f"no finished run in {store.root} has a key that begins with {text!r}; {store.describe_studies()}"
        )
    return _by_arm(store, store.read_study(study or names[0]), text)


def _by_arm(store: Store, plan: StudyPlan, text: str) -> str:
    asked = _fields(text, plan)
    found = {key: config for key, config in plan.runs.items() if _matches(config, asked)}
    if not found:
        levels = "; ".join(f"{axis}: {', '.join(map(level_text, values))}" for axis, values in plan.axes.items())
        raise UsageError(f"no run of study {plan.study} is {text!r}, and no key begins so; its axes are {levels}")
    finished = {key: config for key, config in found.items() if store.done(key)}
    if not finished:
        raise UsageError(f"run {text!r} of study {plan.study} has not finished; vitab status shows the runs")
    arms = {run_label(config, list(plan.axes)).rpartition(", seed")[0] for config in finished.values()}
    if len(arms) > 1:
        raise UsageError(f"{text!r} means {len(arms)} arms of study {plan.study}: {'; '.join(sorted(arms))}")
    return min(finished, key=lambda key: finished[key].seed)


def _fields(text: str, plan: StudyPlan) -> dict[str, str]:
    """Return the fields of an arm as texts."""
    asked: dict[str, str] = {}
    for part in split(text, ","):
        name, equals, value = part.partition("=")
        if not equals or "(" in name:
            name, value = "position", part
        if name not in FIELDS:
            raise UsageError(f"{part!r} in run {text!r} must be FIELD=VALUE with a field of a run, such as depth=4")
        asked[name.strip()] = value.strip()
    return asked


def _matches(config: RunConfig, asked: Mapping[str, str]) -> bool:
    return all(level_text(getattr(config, name)) == value for name, value in asked.items())
