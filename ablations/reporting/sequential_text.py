"""The rounds of a study in words: how it was to grow, how far it got, and what that saved."""

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
class Saved:
    """What was asked for: runs, and those of a fixed study with the maximum of seeds; seeds by arm."""

    runs: int
    maximum: int
    seeds: dict[str, int]


def saved(plan: StudyPlan, axis: str) -> Saved:
    """What a study with a design has saved so far, its arms being the levels of `axis`."""
    assert plan.design is not None
    settings = len({config for config in plan.configs if config.seed == plan.seeds[0]})
    return Saved(len(plan.keys), settings * plan.design.maximum, planned_seeds(plan, axis))


def spending(plan: StudyPlan, outcomes: Outcomes) -> FloatArray:
    """The share of the level that each look spends."""
    assert plan.design is not None
    return plan.design.shares(len(outcomes.cells), max(len(outcomes.arms) - 1, 1))


def standing(analysis: Analysis) -> str:
    """Whether all is decided, and what comes next if not, as a sentence."""
    growth, outcomes = analysis.growth, analysis.outcomes
    assert growth is not None
    left = analysis.open_arms
    if not left:
        return "Every contrast with the baseline is decided."
    names = ", ".join(outcomes.arm_name(arm) for arm in left)
    targets = seeds_to_add(analysis.looked, growth, left)
    if targets:
        grown = [level_text(level) for level in targets]
        return f"Open: {names}. The next round takes {listed(grown)} to {max(targets.values())} seeds."
    return f"Open, and not to be decided within {growth.design.maximum} seeds: {names}."


def lead(plan: StudyPlan, analysis: Analysis) -> str:
    """What a reader is told before the findings."""
    outcomes = analysis.outcomes
    assert plan.design is not None
    found, most = saved(plan, outcomes.axis), plan.design.maximum
    base, whole = bold(outcomes.arm_name(outcomes.baseline)), most * len(found.seeds)
    runs, seeds = found.maximum - found.runs, whole - sum(found.seeds.values())
    taken = markdown(listed([f"{name_level(outcomes.axis, level)} {n}" for level, n in found.seeds.items()]))
    return (
        f"This study grew in rounds until every contrast with {base} was decided or had its most seeds. It took "
        f"{found.runs:,} of the {found.maximum:,} runs of a study fixed at that many seeds: {runs:,} saved "
        f"({100 * runs / found.maximum:.0f} %). Of at most {most} seeds a setting it took {taken}: {seeds} of {whole} "
        f"saved. {markdown(standing(analysis))} Every p and every interval of a difference holds for all looks "
        "together."
    )


def procedure(plan: StudyPlan, analysis: Analysis) -> str:
    """How the study was to grow and be tested."""
    assert plan.design is not None
    first, *more, most = plan.design.looks
    outcomes = analysis.outcomes
    base, arms = bold(outcomes.arm_name(outcomes.baseline)), len(outcomes.arms) - 1
    spent = spending(plan, outcomes)
    shares = ", ".join(f"{100 * share:.0f} %" for share in spent)
    early = "; early looks that cannot reject leave theirs to later ones" if (spent == 0).any() else ""
    family = f", with Holm's correction over the {arms} contrasts" if arms > 1 else ""
    return (
        f"Before the first run it was settled that each setting begins with {first} seed{'s' * (first != 1)} and grows "
        f"to {''.join(f'{seeds}, ' for seeds in more)}and at most {most}: a quarter more every round. After each round "
        f"every arm is compared with {base} over all settings, by a sign-flip test whose level of 5 % is shared out "
        f"over the looks ({shares}{early}){family}. So the chance that any arm is ever called better or worse though "
        "its differences are symmetric about zero is at most 5 %, however often one looks. Equivalence is tested in "
        "the same way, by two one-sided sign-flip tests. An arm that is better, worse or equivalent gets no more seeds "
        f"in any setting; {base} grows with those that are open. An estimate that stopped an arm early is a little too "
        "large, since luck in its favour is one of the reasons to stop; it is given as it is."
    )
