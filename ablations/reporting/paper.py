"""Text for a paper: methods, results, a table, threats to validity and checklist answers, as markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ablations.config import count
from ablations.config.safe_text import latex, markdown, plain
from ablations.reporting.facts import facts
from ablations.reporting.findings import (
    ContrastFinding,
    DivergenceFinding,
    Finding,
    InteractionFinding,
    SummaryFinding,
    claims,
)
from ablations.reporting.formatting import (
    capital,
    in_unit,
    interval_cell,
    interval_text,
    listed,
    p_phrase,
    p_text,
    points_text,
)
from ablations.reporting.method import method
from ablations.reporting.tables import Table, word
from ablations.reporting.threats import checklist, threats
from ablations.reporting.tuning.analysis import chosen_range
from ablations.reporting.tuning.text import values_text
from ablations.reporting.tuning.untuned_text import untuned_findings
from ablations.reporting.wording import sentence
from ablations.statistics import ALPHA, MARGIN, Analysis, verdict

if TYPE_CHECKING:
    from ablations.reporting.evaluation_analysis import EvaluationAnalysis, ProtocolAnalysis
    from ablations.reporting.tuning.analysis import TuningAnalysis
    from ablations.storage import Results

FILES = ("paper.md", "paper.tex")

MOST_CHOICES = 5
"""Most arms and settings whose chosen values are in the text."""

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage[margin=2.5cm]{geometry}
\begin{document}
"""


@dataclass(frozen=True)
class Paper:
    """The parts of the text, without markup; each item of a list has a name and a text."""

    title: str
    methods: str
    results: str
    caption: str
    table: Table
    threats: Sequence[tuple[str, str]]
    checklist: Sequence[tuple[str, str]]

    def markdown(self) -> str:
        """Return the text as paper.md."""
        parts = [f"# {markdown(self.title)}", "## Methods", markdown(self.methods), "## Results"]
        parts += [markdown(self.results)]
        parts += [str(self.table), f"*{markdown(self.caption)}*"] if self.table.rows else []
        for heading, items in self._lists():
            parts += [f"## {heading}", "\n".join(f"- **{markdown(name)}.** {markdown(text)}" for name, text in items)]
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """Return the text as paper.tex, a complete document; needs pdfLaTeX or newer, booktabs and graphicx."""
        parts = [rf"\section*{{{latex(self.title)}}}", r"\subsection*{Methods}", latex(self.methods)]
        parts += [r"\subsection*{Results}", latex(self.results)]
        table = rf"\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{{self.table.latex().strip()}}}"
        caption = rf"\caption{{{latex(self.caption)}}}"
        if self.table.rows:
            parts += ["\n".join([r"\begin{table}[h]", r"\centering", table, caption, r"\end{table}"])]
        for heading, items in self._lists():
            lines = [rf"\item[{{{latex(name)}.}}] {latex(text)}" for name, text in items]
            parts += [rf"\subsection*{{{heading}}}"]
            parts += ["\n".join([r"\begin{description}", *lines, r"\end{description}"])]
        return PREAMBLE + "\n\n".join(parts) + "\n\n\\end{document}\n"

    def files(self) -> dict[str, str]:
        """Return the contents of the files by name."""
        return dict(zip(FILES, (self.markdown(), self.latex()), strict=True))

    def _lists(self) -> list[tuple[str, Sequence[tuple[str, str]]]]:
        return [("Threats to validity", self.threats), ("Answers for a reproducibility checklist", self.checklist)]


def paper(
    results: Results,
    analysis: Analysis,
    evaluated: EvaluationAnalysis | None = None,
    tuned: TuningAnalysis | None = None,
) -> Paper:
    """Return the text for a paper from the runs of a study; the same runs give the same text.

    Of the evaluations it has a sentence on each protocol that was chosen before the training, of the trials of a tuned
    study what tuning changed.
    """
    return Paper(
        title=results.plan.question,
        methods=_methods(results, analysis, evaluated),
        results=" ".join([_results(analysis), *_evaluated(evaluated), *_tuned(tuned)]),
        caption=_caption(analysis),
        table=_table(analysis),
        threats=threats(results, analysis, [each.name for each in _chosen(evaluated)], tuned),
        checklist=checklist(results, analysis, facts(results, analysis)),
    )


def _methods(results: Results, analysis: Analysis, evaluated: EvaluationAnalysis | None) -> str:
    varied, *described = (re.sub(r"^[^.]*\.\s", "", plain(text), count=1) for text in method(results))
    text = " ".join([f"The study varies {varied[0].lower()}{varied[1:]}", *described])
    if not analysis.contrasts:
        return text
    m = analysis.outcomes.measure
    growth, single = analysis.growth is not None, len(analysis.outcomes.seeds) == 1
    noise = "" if single else ", divided by its standard error from the variance between seeds within settings"
    rounds = ", repeated after each round with alpha spending" if growth else ""
    text += (
        f" Arms are compared by paired differences in {m.noun}, averaged over the seeds of each setting and then "
        f"over settings. p is that of a sign-flip permutation test of this mean{noise}{rounds}, adjusted by Holm's "
        f"correction; a difference is significant if the adjusted p is at most {ALPHA:g}."
    )
    if m.is_share:
        text += (
            f" Two arms are equivalent if two one-sided {'sign-flip tests' if growth else 't-tests'} show that the "
            f"difference is within {MARGIN:g} points."
        )
    if analysis.interactions:
        text += " Changes of a difference along another axis are tested jointly, by the same signs for all of them."
    if _chosen(evaluated):
        text += (
            " All metrics of an evaluation protocol are tested jointly for each arm, by the same signs for all of "
            "them; the number of arms multiplies this p."
        )
    if not single:
        text += " Intervals are 95 % confidence intervals over seeds (Student's t, extended by a bootstrap)."
    if analysis.other_images:
        text += " Intervals over other test images treat seeds and images as crossed random effects."
    return text


