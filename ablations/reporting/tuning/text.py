"""The search of a tuned study in words, from its design and runs alone: the protocol, and what was searched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ablations.config import Range, TuningDesign, compared_axis, count, level_text
from ablations.config.safe_text import markdown
from ablations.config.tuning import shown_value
from ablations.reporting.formatting import listed
from ablations.reporting.tables import word

if TYPE_CHECKING:
    from ablations.config.tuning import Values
    from ablations.storage import Results, StudyPlan


def space_text(space: Range | tuple[Any, ...]) -> str:
    """Return a space in words: `0.0001 to 0.01, logarithmic`, or `0, 0.05 or 0.3`."""
    if isinstance(space, Range):
        return f"{space.low:g} to {space.high:g}" + ", logarithmic" * space.log
    return listed([level_text(value) for value in space], "or")


def spaces_text(design: TuningDesign) -> str:
    """Return all fields with their spaces: `learning rate (0.0001 to 0.01, logarithmic) and flip (False or True)`."""
    return listed([f"{word(field)} ({space_text(space)})" for field, space in design.space.items()])


def fields_text(design: TuningDesign) -> str:
    return listed([word(field) for field in design.space])


def values_text(values: Values) -> str:
    """Return values with their fields: `learning rate 0.002 and weight decay 0.05`."""
    return listed([f"{word(field)} {shown_value(value)}" for field, value in values.items()])


def verb(design: TuningDesign) -> str:
    """Return the verb after `fields_text`."""
    return "was" if len(design.space) == 1 else "were"


def groups_text(plan: StudyPlan) -> str:
    """Return what shares one choice: `position at each setting`, `position` or `position, alike at all settings`."""
    assert plan.tuning is not None
    arm = word(compared_axis(plan.axes))
    if settings_number(plan) == 1:
        return arm
    return f"{arm}, alike at all settings" if plan.tuning.per == "arm" else f"{arm} at each setting"


def protocol(results: Results) -> str:
    """Return how the values were chosen, as sentences of the method."""
    plan, design = results.plan, results.plan.tuning
    assert design is not None
    assert results.trials is not None
    trials, compared = float(results.trials["flops"].sum()), float(results.runs["flops"].sum())
    share = 100 * trials / ((trials + compared) or 1.0)
    mean = [f"{count(design.seeds, 'seed')}"] if design.seeds > 1 else []
    settings = [f"the {settings_number(plan)} settings"] if design.per == "arm" and settings_number(plan) > 1 else []
    over = f", its mean over {listed([*mean, *settings])}" if mean or settings else ""
    seeds = listed([str(seed) for seed in design.trial_seeds])
    return (
        f"**Tuning.** Before the comparison, {spaces_text(design)} {verb(design)} chosen for each {groups_text(plan)}, "
        f"by {count(design.trials, 'trial')} each. {_sampler(design)}{_epochs(plan)} A trial is scored by the "
        f"validation accuracy after the last epoch{over}; a trial that diverges scores chance. The trial with the "
        f"highest score is chosen, of equal ones the earlier. The seed{'s' * (design.seeds > 1)} of the trials, "
        f"{seeds}, {'are' if design.seeds > 1 else 'is'} not used in the comparison.{_pruning(plan)} The test set was "
        "not used for the trials. Only when all trials had finished were the values fixed and the runs of the "
        f"comparison trained. The trials took {share:.0f} % of all training FLOPs{' so far' * bool(results.missing)}."
    )


def trials_text(plan: StudyPlan) -> str:
    """Return the number of trials, and their length if it is shorter: `5 trials of 10 epochs`."""
    assert plan.tuning is not None
    return " ".join(filter(None, (count(plan.tuning.trials, "trial"), shorter_text(plan))))


def shorter_text(plan: StudyPlan) -> str:
    """Return how long trials are if they are shorter than the comparison: `of 10 epochs`."""
    assert plan.tuning is not None
    if plan.tuning.epochs is None:
        return ""
    return "with fewer epochs" if plan.match else f"of {count(plan.tuning.epochs, 'epoch')}"


def _epochs(plan: StudyPlan) -> str:
    """Return the epochs of trials as a sentence, if they are fewer than those of the comparison."""
    assert plan.tuning is not None
    if plan.tuning.epochs is None:
        return ""
    if plan.match is not None:
        return (
            f" Trials of the baseline arm have {count(plan.tuning.epochs, 'epoch')}; those of the other arms, and the "
            "warm-up of all, are shortened in proportion."
        )
    return (
        f" Trials have {count(plan.tuning.epochs, 'epoch')} instead of {plan.configs[0].epochs}, with a warm-up "
        "shortened in proportion."
    )


def settings_number(plan: StudyPlan) -> int:
    return math.prod(len(levels) for axis, levels in plan.axes.items() if axis != compared_axis(plan.axes))


def _sampler(design: TuningDesign) -> str:
    if design.combinations == design.trials:
        return "All combinations of values are tried." if len(design.space) > 1 else "All values are tried."
    quasi = "the points of a scrambled Sobol sequence (quasi-random), which are the same for all"
    first, rounds = design.rounds[0], len(design.rounds)
    if design.sampler == "qmc":
        return f"The values are {quasi}."
    if rounds == 1:
        return f"The values are {quasi}: with so few trials there is no round for the tree-structured Parzen estimator."
    return (
        f"The values of the first {first} trials are {quasi}; those of the other {design.trials - first}, in "
        f"{count(rounds - 1, 'round')}, are suggested by a tree-structured Parzen estimator (TPE) from the results of "
        "the rounds before."
    )


def _pruning(plan: StudyPlan) -> str:
    design, first = plan.tuning, first_pruned_epoch(plan)
    if design is None or first is None:
        return ""
    rounds = listed([str(size) for size in design.rounds])
    return (
        f" Trials were pruned by the median rule, in rounds of {rounds} trials: at the earliest after epoch {first}, a "
        "run ends if the best validation accuracy that it has had is below the median of the runs of earlier rounds "
        "(of the same arm, setting and seed) after that epoch; a pruned trial is never chosen."
    )


def first_pruned_epoch(plan: StudyPlan) -> int | None:
    """Return the first epoch after which a run of a trial can be pruned; None if none can."""
    return min(
        (epoch for run in plan.trials for epoch, least in enumerate(run.thresholds, start=1) if least > 0), default=None
    )


PAIRS_DIFFER = ("batch_size", "init_std", "crop_padding", "flip", "erase", "mixup", "cutmix", "trivial_augment")
"""Fields in which the runs of a pair cannot differ and still share all batches and initial weights."""


def pairs_differ(design: TuningDesign | None) -> bool:
    """Return whether the runs of a pair may have other batches or initial weights because of tuned fields."""
    return design is not None and any(field in design.space for field in PAIRS_DIFFER)


def intervals_note(design: TuningDesign) -> str:
    """Return what the intervals and tests of the comparison do not say."""
    return (
        "Intervals and p are conditional on the chosen values: they account for other seeds of the comparison, not "
        f"for a search with other trials, which could choose other values of {markdown(fields_text(design))}."
    )
