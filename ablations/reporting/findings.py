"""What a report says: findings as typed claims, each with its numbers and its runs, and each put into words here.

A claim's verdict follows from its numbers alone. The words never go beyond the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablations.config import name_level
from ablations.config.safe_text import bold, markdown, plain
from ablations.reporting.formatting import interval_text, listed, mean_interval, p_phrase, p_text, points_text
from ablations.statistics import (
    ALPHA,
    MARGIN,
    MOST_SEEDS,
    SEQUENTIAL,
    Analysis,
    Contrast,
    Interaction,
    Outcomes,
    Verdict,
    estimate,
    verdict,
)


@dataclass(frozen=True)
class ContrastFinding:
    """How one arm compares with another."""

    contrast: Contrast
    depends_on: tuple[str, ...] = ()
    """Axes along which the difference was found to change."""

    @property
    def verdict(self) -> Verdict:
        return verdict(self.contrast)

    @property
    def sentence(self) -> str:
        c = self.contrast
        a, b = bold(c.subject), bold(c.reference)
        average = " on average over these settings" if c.cells > 1 else ""
        depends = _depends("The difference depends on", self.depends_on)
        match self.verdict:
            case Verdict.BETTER | Verdict.WORSE:
                return (
                    f"{a} is {self.verdict} than {b} by {abs(c.mean):.1f} points{average} ({_evidence(c)})."
                    f"{_zero_inside(c)}{depends}"
                )
            case Verdict.EQUIVALENT:
                test = f"equivalence p = {p_text(c.p_equivalence)}".replace("= <", "<")
                return (
                    f"{a} and {b} are equivalent within {MARGIN:g} points{average}: the difference is "
                    f"{points_text(c.mean)} ({_interval(c)}{test}; {_blocks(c)}).{depends}"
                )
            case Verdict.UNDECIDED:
                return (
                    f"{a} against {b} is undecided: the difference is {points_text(c.mean)} points ({_evidence(c)})."
                    f"{depends} {_disagreement(c)}{_inside(c)}{_needs(c)}"
                )
            case Verdict.NO_PAIRS:
                return f"{a} cannot be compared with {b}: there is no pair of finished runs."


@dataclass(frozen=True)
class SummaryFinding:
    """What is decided of the arms, in one sentence without numbers, from their contrasts with the baseline.

    `pairs` are the contrasts of the arm with the highest mean with the other arms.
    """

    baseline: str
    contrasts: tuple[Contrast, ...]
    leader: str
    pairs: tuple[Contrast, ...]
    depends_on: tuple[str, ...] = ()
    """Axes along which some of these differences were found to change."""

    verdict = "summary"

    @property
    def sentence(self) -> str:
        groups: dict[Verdict, list[str]] = {}
        for contrast in self.contrasts:
            groups.setdefault(verdict(contrast), []).append(bold(contrast.subject))
        base = bold(self.baseline)
        words = {
            Verdict.BETTER: f"better than {base}",
            Verdict.WORSE: f"worse than {base}",
            Verdict.EQUIVALENT: f"equivalent to {base} within {MARGIN:g} points",
            Verdict.UNDECIDED: f"not told apart from {base}",
            Verdict.NO_PAIRS: f"not compared with {base}",
        }
        parts = [
            f"{listed(groups[kind])} {'is' if len(groups[kind]) == 1 else 'are'} {text}"
            for kind, text in words.items()
            if kind in groups
        ]
        average = ", on average over these settings" if any(c.cells > 1 for c in self.contrasts) else ""
        depends = _depends("These differences depend on", self.depends_on)
        return f"In short{average}: {'; '.join(parts)}.{depends}{self._best()}"

    def _best(self) -> str:
        """Whether one arm is shown to be the best of all."""
        better = [c.subject for c in self.contrasts if verdict(c) is Verdict.BETTER]
        if len(better) < 2:
            return ""
        against = [c for c in self.pairs if {c.subject, c.reference} <= set(better)]
        if against and all(c.subject == self.leader and verdict(c) is Verdict.BETTER for c in against):
            return f" {bold(self.leader)} is the best of them."
        return " Which of these is the best is not decided."


@dataclass(frozen=True)
class InteractionFinding:
    """How an arm's lead over the baseline changes along another axis."""

    interaction: Interaction

    @property
    def verdict(self) -> Verdict:
        return verdict(self.interaction.change)

    @property
    def sentence(self) -> str:
        i, c = self.interaction, self.interaction.change
        here, there = (markdown(name_level(i.axis, level)) for level in (i.level, i.from_level))
        return (
            f"The difference of {bold(c.subject)} from {bold(c.reference)} depends on {i.axis.replace('_', ' ')}: it "
            f"is {points_text(i.from_lead)} points at {there} and {points_text(i.lead)} at {here}, a change of "
            f"{points_text(c.mean)} ({_evidence(c, 'block', wins=False)}).{_zero_inside(c)}"
        )