def _results(analysis: Analysis) -> str:
    """Return the answer, the other contrasts with the baseline, divergence, changes, and intervals over images."""
    answer, *others = claims(analysis)
    told = [answer] + [
        finding
        for finding in others
        if isinstance(finding, DivergenceFinding | InteractionFinding)
        or (isinstance(finding, ContrastFinding) and finding.contrast in analysis.contrasts)
    ]
    if isinstance(answer, SummaryFinding):
        repeated = [ContrastFinding, answer.contrast], *([InteractionFinding, each] for each in answer.changes)
        told = [finding for finding in told if [type(finding), _subject(finding)] not in repeated]
    found = [plain(sentence(finding)) for finding in told]
    if analysis.other_images:
        intervals = [
            f"{interval_text(each.low, each.high)} points for {each.subject}" for each in analysis.other_images
        ]
        found.append(
            "Over other seeds and other test images, the 95 % intervals of the differences from "
            f"{analysis.other_images[0].reference} are {listed(intervals)}."
        )
    return " ".join(found)


def _chosen(evaluated: EvaluationAnalysis | None) -> list[ProtocolAnalysis]:
    """Return the evaluation protocols that were chosen before the training and have a finding."""
    return [each for each in evaluated.protocols if each.beforehand and each.finding] if evaluated else []


def _evaluated(evaluated: EvaluationAnalysis | None) -> list[str]:
    """Return a sentence on each evaluation protocol that was chosen before the training."""
    found = []
    for each in _chosen(evaluated):
        finding = each.finding
        assert finding is not None
        p = f"{finding.contrast.correction} {p_phrase(finding.contrast.p_adjusted)}"
        questions = f"{count(each.questions, 'contrast')} of the protocol, chosen before the training"
        found.append(
            f"{capital(each.protocol.description)} (protocol {each.name}): {_first(plain(sentence(finding)))} "
            f"({p}, over the {questions})."
        )
    return found


def _tuned(tuned: TuningAnalysis | None) -> list[str]:
    """Return the chosen values, and what tuning changed in comparison with shared values."""
    if tuned is None:
        return []
    if len(tuned.choices) <= MOST_CHOICES:
        chosen = "; ".join(f"{choice.name}: {values_text(choice.values)}" for choice in tuned.choices)
        found = [f"The chosen values are, for {chosen}."]
    else:
        ranges = [f"{word(field)} {chosen_range(tuned, field)}" for field in tuned.design.space]
        found = [f"The chosen values are {listed(ranges)} (tables/choices.tex)."]
    return found + [re.sub("`", "", plain(text)) for text in (untuned_findings(tuned.untuned) if tuned.untuned else [])]


def _first(text: str) -> str:
    """Return the first sentence of a text, without its full stop."""
    return re.split(r"\.(?=\s|$)", text, maxsplit=1)[0]


def _subject(finding: Finding) -> object:
    """Return what a finding is about."""
    return finding.interaction if isinstance(finding, InteractionFinding) else getattr(finding, "contrast", None)


def _caption(analysis: Analysis) -> str:
    outcomes, m = analysis.outcomes, analysis.outcomes.measure
    axes = f", averaged over {listed(list(map(word, outcomes.cell_axes)))}" if outcomes.cell_axes else ""
    intervals = "95 % intervals and " if any(np.isfinite(contrast.low) for contrast in analysis.contrasts) else ""
    return (
        f"Paired differences in {m.noun} from {in_unit(outcomes.arm_name(outcomes.baseline), m.differences_in)}{axes}, "
        f"with {intervals}p adjusted by Holm's correction."
    )


def _table(analysis: Analysis) -> Table:
    images = {each.subject: each for each in analysis.other_images}
    rates = {each.arm: f"{each.diverged} of {each.runs}" for each in analysis.divergences}
    header = ["arm", "difference", "over other seeds", *["over other seeds and images"] * bool(images)]
    rows: list[tuple[object, ...]] = []
    for c in analysis.contrasts:
        both = images.get(c.subject)
        rows.append(
            (
                c.subject,
                points_text(c.mean, c.measure.decimals) if c.n else "–",
                interval_cell(c.low, c.high, c.measure.decimals),
                *[interval_cell(both.low, both.high) if both else "–"] * bool(images),
                p_text(c.p_adjusted),
                c.n,
                *[rates.get(c.subject, "–")] * bool(rates),
                str(verdict(c)),
            )
        )
    return Table([*header, "p", "pairs", *["diverged"] * bool(rates), "verdict"], rows)
