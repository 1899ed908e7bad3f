"""Paired comparison of two arms of a study, or of two studies (`vitab compare A B`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.config import FIELDS, level_text
from ablations.config.safe_text import LONGEST, bold, code, markdown, shortened
from ablations.errors import UsageError, unknown_name
from ablations.evaluation import load_evaluations
from ablations.reporting import tables
from ablations.reporting.compute import compute_clause
from ablations.reporting.findings import ContrastFinding
from ablations.reporting.formatting import interval_text, listed, number, p_text, points_text
from ablations.reporting.measured import ACCURACY_NAME, Measured, find_measured
from ablations.reporting.tables import Table
from ablations.reporting.tuning.text import trials_text
from ablations.reporting.wording import sentence
from ablations.statistics import (
    ACCURACY,
    ALPHA,
    FIXED,
    ModelComparison,
    Outcomes,
    Procedure,
    baseline_contrasts,
    compare_models,
    diverged_keys,
    outcomes_at_last_look,
    varying_axes,
)
from ablations.statistics.contrasts import holm
from ablations.storage import load_results, require_one_version, version_conflicts

if TYPE_CHECKING:
    from ablations.storage import Results, Store

NOT_COMPARED = ("key", "seed")


def compare(
    store: Store,
    first: str,
    second: str,
    *,
    study: str | None,
    last: Callable[[], str],
    mixed: bool = False,
    metric: str = ACCURACY_NAME,
    options: str = "",
) -> str:
    """Return a comparison as markdown: of two studies if both names are studies and `study` is None, else of two arms.

    Runs are compared by their test accuracy or another `metric`. Raises UsageError for runs of different code or data,
    unless `mixed` is given; then the first line warns of it. `options` are added to commands that messages name.
    """
    if study is None and {first, second} <= set(store.studies()):
        if first == second:
            raise UsageError(f"{first} and {second} are the same study")
        sources = load_results(store, first), load_results(store, second)
        found = version_conflicts(*sources) if mixed else require_one_version(*sources)
        abouts = [_measured(store, results, metric, options) for results in sources]
        outcomes, differ = two_studies(*sources, *abouts)
        fields = "; ".join(f"{tables.word(name)} {a} against {b}" for name, (a, b) in differ.items())
        by = f", by {metric}" if metric != ACCURACY_NAME else ""
        differences = f" Differences between them: {fields}." if fields else ""
        title = markdown(f"Study {first} against study {second}{by}.{differences}")
        tests: Procedure = FIXED
        if grown := [results.plan.study for results in sources if results.plan.design]:
            title += f" p does not account for the interim looks at {markdown(' and '.join(grown))}."
    else:
        results = load_results(store, study or last())
        found = version_conflicts(results) if mixed else require_one_version(results)
        about = _measured(store, results, metric, options)
        (outcomes, tests), sources = two_arms(results, first, second, about), (results, results)
        by = f", by {code(about.measure.name)}" if about else ""
        equal = f" {compute_clause(results.plan.match, outcomes.axis)}" if results.plan.match else ""
        title = (
            f"Two arms of study {markdown(results.plan.study)}{by}.{equal} p is for this comparison alone: if it was "
            "selected from several, use the adjusted p of the report."
        )
    if found:
        title = f"**Mixed runs.** {markdown('; '.join(found))}. This may be the cause of differences.\n\n{title}"
    return f"{title}\n\n{comparison_text(outcomes, sources, tests)}"


def _measured(store: Store, results: Results, metric: str, options: str) -> Measured | None:
    if metric == ACCURACY_NAME:
        return None
    return find_measured(load_evaluations(store, results.plan), results.plan.study, metric, options)


def two_arms(results: Results, first: str, second: str, about: Measured | None = None) -> tuple[Outcomes, Procedure]:
    """Return the outcomes of two arms of a study, the second as the baseline, and the procedure that tests them.

    An arm is a level (`rope`) or an axis and a level (`depth=4`). Raises UsageError if there is no such arm, or if the
    arms are levels of different axes.
    """
    axes = varying_axes(results)
    chosen = [_find_arm(text, axes) for text in (first, second)]
    if chosen[0][0] != chosen[1][0]:
        raise UsageError(f"{first} and {second} are levels of different axes: {chosen[0][0]} and {chosen[1][0]}")
    if chosen[0] == chosen[1]:
        raise UsageError(f"{first} and {second} are the same arm")
    measured = (about.measure, about.values) if about else ()
    outcomes, tests = outcomes_at_last_look(results, chosen[0][0], *measured)
    at = [outcomes.arms.index(level) for _, level in chosen]
    arms = tuple(level for _, level in chosen)
    return replace(outcomes, arms=arms, baseline=1, values=outcomes.values[at], keys=outcomes.keys[at]), tests


def _find_arm(text: str, axes: dict[str, tuple[Any, ...]]) -> tuple[str, Any]:
    found = [
        (axis, level)
        for axis, levels in axes.items()
        for level in levels
        if text in (level_text(level), f"{axis}={level_text(level)}")
    ]
    if len(found) == 1:
        return found[0]
    if found:
        valid = " or ".join(f"{a}={level_text(level)}" for a, level in found)
        raise UsageError(f"arm must name one axis, such as {valid}, got {text!r}")
    raise unknown_name("arm", text, [f"{a}={level_text(level)}" for a, levels in axes.items() for level in levels])


def two_studies(
    first: Results, second: Results, about_first: Measured | None = None, about_second: Measured | None = None
) -> tuple[Outcomes, dict[str, tuple[str, str]]]:
    """Return two studies as two arms, and the fields of a run in which the studies differ, with both values.

    A pair has the same seed and agrees in every axis of either study. Raises UsageError if there is no pair.
    """
    varying = [varying_axes(first), varying_axes(second)]
    axes = tuple(dict.fromkeys([*varying[0], *varying[1]]))
    levels = {axis: [_levels(results, axis) for results in (first, second)] for axis in axes}
    common = [tuple(level for level in ours if level in theirs) for ours, theirs in levels.values()]
    seeds = tuple(seed for seed in first.plan.seeds if seed in second.plan.seeds)
    cells = tuple(product(*common))
    names = (first.plan.study, second.plan.study)
    places = {tuple(map(level_text, cell)): i for i, cell in enumerate(cells)}
    values = np.full((2, len(cells), len(seeds)), np.nan)
    keys = np.full(values.shape, "", dtype="<U64")
    measure = about_first.measure if about_first else ACCURACY
    for arm, (results, about) in enumerate(((first, about_first), (second, about_second))):
        columns = results.runs[["key", "test_accuracy", "seed", *axes]]
        for key, correct, seed, *cell in columns.itertuples(index=False, name=None):
            place = places.get(tuple(map(level_text, cell)))
            value = about.values.get(key, np.nan) if about else correct
            if place is not None and seed in seeds and np.isfinite(value):
                values[arm, place, seeds.index(seed)] = measure.scale * value
                keys[arm, place, seeds.index(seed)] = key
    if not np.isfinite(values).all(axis=0).any():
        raise UsageError(
            f"studies {names[0]} and {names[1]} have no pair of finished runs with the same setting and seed"
        )
    diverged = diverged_keys(first) | diverged_keys(second)
    measure = measure.with_decimals(values)
    outcomes = Outcomes("study", names, axes, cells, seeds, 1, values, keys, diverged, measure)
    return outcomes, _fields_that_differ(first, second, set(axes))


def _levels(results: Results, axis: str) -> list[Any]:
    return list(dict.fromkeys(getattr(config, axis) for config in results.plan.configs))


def _fields_that_differ(first: Results, second: Results, axes: set[str]) -> dict[str, tuple[str, str]]:
    names = [name for name in FIELDS if name not in axes and name not in NOT_COMPARED]
    values = {name: (_values(first, name), _values(second, name)) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def _values(results: Results, field: str) -> str:
    """Return the value of a field in the runs of a study as text: `tuned by 12 trials`, or its range where matched."""
    tuning = results.plan.tuning
    if tuning and field in tuning.space:
        return f"tuned by {trials_text(results.plan)}"
    levels = _levels(results, field)
    ends = (min(levels), max(levels)) if len(levels) > 1 else levels
    return " to ".join(map(level_text, ends))


def comparison_text(outcomes: Outcomes, sources: tuple[Results, Results], tests: Procedure = FIXED) -> str:
    """Return the contrast of two arms, their accuracy in each setting, and the pairs as trained models, as markdown."""
    claim = ContrastFinding(baseline_contrasts(outcomes, tests)[0])
    names, decimals = [outcomes.arm_name(arm) for arm in (0, 1)], outcomes.measure.decimals
    header = [*map(tables.word, outcomes.cell_axes), *names, "difference", "pairs"]
    rows = []
    for cell, levels in enumerate(outcomes.cells):
        pairs = outcomes.values[:, cell][:, np.isfinite(outcomes.values[:, cell]).all(axis=0)]
        if pairs.shape[1]:
            first, second = pairs.mean(axis=1)
            means = number(first, decimals), number(second, decimals)
            texts = *means, points_text(first - second, decimals), pairs.shape[1]
            rows.append((*map(level_text, levels), *texts))
    parts = [sentence(claim), *_diverged(outcomes), str(Table(header, rows, left=len(outcomes.cell_axes)))]
    models = trained_models(outcomes, sources) if outcomes.measure.is_accuracy else {}
    if models:
        parts += [_models_text(outcomes, models)]
    return "\n\n".join(parts) + "\n"


def _diverged(outcomes: Outcomes) -> list[str]:
    """Return how many runs of each arm diverged as a sentence; empty if none did."""
    numbers = outcomes.has_diverged.sum(axis=(1, 2))
    if not numbers.any():
        return []
    arms = listed([f"{bold(outcomes.arm_name(arm))} in {n}" for arm, n in enumerate(numbers)])
    return [f"Runs that diverged count with chance accuracy; the comparison of trained models omits them: {arms}."]


def trained_models(outcomes: Outcomes, sources: tuple[Results, Results]) -> dict[tuple[int, int], ModelComparison]:
    """Return every complete pair with the same test set by (cell, seed index), compared on the test examples.

    Diverged models are left out: they classify nothing.
    """
    found = {}
    for cell, seed in np.argwhere(np.isfinite(outcomes.without_diverged().values).all(axis=0)):
        a, b = (sources[arm].predictions(str(outcomes.keys[arm, cell, seed])) for arm in (0, 1))
        if a and b and np.array_equal(a["labels"], b["labels"]):
            found[int(cell), int(seed)] = compare_models(a["labels"], a["predicted"], b["predicted"])
    return found


def _models_text(outcomes: Outcomes, models: dict[tuple[int, int], ModelComparison]) -> str:
    adjusted = holm([m.p for m in models.values()])
    apart = int((adjusted <= ALPHA).sum())
    names = [outcomes.arm_name(arm) for arm in (0, 1)]
    header = [
        *map(tables.word, outcomes.cell_axes),
        "seed",
        *names,
        "difference",
        "95 % interval",
        f"only {shortened(names[0], LONGEST - 11)} right",
        f"only {shortened(names[1], LONGEST - 11)} right",
        "McNemar p",
        "Holm p",
    ]
    rows = [
        (
            *map(level_text, outcomes.cells[cell]),
            outcomes.seeds[seed],
            f"{m.first:.1f}",
            f"{m.second:.1f}",
            points_text(m.difference),
            interval_text(m.low, m.high),
            m.only_first,
            m.only_second,
            p_text(m.p),
            p_text(p),
        )
        for ((cell, seed), m), p in zip(models.items(), adjusted, strict=True)
    ]
    return (
        "Comparison of the trained models, not of the methods: each pair on the same test examples, with an interval "
        f"from resampled examples. {apart} of {len(models)} pairs differ significantly (McNemar's test with Holm's "
        "correction).\n\n" + str(Table(header, rows, left=len(outcomes.cell_axes) + 1))
    )