@dataclass(frozen=True)
class NoInteractionFinding:
    """That no change of any lead along an axis was found: absence of evidence, and said so."""

    axis: str
    arm_axis: str
    tested: tuple[Interaction, ...]

    verdict = Verdict.UNDECIDED

    @property
    def contrast(self) -> Contrast | None:
        """The change with the smallest p."""
        known = [i.change for i in self.tested if i.change.n]
        return min(known, key=lambda c: (c.p_adjusted, c.p, c.subject), default=None)

    @property
    def sentence(self) -> str:
        question = f"Whether the differences between {_plural(self.arm_axis)} depend on {self.axis.replace('_', ' ')}"
        best = self.contrast
        if best is None:
            return f"{question} cannot be said: there are no pairs at two levels."
        blocks = _blocks(best, "block")
        if best.sequential and best.p_smallest >= 1:
            return f"{question} cannot be decided yet, with {blocks}."
        if best.p_adjusted_smallest > ALPHA:
            return (
                f"{question} cannot be decided with {blocks}: the smallest p they can reach is "
                f"{p_text(best.p_adjusted_smallest)}.{self._needs(best)}"
            )
        return (
            f"{question} is undecided: of {_count(len(self.tested), 'change')} tested, the clearest has "
            f"{best.correction} {p_phrase(best.p_adjusted)} ({markdown(best.subject)}, {points_text(best.mean)} "
            f"points; {blocks}).{self._needs(best)}"
        )

    def _needs(self, best: Contrast) -> str:
        """The seeds that the clearest change needs, were it the only one tested."""
        more = more_seeds(best)
        if more is None:
            return ""
        return (
            f" Alone it would need about {_count(more, 'more seed')} a setting, if change and spread stay as they are."
        )


@dataclass(frozen=True)
class BestCellFinding:
    """The arm and setting with the highest mean accuracy: a description of these runs, not a test."""

    name: str
    mean: float
    low: float
    high: float
    n: int
    means: int
    """Of which this is the highest."""
    runs: tuple[str, ...]

    verdict = "description"

    @property
    def sentence(self) -> str:
        found = mean_interval(self.low, self.high)
        interval = f"; 95 % interval {found}" if " to " in found else f", {found}" if found else ""
        return (
            f"The highest mean test accuracy is {self.mean:.1f} %, by {bold(self.name)} "
            f"({_count(self.n, 'run')}{interval})"
            + (f"; the highest of {self.means} means is in part luck." if self.means > 1 else ".")
        )


Finding = SummaryFinding | ContrastFinding | InteractionFinding | NoInteractionFinding | BestCellFinding


def claims(analysis: Analysis) -> list[Finding]:
    """The findings of a study, most important first.

    What is decided, in short; each arm against the baseline; the arm with the highest mean against the others; where
    leads depend on another axis; the best setting.
    """
    outcomes = analysis.outcomes
    base, leader = outcomes.arm_name(outcomes.baseline), _leader(outcomes)
    pairs = [c for c in analysis.pairs if base not in (c.subject, c.reference) and leader in (c.subject, c.reference)]
    changes = {axis: [i for i in tested if _changes(i)] for axis, tested in analysis.interactions.items()}
    found: list[Finding] = []
    if len(analysis.contrasts) > 1:
        depends_on = tuple(axis for axis, decided in changes.items() if decided)
        found.append(SummaryFinding(base, tuple(analysis.contrasts), leader, tuple(pairs), depends_on))
    for contrast in analysis.contrasts:
        axes = [axis for axis, decided in changes.items() for i in decided if i.change.subject == contrast.subject]
        found.append(ContrastFinding(contrast, tuple(dict.fromkeys(axes))))
    found += [ContrastFinding(contrast) for contrast in pairs]
    for axis, tested in analysis.interactions.items():
        found += [InteractionFinding(i) for i in changes[axis]]
        if not changes[axis]:
            found.append(NoInteractionFinding(axis, outcomes.axis, tuple(tested)))
    found.append(_best_cell(analysis))
    return found


