"""Text for a paper: methods, results, a table, threats to validity and checklist answers, as markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from ablations.reporting.formatting import interval_cell, interval_text, listed, p_text, points_text
from ablations.reporting.method import method
from ablations.reporting.tables import Table, word
from ablations.reporting.wording import sentence
from ablations.statistics import ALPHA, MARGIN, Analysis, verdict

if TYPE_CHECKING:
    from ablations.storage import Results

FILES = ("paper.md", "paper.tex")

DUPLICATES = {
    "cifar10": "About 3 % of the test images of CIFAR-10 have near-duplicates in its training set (Barz and Denzler "
    "2020).",
    "cifar100": "About 10 % of the test images of CIFAR-100 have near-duplicates in its training set (Barz and Denzler "
    "2020).",
}
FEW_SEEDS = 5

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


def paper(results: Results, analysis: Analysis) -> Paper:
    """Return the text for a paper from the runs of a study; the same runs give the same text."""
    study = facts(results, analysis)
    return Paper(
        title=results.plan.question,
        methods=_methods(results, analysis),
        results=_results(analysis),
        caption=_caption(analysis),
        table=_table(analysis),
        threats=_threats(results, analysis, study),
        checklist=_checklist(results, study),
    )


def _methods(results: Results, analysis: Analysis) -> str:
    varied, *described = (re.sub(r"^[^.]*\.\s", "", plain(text), count=1) for text in method(results))
    text = " ".join([f"The study varies {varied[0].lower()}{varied[1:]}", *described])
    if not analysis.contrasts:
        return text
    growth, single = analysis.growth is not None, len(analysis.outcomes.seeds) == 1
    noise = "" if single else ", divided by its standard error from the variance between seeds within settings"
    rounds = ", repeated after each round with alpha spending" if growth else ""
    text += (
        " Arms are compared by paired differences in test accuracy, averaged over the seeds of each setting and then "
        f"over settings. p is that of a sign-flip permutation test of this mean{noise}{rounds}, adjusted by Holm's "
        f"correction; a difference is significant if the adjusted p is at most {ALPHA:g}. Two arms are equivalent if "
        f"two one-sided {'sign-flip tests' if growth else 't-tests'} show that the difference is within {MARGIN:g} "
        "points."
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


def _subject(finding: Finding) -> object:
    """Return what a finding is about."""
    return finding.interaction if isinstance(finding, InteractionFinding) else getattr(finding, "contrast", None)


def _caption(analysis: Analysis) -> str:
    outcomes = analysis.outcomes
    axes = f" averaged over {listed(list(map(word, outcomes.cell_axes)))}," if outcomes.cell_axes else ""
    return (
        f"Paired differences in test accuracy from {outcomes.arm_name(outcomes.baseline)} in percentage points,{axes} "
        "with 95 % intervals and p adjusted by Holm's correction."
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
                points_text(c.mean) if c.n else "–",
                interval_cell(c.low, c.high),
                *[interval_cell(both.low, both.high) if both else "–"] * bool(images),
                p_text(c.p_adjusted),
                c.n,
                *[rates.get(c.subject, "–")] * bool(rates),
                str(verdict(c)),
            )
        )
    return Table([*header, "p", "pairs", *["diverged"] * bool(rates), "verdict"], rows)


def _threats(results: Results, analysis: Analysis, study: dict[str, Any]) -> list[tuple[str, str]]:
    outcomes, runs = analysis.outcomes, results.runs
    axes = {outcomes.axis, *outcomes.cell_axes}
    found: list[tuple[str, str]] = []
    fewest = int(study["seeds_fewest"])
    text = f"Each setting has {count(fewest, 'seed')}{' or more' if fewest < int(study['seeds']) else ''}."
    if fewest == 1:
        text += " One seed does not show the spread between seeds."
    elif fewest < FEW_SEEDS:
        text += " So few seeds say little about rare bad runs."
    found.append(("Seeds", text))
    data = list(dict.fromkeys(map(str, runs["data"])))
    if len(data) == 1:
        found.append(("Datasets", f"All runs use one dataset ({data[0]}); the results may differ on others."))
    else:
        found.append(("Datasets", f"The runs use {len(data)} datasets ({listed(data)})."))
    if analysis.other_images:
        errors = listed([f"{each.error:.2f} for {each.subject}" for each in analysis.other_images])
        found.append(
            (
                "Test set",
                f"The test set has {analysis.other_images[0].images:,} images. The choice of these images alone adds a "
                f"standard error, in points, of {errors}.",
            )
        )
    known = [DUPLICATES[name] for name in data if name in DUPLICATES]
    unknown = [name for name in data if name not in DUPLICATES]
    if unknown:
        known.append(f"Not checked for test images that also occur in the training set: {', '.join(unknown)}.")
    found.append(("Duplicates", " ".join(known)))
    if "learning_rate" not in axes:
        found.append(
            (
                "Tuning",
                "Hyperparameters were not tuned for each arm: all arms share those of the methods section, which may "
                "suit some arms better than others.",
            )
        )
    sizes = _range(runs["parameters"].min(), runs["parameters"].max())
    epochs = _range(runs["epochs"].min(), runs["epochs"].max())
    found.append(
        (
            "Scale",
            f"The models have {sizes} parameters and were trained for {epochs} epochs; larger models or longer "
            "training may behave differently.",
        )
    )
    precisions = sorted(set(map(str, runs["precision"]))) if "precision" in runs else ["float32"]
    if precisions != ["float32"]:
        found.append(("Precision", f"Matrix products were computed in {listed(precisions)}."))
    for what, name in (("processors", "cpu"), ("package versions", "packages")):
        values = {str(environment.get(name)) for environment in results.environments.values()}
        if len(values) > 1:
            found.append(("Machines", f"The runs were trained with {len(values)} different {what}."))
    if results.missing:
        found.append(
            (
                "Missing runs",
                f"{len(results.missing)} of {len(results.plan.keys)} planned runs have no result; the analysis assumes "
                "that they are missing at random.",
            )
        )
    if analysis.divergences:
        number = sum(each.diverged for each in analysis.divergences)
        found.append(
            (
                "Divergence",
                f"{count(number, 'run')} diverged and counts with chance accuracy; other rules give other differences."
                if number == 1
                else f"{number} runs diverged and count with chance accuracy; other rules give other differences.",
            )
        )
    if analysis.growth:
        found.append(
            (
                "Early stopping",
                "Seeds were added in rounds until contrasts were decided. The tests account for this, but estimates of "
                "arms that were decided early are biased away from zero.",
            )
        )
    families = 1 + bool(analysis.interactions) * len(analysis.interactions)
    if families > 1:
        found.append(
            (
                "Several families",
                f"p is adjusted within each family of comparisons, not over the {families} families of contrasts and "
                "changes together.",
            )
        )
    return found


def _checklist(results: Results, study: dict[str, Any]) -> list[tuple[str, str]]:
    """Return answers to the items of the NeurIPS paper checklist that follow from the runs."""
    environments = list(results.environments.values())
    git = [each["git"] for each in environments if each.get("git")]
    commits = sorted({str(state["commit"])[:12] for state in git})
    digests = sorted({str(each["data_sha256"])[:16] for each in environments if each.get("data_sha256")})
    machines = sorted({str(name) for each in environments for name in (each.get("cpu"), *each.get("gpus", ())) if name})
    code = f"Code: commit {listed(commits)}" if commits else "Code: digests of all sources are recorded with each run"
    changed = ", with uncommitted changes" if any(state.get("dirty") for state in git) else ""
    data = f"; data: SHA-256 {listed(digests)}" if digests else ""
    hardware = f" on {listed(machines)}" if machines else ""
    return [
        (
            "Experimental result reproducibility",
            f"Yes. The command {results.plan.command} trains the runs again; each run stores its configuration, seed, "
            "code digest, package versions, predictions and weights with checksums.",
        ),
        ("Open access to data and code", f"{code}{changed}{data}."),
        (
            "Experimental setting and details",
            "Yes. The methods section gives data splits, hyperparameters, optimizer and the selection of seeds; no "
            "hyperparameter was chosen on the test set, which each run uses once.",
        ),
        (
            "Experiment statistical significance",
            "Yes. Intervals and tests are over seeds, with the methods stated; the number of pairs is given with each "
            "result.",
        ),
        (
            "Experiments compute resources",
            f"Yes. {count(int(study['runs_finished']), 'run')}{hardware}, {study['run_hours']:.2f} hours of run time "
            f"and {study['training_teraflops']:.2f} TFLOPs of training in total.",
        ),
    ]


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
