"""The table of claims: a row for each finding with the numbers of its sentence and the keys of its runs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ablations.config.safe_text import plain
from ablations.reporting.findings import (
    BestCellFinding,
    DivergenceFinding,
    Finding,
    InteractionFinding,
    NoInteractionFinding,
    SummaryFinding,
    more_seeds,
)
from ablations.reporting.wording import sentence
from ablations.statistics import Contrast, Interaction, verdict

COLUMNS = (
    *("kind", "verdict", "subject", "reference", "axis", "from_level", "level", "from_lead", "lead", "estimate", "low"),
    *("high", "p", "p_adjusted", "correction", "p_smallest", "p_adjusted_smallest", "p_equivalence", "n", "settings"),
    *("settings_planned", "pairs_ahead", "seeds", "more_seeds", "tested", "sentence", "runs"),
)
DIVERGENCE_COLUMNS = (
    *("diverged", "diverged_runs", "diverged_share", "diverged_low", "diverged_high", "diverged_pairs", "diverged_p"),
    *("diverged_p_adjusted", "reference_diverged", "reference_runs"),
)
"""Columns that are there only if a run diverged."""


def findings_table(found: Sequence[Finding]) -> pd.DataFrame:
    """Return the findings as rows; every number of a sentence is in its row."""
    rows = [_row(finding) | {"sentence": plain(sentence(finding))} for finding in found]
    sequential = any("seeds_needed" in row for row in rows)
    columns = ["seeds_needed" if sequential and name == "more_seeds" else name for name in COLUMNS]
    if any(isinstance(finding, DivergenceFinding) for finding in found):
        columns[-2:-2] = DIVERGENCE_COLUMNS
    return pd.DataFrame(rows).reindex(columns=columns)


def contrast_row(c: Contrast) -> dict[str, object]:
    """Return a contrast as a row of a CSV; the keys of runs are cut to the 16 characters of their folders."""
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
        "runs": _run_names(c.runs),
    }


def _row(finding: Finding) -> dict[str, object]:
    row: dict[str, object] = {"kind": type(finding).__name__.removesuffix("Finding"), "verdict": str(finding.verdict)}
    if isinstance(finding, BestCellFinding):
        row |= {"subject": finding.name, "estimate": finding.mean, "low": finding.low, "high": finding.high}
        return row | {"n": finding.n, "tested": finding.means, "runs": _run_names(finding.runs)}
    if finding.contrast is not None:
        row |= contrast_row(finding.contrast)
    if isinstance(finding, SummaryFinding):
        row |= _interaction_cells(finding.changes[0]) if finding.changes else {}
        row["runs"] = _run_names(finding.runs)
    if isinstance(finding, InteractionFinding):
        row |= _interaction_cells(finding.interaction)
    if isinstance(finding, DivergenceFinding):
        d = finding.divergence
        row |= {"verdict": finding.verdict, "subject": d.arm, "reference": finding.baseline.arm}
        row |= {"diverged": d.diverged, "diverged_runs": d.runs, "diverged_share": d.share}
        row |= {"diverged_low": d.low, "diverged_high": d.high, "diverged_pairs": d.pairs, "diverged_p": d.p}
        row |= {"diverged_p_adjusted": d.p_adjusted, "runs": _run_names(sorted({*d.keys, *finding.baseline.keys}))}
        row |= {"reference_diverged": finding.baseline.diverged, "reference_runs": finding.baseline.runs}
    if isinstance(finding, NoInteractionFinding):
        row |= {"axis": finding.axis, "tested": len(finding.tested)}
    return row


def _interaction_cells(i: Interaction) -> dict[str, object]:
    names = ("axis", "from_level", "level", "from_lead", "lead")
    return {name: getattr(i, name) for name in names}


def _run_names(keys: Sequence[str]) -> str:
    return " ".join(key[:16] for key in keys)
