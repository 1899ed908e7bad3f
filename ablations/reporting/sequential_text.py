"""Sequential studies in words: the plan of the rounds, their state, and the runs that were saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablations.config import level_text, name_level
from ablations.config.safe_text import bold, markdown
from ablations.reporting.formatting import listed
from ablations.statistics import Analysis, FloatArray, Outcomes, planned_seeds, seeds_to_add

if TYPE_CHECKING:
    from ablations.storage import StudyPlan


@dataclass(frozen=True)
class SampleSize:
    """Planned runs so far, the runs with the maximum of seeds in every setting, and planned seeds by arm."""

    runs: int
    maximum: int
    seeds: dict[str, int]


def sample_size(plan: StudyPlan, axis: str) -> SampleSize:
    """Return the size of a sequential study whose arms are the levels of `axis`."""
    assert plan.design is not None
    settings = len({config for config in plan.configs if config.seed == plan.seeds[0]})
    return SampleSize(len(plan.keys), settings * plan.design.maximum, planned_seeds(plan, axis))


def spending(plan: StudyPlan, outcomes: Outcomes) -> FloatArray:
    """Return the share of the significance level that each look spends."""
    assert plan.design is not None
    return plan.design.shares(len(outcomes.cells), max(len(outcomes.arms) - 1, 1))


def decision_state(analysis: Analysis) -> str:
    """Return whether every contrast is decided, and if not, what the next round adds, as a sentence."""
    growth, outcomes = analysis.growth, analysis.outcomes
    assert growth is not None
    left = analysis.open_arms
    if not left:
        return "Every contrast with the baseline is decided."
    names = listed([outcomes.arm_name(arm) for arm in left])
    targets = seeds_to_add(analysis.looked, growth, left)
    if targets:
        grown = listed([level_text(level) for level in targets])
        return f"Undecided so far: {names}. The next round extends {grown} to {max(targets.values())} seeds."
    return f"Undecided at the end of the rounds: {names}."


def runs_saved(plan: StudyPlan, analysis: Analysis) -> str:
    """Return how many runs and seeds the study needed, compared with a study of fixed size."""
    outcomes = analysis.outcomes
    assert plan.design is not None
    size, most = sample_size(plan, outcomes.axis), plan.design.maximum
    whole = most * len(size.seeds)
    runs, seeds = size.maximum - size.runs, whole - sum(size.seeds.values())
    by_arm = listed([f"{name_level(outcomes.axis, level)} {n}" for level, n in size.seeds.items()])
    return (
        f"The study needed {size.runs:,} runs. With {most} seeds in every setting it would have needed "
        f"{size.maximum:,}, so {runs:,} were saved ({100 * runs / size.maximum:.0f} %). Seeds per setting: "
        f"{markdown(by_arm)}; {seeds} of {whole} were saved."
    )


def procedure(plan: StudyPlan, analysis: Analysis) -> str:
    """Return how the rounds were planned and how the contrasts are tested."""
    assert plan.design is not None
    first, *more, most = plan.design.looks
    between = [", ".join(map(str, more))] if more else []
    outcomes = analysis.outcomes
    base, arms = bold(outcomes.arm_name(outcomes.baseline)), len(outcomes.arms) - 1
    spent = spending(plan, outcomes)
    shares = ", ".join(f"{100 * share:.0f} %" for share in spent)
    early = "; interim analyses that cannot reject pass their share on to later ones" if (spent == 0).any() else ""
    family = f", with Holm's correction over the {arms} contrasts" if arms > 1 else ""
    return (
        f"The rounds were planned before the first run: each setting starts with {first} seed{'s' * (first != 1)} and "
        f"grows to {' and '.join([*between, f'at most {most}'])}. After each round every arm is compared "
        f"with {base} over all settings by a sign-flip test{family}. The level of 5 % is divided over the "
        f"interim analyses ({shares}{early}). The probability of calling any arm better or worse although its "
        "differences are symmetric about zero is therefore at most 5 %, for any number of interim analyses. "
        "Equivalence is tested in the same way, by two one-sided sign-flip tests. An arm that is better, worse or "
        f"equivalent gets no more seeds in any setting; {base} gets as many seeds as the undecided arms. The "
        "estimate of an arm that was found better or worse early is biased away from zero, because chance makes an "
        "early decision more likely; it is reported without correction."
    )