def findings_table(found: Sequence[Finding]) -> pd.DataFrame:
    """The claims as rows: every number of a sentence stands in its row, with the keys of the runs behind it."""
    rows: list[dict[str, object]] = []
    for claim in found:
        row: dict[str, object] = {"kind": type(claim).__name__.removesuffix("Finding"), "verdict": str(claim.verdict)}
        if isinstance(claim, BestCellFinding):
            row |= {"subject": claim.name, "estimate": claim.mean, "low": claim.low, "high": claim.high}
            row |= {"n": claim.n, "tested": claim.means, "runs": " ".join(key[:16] for key in claim.runs)}
        elif isinstance(claim, SummaryFinding):
            row |= {"runs": " ".join(sorted({key[:16] for c in (*claim.contrasts, *claim.pairs) for key in c.runs}))}
        else:
            if isinstance(claim, InteractionFinding):
                i = claim.interaction
                row |= {"axis": i.axis, "from_level": i.from_level, "level": i.level}
                row |= {"from_lead": i.from_lead, "lead": i.lead}
            if isinstance(claim, NoInteractionFinding):
                row |= {"axis": claim.axis, "tested": len(claim.tested)}
            contrast = claim.interaction.change if isinstance(claim, InteractionFinding) else claim.contrast
            if contrast is not None:
                row |= contrast_row(contrast)
        rows.append(row | {"sentence": plain(claim.sentence)})
    columns = (
        "kind verdict subject reference axis from_level level from_lead lead estimate low high p p_adjusted correction "
    )
    columns += "p_smallest p_adjusted_smallest p_equivalence n settings settings_planned pairs_ahead seeds more_seeds "
    columns += "tested sentence runs"
    if any("seeds_needed" in row for row in rows):
        columns = columns.replace("more_seeds", "seeds_needed")
    return pd.DataFrame(rows).reindex(columns=columns.split())


def contrast_row(c: Contrast) -> dict[str, object]:
    """A contrast with the column names of the tables; keys of runs cut to the 16 characters of their folders."""
    return {
        "subject": c.subject,
        "reference": c.reference,
        "estimate": c.mean,
        "low": c.low,
        "high": c.high,
        "p": c.p,
        "p_adjusted": c.p_adjusted,
        "correction": c.correction,
        "p_smallest": c.p_smallest,
        "p_adjusted_smallest": c.p_adjusted_smallest,
        "p_equivalence": c.p_equivalence,
        "effect_size": c.effect_size,
        "probability_of_improvement": c.probability_of_improvement,
        "n": c.n,
        "settings": c.cells,
        "settings_planned": c.cells_planned,
        "pairs_ahead": c.wins,
        "seeds": c.seeds,
        "more_seeds": more_seeds(c),
        **({"seeds_needed": c.seeds_needed} if c.sequential else {}),
        "verdict": str(verdict(c)),
        "runs": " ".join(key[:16] for key in c.runs),
    }


def more_seeds(contrast: Contrast) -> int | None:
    """Seeds to add to every cell for 80 % power at the observed difference and spread; None where not known."""
    needed = contrast.seeds_needed
    return None if needed is None or contrast.n == 0 or contrast.sequential else max(1, needed - contrast.seeds)


def _interval(c: Contrast) -> str:
    if not np.isfinite(c.low):
        return ""
    return f"95 % interval {interval_text(c.low, c.high)}; "


def _evidence(c: Contrast, noun: str = "pair", *, wins: bool = True) -> str:
    ahead = f", ahead in {c.wins}" if wins and c.n > 1 else ""
    return f"{_interval(c)}{c.correction} {p_phrase(c.p_adjusted)}; {_blocks(c, noun)}{ahead}"


def _blocks(c: Contrast, noun: str = "pair") -> str:
    """How many blocks, and over which part of the settings where some have none: they are what the estimate is of."""
    part = f" over {c.cells} of {c.cells_planned} settings" if c.cells < c.cells_planned else ""
    return f"{_count(c.n, noun)}{part}"


