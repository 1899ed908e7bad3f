"""The first screen of a report: the answer, and a compact table of the contrasts with the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablations.config.safe_text import bold, markdown
from ablations.reporting.findings import claims
from ablations.reporting.formatting import interval_cell, p_text, points_text
from ablations.reporting.tables import Strong, Table, word
from ablations.reporting.wording import axes_text, sentence
from ablations.statistics import ALPHA, DIFFERENT, MARGIN, Analysis, Contrast, Verdict, verdict


def first_screen(analysis: Analysis) -> str:
    """Return the answer and the table of the contrasts with its legend, as markdown."""
    answer, *_ = map(sentence, claims(analysis))
    if not analysis.contrasts:
        return answer
    table = verdict_table(analysis.outcomes.axis, analysis.contrasts)
    legend = verdict_legend(analysis.contrasts)
    return f"{answer}\n\n{verdict_caption(analysis)}:\n\n{table}\n\n{legend}"


def verdict_caption(analysis: Analysis) -> str:
    """Return what the differences in the table are."""
    outcomes = analysis.outcomes
    measure, baseline = outcomes.measure, bold(outcomes.arm_name(outcomes.baseline))
    unit = f", in {markdown(measure.differences_in)}" if measure.differences_in else ""
    averaged = any(contrast.cells > 1 for contrast in analysis.contrasts)
    over = f", averaged over {axes_text(outcomes.cell_axes)}" if averaged else ""
    return f"Difference in {markdown(measure.noun)} from the baseline {baseline}{unit}{over}"


def verdict_table(axis: str, contrasts: Sequence[Contrast]) -> Table:
    """Return the contrasts of the levels of `axis` as a table.

    Intervals are omitted if there are none, the number of settings if no contrast lacks one.
    """
    intervals = any(np.isfinite(contrast.low) for contrast in contrasts)
    partial = any(contrast.cells < contrast.cells_planned for contrast in contrasts)
    rows = []
    for c in contrasts:
        difference = points_text(c.mean, c.measure.decimals) if np.isfinite(c.mean) else "–"
        optional = [f"{c.cells} of {c.cells_planned}"] * partial + [
            interval_cell(c.low, c.high, c.measure.decimals)
        ] * intervals
        level = c.subject.removeprefix(f"{word(axis)} ")
        rows.append((level, Strong(str(verdict(c))), difference, *optional, p_text(c.p_adjusted)))
    optional = ["settings"] * partial + ["95 % interval"] * intervals
    header = [word(axis), "verdict", "difference", *optional, "adjusted p"]
    return Table(header, rows, left=2)


def verdict_legend(contrasts: Sequence[Contrast]) -> str:
    """Return what the verdicts in the table mean."""
    found = {verdict(contrast) for contrast in contrasts}
    parts = []
    if found & DIFFERENT:
        names = " or ".join(f"**{kind}**" for kind in Verdict if kind in found & DIFFERENT)
        parts.append(f"{names}: adjusted p is at most {ALPHA:g}")
    if Verdict.EQUIVALENT in found:
        parts.append(f"**equivalent**: the difference is shown to be within {MARGIN:g} points")
    if Verdict.UNDECIDED in found:
        sequential = any(contrast.sequential for contrast in contrasts)
        parts.append(f"**undecided**: {'not decided yet' if sequential else 'too few runs to tell'}")
    if Verdict.NO_PAIRS in found:
        parts.append("**no pairs**: no pair of runs has finished")
    return f"{'; '.join(parts)}."
