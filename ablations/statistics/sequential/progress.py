"""Progress of a sequential study, derived from its plan and its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ablations.config import Level, SequentialDesign, level_text
from ablations.statistics.outcomes import Outcomes

if TYPE_CHECKING:
    from ablations.storage import Results, StudyPlan


@dataclass(frozen=True)
class SequentialProgress:
    """The design of a study, and the number of seeds of each arm (A,) in its last complete round."""

    design: SequentialDesign
    seeds: tuple[int, ...]


def planned_seeds(plan: StudyPlan, axis: str) -> dict[str, int]:
    """Return the number of planned seeds of each level of an axis, by the level's text."""
    seeds: dict[str, set[int]] = {}
    for config in plan.configs:
        seeds.setdefault(level_text(getattr(config, axis)), set()).add(config.seed)
    return {level: len(found) for level, found in seeds.items()}


def sequential_progress(results: Results, outcomes: Outcomes) -> SequentialProgress | None:
    """Return the progress of a sequential study, None for a fixed one.

    A round is complete when each of its runs has finished or failed.
    """
    plan = results.plan
    if plan.design is None:
        return None
    failed = {config for key, config in plan.runs.items() if key in results.failed}
    to_come = [config for config in results.missing if config not in failed]
    axis, planned = outcomes.axis, planned_seeds(plan, outcomes.axis)
    seeds = []
    for arm in outcomes.arms:
        name = level_text(arm)
        places = [outcomes.seeds.index(c.seed) for c in to_come if level_text(getattr(c, axis)) == name]
        ended = min([planned.get(name, 0), *places])
        seeds.append(max((look for look in plan.design.looks if look <= ended), default=0))
    return SequentialProgress(plan.design, tuple(seeds))


def truncate_seeds(outcomes: Outcomes, seeds: Sequence[int]) -> Outcomes:
    """Return the outcomes restricted to the first `seeds` (A,) seeds of each arm."""
    beyond = np.arange(len(outcomes.seeds)) >= np.asarray(seeds)[:, None]
    beyond = np.broadcast_to(beyond[:, None, :], outcomes.values.shape)
    return replace(outcomes, values=np.where(beyond, np.nan, outcomes.values), keys=np.where(beyond, "", outcomes.keys))


def seeds_to_add(outcomes: Outcomes, found: SequentialProgress, open_arms: Sequence[int]) -> dict[Level, int]:
    """Return the number of seeds after the next round, for the baseline and the arms whose contrast is undecided.

    Empty if there is no next round. An arm at the maximum gets no more seeds, nor one whose last round added no pair.
    """
    looks, base = found.design.looks, outcomes.baseline
    targets = {}
    for arm in open_arms:
        seeds = min(found.seeds[arm], found.seeds[base])
        before = max((look for look in looks if look < seeds), default=0)
        pairs = np.isfinite(outcomes.differences(arm, base)[:, before:seeds]).any()
        if seeds and pairs and seeds < found.design.maximum:
            targets[outcomes.arms[arm]] = next(look for look in looks if look > seeds)
    if targets:
        targets[outcomes.arms[base]] = max(targets.values())
    return targets
