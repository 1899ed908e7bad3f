"""Facts about a study as a whole, by name: the numbers in the prose of a report that no other table contains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.config import level_text, name_level
from ablations.config.run_config import DEFAULTS, OWN_DATA, PICTURE_FIELDS
from ablations.reporting.compute import compute_facts
from ablations.reporting.dataset_text import recorded_facts
from ablations.reporting.sequential_text import sample_size, spending
from ablations.statistics import ALPHA, LEVEL, MARGIN, Analysis, diverged_keys, planned_seeds, varying_axes
from ablations.storage import version_conflicts

if TYPE_CHECKING:
    from ablations.storage import Results

POWER = 0.8
"""Power for which numbers of seeds are given."""


def facts(results: Results, analysis: Analysis) -> dict[str, Any]:
    """Return the facts by name, in the order of the report."""
    plan, outcomes, runs = results.plan, analysis.outcomes, results.runs
    seconds = float(runs["seconds"].sum())
    found: dict[str, Any] = {
        "runs_finished": len(runs),
        "runs_planned": len(plan.keys),
        **{f"axis_{name}": ", ".join(map(level_text, levels)) for name, levels in varying_axes(results).items()},
        "baseline": outcomes.arm_name(outcomes.baseline),
        "seeds": len(outcomes.seeds),
        "seeds_fewest": min(planned_seeds(plan, outcomes.axis).values()),
        **{f"failed_{arm}": n for arm, n in failed(results, outcomes.axis).items()},
        **{f"diverged_{arm}": n for arm, n in diverged(results, outcomes.axis).items()},
        **{f"mixed_{i}": clause for i, clause in enumerate(version_conflicts(results), start=1)},
        "level_of_tests": ALPHA,
        "level_of_intervals": LEVEL,
        "power": POWER,
        "equivalence_margin": MARGIN,
        "training_teraflops": float(runs["flops"].sum()) / 1e12,
        "run_seconds": seconds,
        "run_minutes": seconds / 60,
        "run_hours": seconds / 3600,
    }
    found |= compute_facts(plan)
    return found | (_rounds(results, analysis) if plan.design else {}) | _same_in_all(results)


def failed(results: Results, axis: str) -> dict[str, int]:
    """Return the number of failed runs of each arm that has any."""
    return _count_by_arm(results, axis, results.failed)


def diverged(results: Results, axis: str) -> dict[str, int]:
    """Return the number of diverged runs of each arm that has any."""
    return _count_by_arm(results, axis, diverged_keys(results))


def _count_by_arm(results: Results, axis: str, keys: Container[str]) -> dict[str, int]:
    arms = (name_level(axis, getattr(config, axis)) for key, config in results.plan.runs.items() if key in keys)
    return dict(Counter(arms))


def _rounds(results: Results, analysis: Analysis) -> dict[str, Any]:
    plan, outcomes = results.plan, analysis.outcomes
    assert plan.design is not None
    taken = sample_size(plan, outcomes.axis)
    return {
        "rounds_first_seeds": plan.design.first,
        "rounds_most_seeds": plan.design.maximum,
        "rounds_looks": ", ".join(map(str, plan.design.looks)),
        "rounds_spent": ", ".join(f"{share:.6g}" for share in spending(plan, outcomes)),
        "rounds_contrasts": len(outcomes.arms) - 1,
        "rounds_runs": taken.runs,
        "rounds_runs_most": taken.maximum,
        "rounds_runs_saved": taken.maximum - taken.runs,
        "rounds_share_saved": 1 - taken.runs / taken.maximum,
        **{f"rounds_seeds_{name_level(outcomes.axis, level)}": n for level, n in taken.seeds.items()},
        "rounds_seeds_all": sum(taken.seeds.values()),
        "rounds_seeds_all_most": plan.design.maximum * len(taken.seeds),
        "rounds_seeds_saved": plan.design.maximum * len(taken.seeds) - sum(taken.seeds.values()),
    }


def _same_in_all(results: Results) -> dict[str, Any]:
    """Return the fields that are the same in all runs by design, and the size of their datasets."""
    from ablations.data import DATASETS

    varying = {*varying_axes(results), "seed", *(results.plan.tuning.space if results.plan.tuning else ())}
    if results.plan.match is not None:
        varying |= {"epochs", "warmup_epochs"}
    found: dict[str, Any] = {}
    for name, value in asdict(results.plan.configs[0]).items():
        of_pictures = name in ("columns", *PICTURE_FIELDS) and value == DEFAULTS[name]  # of no concern to other data
        if name not in varying and value is not None and not of_pictures:
            found[f"run_{name}"] = level_text(value) if isinstance(value, tuple) else value
    for name in dict.fromkeys(config.data for config in results.plan.configs):
        recorded = recorded_facts(results, name)
        if name in DATASETS and name not in OWN_DATA:
            found[f"data_{name}"] = DATASETS[name].description
            found[f"data_{name}_classes"] = DATASETS[name].classes
            whole = results.plan.configs[0].classes is None
            part = () if whole else ("train_images", "test_images")  # of the classes that are used
            recorded = {field: recorded[field] for field in ("class_sizes", *part, "duplicates") if field in recorded}
        found |= {f"data_{name}_{field}": known for field, known in _flat(recorded)}
    return {name: value for name, value in found.items() if value is not None}


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield facts whose values are no mappings: the values of a mapping one by one, and those of a list in words."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}_{inner}", each) for inner, each in _flat(value))
        else:
            yield name, " to ".join(map(str, value)) if isinstance(value, list) else value


def facts_frame(found: dict[str, Any]) -> pd.DataFrame:
    """Return the facts as a table of two columns."""
    texts = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in found.values()]
    return pd.DataFrame({"what": list(found), "value": texts})
