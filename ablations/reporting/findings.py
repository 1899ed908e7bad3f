"""Findings of a study: its statements as data, each with its numbers and the runs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablations.statistics import (
    ALPHA,
    DIFFERENT,
    Analysis,
    Contrast,
    Divergence,
    Interaction,
    Measure,
    Outcomes,
    Verdict,
    estimate,
    verdict,
)


@dataclass(frozen=True)
class SummaryFinding:
    """The answer to the question of the study: the arm with the best mean, and how it compares with the others.

    `contrast` compares the `leader` with the baseline or, if the baseline leads, the arm that comes closest to it.
    `averaged_over` are the axes of the settings. `others` compares the leader with every further arm (empty if the
    baseline leads). `changes` are the changes of `contrast` that were found, the clearest first.
    """

    baseline: str
    leader: str
    contrast: Contrast
    contrasts: tuple[Contrast, ...]
    averaged_over: tuple[str, ...] = ()
    others: tuple[Contrast, ...] = ()
    changes: tuple[Interaction, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return verdict(self.contrast)

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(sorted({key for contrast in (*self.contrasts, *self.others) for key in contrast.runs}))


@dataclass(frozen=True)
class ContrastFinding:
    """Comparison of one arm with another."""

    contrast: Contrast
    depends_on: tuple[str, ...] = ()
    """Axes along which the difference was found to change."""

    @property
    def verdict(self) -> Verdict:
        return verdict(self.contrast)


@dataclass(frozen=True)
class InteractionFinding:
    """A change of an arm's difference from the baseline along another axis."""

    interaction: Interaction

    @property
    def contrast(self) -> Contrast:
        return self.interaction.change

    @property
    def verdict(self) -> Verdict:
        return verdict(self.contrast)


@dataclass(frozen=True)
class NoInteractionFinding:
    """The absence of evidence for any change along an axis."""

    axis: str
    arm_axis: str
    tested: tuple[Interaction, ...]

    verdict = Verdict.UNDECIDED

    @property
    def contrast(self) -> Contrast | None:
        """The change with the smallest p."""
        known = [i.change for i in self.tested if i.change.n]
        return min(known, key=lambda c: (c.p_adjusted, c.p, c.subject), default=None)


@dataclass(frozen=True)
class DivergenceFinding:
    """How often the runs of an arm diverged, and its contrast with the baseline without diverged runs."""

    divergence: Divergence
    baseline: Divergence
    contrast: Contrast | None
    """None for the baseline itself."""

    @property
    def verdict(self) -> str:
        if self.divergence.is_baseline:
            return "description"
        if not self.divergence.p_adjusted <= ALPHA:
            return str(Verdict.UNDECIDED)
        return "more often" if self.divergence.only_arm > self.divergence.only_baseline else "less often"


@dataclass(frozen=True)
class BestCellFinding:
    """The arm and setting with the best mean, the best of `means`: a description, not a test."""

    name: str
    mean: float
    low: float
    high: float
    n: int
    means: int
    runs: tuple[str, ...]
    measure: Measure

    verdict = "description"


Finding = (
    SummaryFinding | ContrastFinding | InteractionFinding | NoInteractionFinding | DivergenceFinding | BestCellFinding
)


def claims(analysis: Analysis) -> list[Finding]:
    """Return the findings of a study, the most important first.

    The answer; each arm against the baseline; arms that diverged; the changes along other axes; the arm with the
    best mean against the others; axes without a change; the best setting. A study of one arm has the best setting
    only.
    """
    outcomes = analysis.outcomes
    changes = {axis: [i for i in tested if _is_change(i)] for axis, tested in analysis.interactions.items()}
    others = _leader_contrasts(analysis)
    found: list[Finding] = []
    if analysis.contrasts:
        found.append(summary(outcomes, analysis.contrasts, others, [i for each in changes.values() for i in each]))
    for contrast in analysis.contrasts:
        axes = [axis for axis, decided in changes.items() for i in decided if i.change.subject == contrast.subject]
        found.append(ContrastFinding(contrast, tuple(dict.fromkeys(axes))))
    found += _divergences(analysis)
    found += [InteractionFinding(i) for decided in changes.values() for i in decided]
    found += [ContrastFinding(contrast) for contrast in others]
    found += [
        NoInteractionFinding(axis, outcomes.axis, tuple(tested))
        for axis, tested in analysis.interactions.items()
        if not changes[axis]
    ]
    return [*found, _best_cell(analysis)]