def _disagreement(c: Contrast) -> str:
    """Why an interval without zero is no decision."""
    if not (c.low > 0 or c.high < 0) or c.p_adjusted_smallest > ALPHA:
        return ""
    if c.p <= ALPHA:
        return "The interval leaves out zero: alone it would pass, but not as one of so many comparisons. "
    if c.cells > 1:
        return (
            "The interval leaves out zero, but p, unlike the interval, counts differences between settings as chance. "
        )
    return "The interval leaves out zero, but a verdict goes by p alone. "


def _zero_inside(c: Contrast) -> str:
    """Why an interval with zero may stand beside a decision."""
    if not c.low <= 0 <= c.high:
        return ""
    return " The interval includes zero, as it is cautious with few seeds; a verdict goes by p alone."


def _depends(what: str, axes: Sequence[str]) -> str:
    """That a difference is no one number, where it was found to change along an axis."""
    return f" {what} {listed([axis.replace('_', ' ') for axis in axes])}." if axes else ""


def _changes(interaction: Interaction) -> bool:
    """Whether a difference was found to change."""
    return verdict(interaction.change) in (Verdict.BETTER, Verdict.WORSE)


def _inside(c: Contrast) -> str:
    """Why an interval within the margin is no equivalence."""
    if not (c.low >= -MARGIN and c.high <= MARGIN):
        return ""
    if np.isnan(c.p_equivalence):
        return f"The interval lies within {MARGIN:g} points, but differences all the same tell nothing of the spread. "
    if c.sequential:
        return f"The interval lies within {MARGIN:g} points, but the test of equivalence for all looks does not pass. "
    return f"The interval lies within {MARGIN:g} points: alone it would pass as equivalent, but not as one of so many. "


def _needs(c: Contrast) -> str:
    floor = ""
    if c.sequential and c.p_smallest >= 1:
        floor = f"With {_count(c.n, 'pair')} no difference can be shown yet. "
    elif c.p_adjusted_smallest > ALPHA and not c.sequential:
        floor = f"With {_count(c.n, 'pair')} the smallest p is {p_text(c.p_smallest)}"
        if c.p_adjusted_smallest > c.p_smallest:
            floor += f", {p_text(c.p_adjusted_smallest)} after {c.correction.removeprefix(SEQUENTIAL)}"
        floor += ", so no difference could have been shown. "
    if c.n < 2:
        return f"{floor}One pair tells nothing of the spread between seeds: run at least 2 more."
    if c.sequential:
        needed = f"about {_count(c.seeds_needed, 'seed')}" if c.seeds_needed else f"over {MOST_SEEDS:,} seeds"
        return f"{floor}A fixed study would need {needed} a setting, if difference and spread are as they seem."
    more = more_seeds(c)
    if more is None:
        return f"{floor}To find a difference this small, each setting would need over {MOST_SEEDS:,} seeds."
    return (
        f"{floor}To decide this, about {_count(more, 'more seed')} a setting {'is' if more == 1 else 'are'} needed, if "
        "difference and spread stay as they are."
    )


def _leader(outcomes: Outcomes) -> str:
    """The arm with the highest mean over the blocks in which all arms finished, else over all its runs."""
    whole = np.isfinite(outcomes.accuracy).all(axis=0)
    means = [estimate(np.where(whole | ~whole.any(), row, np.nan)) for row in outcomes.accuracy]
    return outcomes.arm_name(int(np.nanargmax(means)))


def _best_cell(analysis: Analysis) -> BestCellFinding:
    outcomes, table = analysis.outcomes, analysis.cell_means
    best = int(table["mean"].argmax())
    arm, cell = divmod(best, len(outcomes.cells))
    name = ", ".join(filter(None, (outcomes.arm_name(arm), outcomes.cell_name(cell))))
    keys = tuple(sorted(str(key) for key in outcomes.keys[arm, cell] if key))
    row = table.iloc[best]
    numbers = float(row["mean"]), float(row["low"]), float(row["high"])
    return BestCellFinding(name, *numbers, n=int(row["n"]), means=int((table["n"] > 0).sum()), runs=keys)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _plural(axis: str) -> str:
    word = axis.replace("_", " ")
    return {"patch": "patch sizes"}.get(word, f"{word}s")
