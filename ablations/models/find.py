"""Find a finished run by its key or by its arm."""

from typing import Any

from ablations.config import FIELDS, Level, RunConfig, level_text, parse
from ablations.errors import UsageError, unknown_name
from ablations.storage import Store, StudyPlan
from ablations.storage.verification import finished_keys
from vit.options import split

SHOWN = 5
"""Arms that a message lists."""


def find_run(store: Store, text: str, study: str | None = None) -> str:
    """Return the key of the finished run that a text means.

    The text is the key or its first characters; or an arm of a study, such as `rope,depth=4,seed=0`: a positional
    encoding and fields of the configuration. Fields that are left out must not be ambiguous, except the seed: the
    smallest seed that has finished is taken. `study` is the last planned one by default. Raises UsageError if no
    finished run, or more than one, is meant.
    """
    plan = None if study is None else store.read_study(study)
    keys = [key for key in finished_keys(store)[0] if text and key.startswith(text)]
    if len(keys) == 1:
        return keys[0]
    if len(keys) > 1:
        raise UsageError(f"{len(keys)} finished runs in {store.root} have a key that begins with {text!r}")
    if plan is None:
        names = store.studies()
        if not names:
            raise UsageError(
                f"no finished run in {store.root} has a key that begins with {text!r}; {store.describe_studies()}"
            )
        plan = store.read_study(names[0])
    return _by_arm(store, plan, text)


def _by_arm(store: Store, plan: StudyPlan, text: str) -> str:
    if text and any(key.startswith(text) for key in plan.keys):
        raise _unfinished(plan, text)
    asked = _fields(text)
    found = {key: config for key, config in plan.runs.items() if _matches(config, asked)}
    if not found:
        levels = "; ".join(f"{axis}: {', '.join(map(level_text, values))}" for axis, values in plan.axes.items())
        raise UsageError(
            f"no run of study {plan.study} is {text!r}, and no finished run has a key that begins so; "
            f"the axes of the study are {levels}"
        )
    arms = list(dict.fromkeys(_arm(config, plan) for config in found.values()))
    if len(arms) > 1:
        more = f"; and {len(arms) - SHOWN} more" if len(arms) > SHOWN else ""
        raise UsageError(f"{text!r} means {len(arms)} arms of study {plan.study}: {'; '.join(arms[:SHOWN])}{more}")
    finished = {key: config for key, config in found.items() if store.done(key)}
    if not finished:
        raise _unfinished(plan, text)
    return min(finished, key=lambda key: finished[key].seed)


def _unfinished(plan: StudyPlan, text: str) -> UsageError:
    return UsageError(f"run {text!r} of study {plan.study} has not finished; `vitab status` shows the runs")


def _arm(config: RunConfig, plan: StudyPlan) -> str:
    """Return an arm as `find_run` reads it, by the axes that have several levels."""
    levels = {axis: level_text(getattr(config, axis)) for axis, levels in plan.axes.items() if len(levels) > 1}
    return ",".join(level if axis == "position" else f"{axis}={level}" for axis, level in levels.items())


def _fields(text: str) -> dict[str, str]:
    """Return the fields of an arm as texts."""
    asked: dict[str, str] = {}
    for part in map(str.strip, split(text, ",")):
        name, equals, value = map(str.strip, part.partition("="))
        if not equals or "(" in name:
            name, value = "position", part
        if name not in FIELDS:
            raise unknown_name("field", name, FIELDS)
        if name in asked:
            raise UsageError(f"{name} must be given once in run {text!r}, got {asked[name]!r} and {value!r}")
        asked[name] = value
    return asked


def _matches(config: RunConfig, asked: dict[str, str]) -> bool:
    return all(_is(getattr(config, name), name, text) for name, text in asked.items())


def _is(level: Level, name: str, text: str) -> bool:
    """Return whether a text means this value of a field: as messages show it, or as `--set` takes it."""
    if level_text(level) == text:
        return True
    try:
        value: Any = parse(name, text)
    except UsageError:
        return False
    return bool(value == level)