def more_seeds(contrast: Contrast) -> int | None:
    """Return the seeds to add per setting for 80 % power at the observed difference and spread, None if unknown."""
    needed = contrast.seeds_needed
    return None if needed is None or contrast.n == 0 or contrast.sequential else max(1, needed - contrast.seeds)


def summary(
    outcomes: Outcomes,
    contrasts: Sequence[Contrast],
    others: Sequence[Contrast] = (),
    changes: Sequence[Interaction] = (),
) -> SummaryFinding:
    """Return how the arm with the best mean compares with the baseline, from all contrasts with the baseline."""
    leader, sign = best_arm(outcomes), outcomes.measure.sign
    compared = [c for c in contrasts if c.n] or contrasts
    contrast = next((c for c in contrasts if c.subject == leader), max(compared, key=lambda c: sign * c.mean))
    own = sorted(
        (i for i in changes if i.change.subject == contrast.subject),
        key=lambda i: (i.change.p_adjusted, -abs(i.change.mean)),
    )
    baseline = outcomes.arm_name(outcomes.baseline)
    further = () if leader == baseline else tuple(others)
    axes = outcomes.cell_axes if contrast.cells > 1 else ()
    return SummaryFinding(baseline, leader, contrast, tuple(contrasts), tuple(axes), further, tuple(own))


def _divergences(analysis: Analysis) -> list[DivergenceFinding]:
    """Return a finding for the arms that diverged, and for all others if the baseline diverged."""
    if not analysis.divergences or not analysis.contrasts:
        return []
    base = next(each for each in analysis.divergences if each.is_baseline)
    without = {contrast.subject: contrast for contrast in analysis.contrasts_without_diverged}
    told = [each for each in analysis.divergences if each.diverged or (base.diverged and not each.is_baseline)]
    return [DivergenceFinding(each, base, without.get(each.arm)) for each in told if each.runs]


def _leader_contrasts(analysis: Analysis) -> list[Contrast]:
    """Return the contrasts of the arm with the best mean with every arm but the baseline."""
    outcomes = analysis.outcomes
    base, leader = outcomes.arm_name(outcomes.baseline), best_arm(outcomes)
    return [c for c in analysis.pairs if base not in (c.subject, c.reference) and leader in (c.subject, c.reference)]


def best_arm(outcomes: Outcomes) -> str:
    """Return the arm with the best mean over the blocks in which all arms finished, else over all its runs."""
    whole = np.isfinite(outcomes.values).all(axis=0)
    means = [estimate(np.where(whole | ~whole.any(), row, np.nan)) for row in outcomes.values]
    return outcomes.arm_name(int(np.nanargmax(outcomes.measure.sign * np.array(means))))


def _is_change(interaction: Interaction) -> bool:
    return verdict(interaction.change) in DIFFERENT


def _best_cell(analysis: Analysis) -> BestCellFinding:
    outcomes, table = analysis.outcomes, analysis.cell_means
    best = int((outcomes.measure.sign * table["mean"]).argmax())
    arm, cell = divmod(best, len(outcomes.cells))
    name = ", ".join(filter(None, (outcomes.arm_name(arm), outcomes.cell_name(cell))))
    keys = tuple(sorted(str(key) for key in outcomes.keys[arm, cell] if key))
    row = table.iloc[best]
    numbers = float(row["mean"]), float(row["low"]), float(row["high"])
    means = int((table["n"] > 0).sum())
    return BestCellFinding(name, *numbers, n=int(row["n"]), means=means, runs=keys, measure=outcomes.measure)
