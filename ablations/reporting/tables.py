"""The tables of a report: as data frames (the CSV files), and as tables of text for markdown and LaTeX.

A CSV holds names as they are, because programs read it: a name that begins with `=`, `+`, `-` or `@` is not changed.
Spreadsheets take it for a formula unless the column is imported as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from ablations.config import level_text
from ablations.config.safe_text import bold, code, latex, markdown, shortened
from ablations.reporting.claims_table import contrast_row
from ablations.reporting.findings import more_seeds
from ablations.reporting.formatting import in_unit, interval_cell, mean_interval, number, p_text, points_text
from ablations.statistics import (
    Analysis,
    Contrast,
    Divergence,
    FloatArray,
    Interaction,
    InterimResult,
    Measure,
    OtherImages,
    Outcomes,
    Ranks,
    arm_means,
    verdict,
)

__all__ = [
    "Code",
    "Strong",
    "Table",
    "accuracy_table",
    "arms_table",
    "contrasts_frame",
    "contrasts_table",
    "interactions_frame",
    "interactions_table",
    "main_effects_frame",
    "ranks_frame",
    "ranks_table",
    "rounds_frame",
    "rounds_table",
]


class Strong(str):
    """Bold text in a cell."""


class Code(str):
    """Text in a cell in a font of fixed width."""


@dataclass(frozen=True)
class Table:
    """A table of text: the first `left` columns are aligned left, the others right.

    A cell is a value, or a tuple of parts of which some may be `Strong` or `Code`. Names in the header are shortened.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    left: int = 1

    def __str__(self) -> str:
        """Return the table as GitHub's markdown; `< 0.001` stays on one line."""
        marks = [":--" if i < self.left else "--:" for i in range(len(self.header))]
        lines = [self._header(_markdown), marks, *([_markdown(cell) for cell in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def latex(self) -> str:
        """The table as a `tabular` environment that needs \\usepackage{booktabs}."""
        columns = "".join("l" if i < self.left else "r" for i in range(len(self.header)))
        header, *rows = (
            rf"{' & '.join(line)} \\"
            for line in (self._header(_latex), *([_latex(cell) for cell in row] for row in self.rows))
        )
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule", *rows, r"\bottomrule"]
        return "\n".join([*lines, r"\end{tabular}"]) + "\n"

    def _header(self, write: Callable[[object], str]) -> list[str]:
        return [write(shortened(name)) for name in self.header]


def _markdown(cell: object) -> str:
    return "".join(_parts(cell, markdown, bold, _code_in_table)).replace("< 0", "<\u00a00")


def _code_in_table(text: str) -> str:
    return code(text).replace("|", "\\|")


def _latex(cell: object) -> str:
    return "".join(
        _parts(cell, latex, lambda text: rf"\textbf{{{latex(text)}}}", lambda text: rf"\texttt{{{latex(text)}}}")
    )


def _parts(
    cell: object, text: Callable[[str], str], strong: Callable[[str], str], fixed: Callable[[str], str]
) -> Iterator[str]:
    """The parts of a cell, written; the space before a part is kept."""
    for part in cell if isinstance(cell, tuple) else (cell,):
        write = strong if isinstance(part, Strong) else fixed if isinstance(part, Code) else text
        yield " " * str(part).startswith(" ") + write(str(part))


def word(axis: str) -> str:
    return axis.replace("_", " ")


def accuracy_table(analysis: Analysis) -> Table:
    """Return mean and 95 % interval, settings down and arms across, the best mean of a row in bold.

    If neither direction is better, no mean is bold.

    A cell has its own n if it is smaller than that of the row.
    """
    outcomes, table, m = analysis.outcomes, analysis.cell_means, analysis.outcomes.measure
    arms, cells = len(outcomes.arms), len(outcomes.cells)
    n = table["n"].to_numpy().reshape(arms, cells)
    means = table["mean"].to_numpy().reshape(arms, cells)
    texts = np.empty((arms, cells), dtype=object)
    for i, row in enumerate(table.to_dict("records")):
        arm, cell = divmod(i, cells)
        text = "no run" if row["n"] == 0 else number(row["mean"], m.decimals)
        if row["n"] and arms > 1 and m.higher_is_better is not None and row["mean"] == _best(means[:, cell], m):
            text = Strong(text)
        interval = mean_interval(row["low"], row["high"], m.decimals)
        fewer = outcomes.cell_axes and 0 < row["n"] < n[:, cell].max()
        texts[arm, cell] = (text, f" ({interval})" * bool(interval), f", n = {row['n']}" * bool(fewer))
    names = [outcomes.arm_name(arm) for arm in range(arms)]
    if not outcomes.cell_axes:
        return Table(
            [word(outcomes.axis), in_unit("accuracy" if m.is_accuracy else m.noun, m.unit), "n"],
            [(level_text(level), texts[i, 0], n[i, 0]) for i, level in enumerate(outcomes.arms)],
        )
    return Table(
        [*map(word, outcomes.cell_axes), *names, "n"],
        [(*map(level_text, levels), *texts[:, cell], n[:, cell].max()) for cell, levels in enumerate(outcomes.cells)],
        left=len(outcomes.cell_axes),
    )


def _best(means: FloatArray, measure: Measure) -> float:
    return float(measure.sign * np.nanmax(measure.sign * means))


def arms_table(outcomes: Outcomes) -> Table:
    m = outcomes.measure
    return Table(
        [word(outcomes.axis), in_unit("mean", m.unit), in_unit("interquartile mean", m.unit), "n"],
        [
            (level, *(_number(value, f".{m.decimals}f") for value in means), n)
            for level, *means, n in arm_means(outcomes).itertuples(index=False, name=None)
        ],
    )


def contrasts_frame(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    return pd.DataFrame([contrast_row(contrast) for contrast in contrasts])


def contrasts_table(contrasts: Sequence[Contrast]) -> Table:
    p = "sequential p" if any(c.sequential for c in contrasts) else "p"
    return Table(
        ["arm", "against", "verdict", "difference", "95 % interval", p, "Holm p", "d_z", "P(better)", "pairs"],
        [
            (
                c.subject,
                c.reference,
                _verdict(c),
                _points(c.mean, c.measure.decimals),
                interval_cell(c.low, c.high, c.measure.decimals),
                p_text(c.p),
                p_text(c.p_adjusted),
                _number(c.effect_size, ".2f"),
                _number(c.probability_of_improvement, ".2f"),
                c.n,
            )
            for c in contrasts
        ],
        left=3,
    )


def divergence_frame(found: Sequence[Divergence]) -> pd.DataFrame:
    return pd.DataFrame([asdict(each) | {"keys": " ".join(key[:16] for key in each.keys)} for each in found])


def divergence_table(axis: str, found: Sequence[Divergence]) -> Table:
    base = found[0].baseline
    return Table(
        [word(axis), "diverged", "runs", "share in %", "95 % interval", "only this arm", f"only {base}", "p", "Holm p"],
        [
            (
                each.arm,
                each.diverged,
                each.runs,
                _number(each.share, ".1f"),
                mean_interval(each.low, each.high) or "–",
                *(("–", "–") if each.is_baseline else (each.only_arm, each.only_baseline)),
                p_text(each.p),
                p_text(each.p_adjusted),
            )
            for each in found
        ],
    )


def other_images_table(found: Sequence[OtherImages]) -> Table:
    return Table(
        ["arm", "against", "difference", "over other seeds", "over other seeds and images", "error of images"],
        [
            (
                each.subject,
                each.reference,
                _points(each.mean),
                interval_cell(each.seeds_low, each.seeds_high),
                interval_cell(each.low, each.high),
                f"{each.error:.2f}" if each.error else "–",
            )
            for each in found
        ],
        left=2,
    )


def interactions_frame(found: Sequence[Interaction]) -> pd.DataFrame:
    drop = ("probability_of_improvement", "pairs_ahead")
    return pd.DataFrame(
        [
            {
                "axis": i.axis,
                "from_level": i.from_level,
                "level": i.level,
                "from_lead": i.from_lead,
                "lead": i.lead,
                **{name: value for name, value in contrast_row(i.change).items() if name not in drop},
            }
            for i in found
        ]
    )


def interactions_table(found: Sequence[Interaction]) -> Table:
    p = "sequential p" if any(i.change.sequential for i in found) else "p"
    return Table(
        [
            "arm",
            "from",
            "to",
            "difference (from)",
            "difference (to)",
            "change",
            "95 % interval",
            p,
            "joint p",
            "blocks",
        ],
        [
            (
                i.change.subject,
                f"{word(i.axis)} {i.from_level}",
                f"{word(i.axis)} {i.level}",
                *(_points(value, i.change.measure.decimals) for value in (i.from_lead, i.lead, i.change.mean)),
                interval_cell(i.change.low, i.change.high, i.change.measure.decimals),
                p_text(i.change.p),
                p_text(i.change.p_adjusted),
                i.change.n,
            )
            for i in found
        ],
        left=3,
    )


def main_effects_frame(effects: Mapping[str, Sequence[Contrast]]) -> pd.DataFrame:
    """Return the contrasts of the other axes, the axis in the first column."""
    return pd.DataFrame([{"axis": axis} | contrast_row(c) for axis, found in effects.items() for c in found])


def ranks_frame(ranks: Ranks | None) -> pd.DataFrame:
    """Return a row for each arm; the number of cells, Friedman's p and the critical difference are the same in all."""
    if ranks is None:
        return pd.DataFrame()
    rows = sorted(zip(ranks.mean_ranks, ranks.arms, strict=True))
    shared = {"cells": ranks.cells, "friedman_p": ranks.p, "critical_difference": ranks.critical}
    return pd.DataFrame([{"arm": arm, "mean_rank": rank} | shared for rank, arm in rows])


def ranks_table(ranks: Ranks) -> Table:
    rows = sorted(zip(ranks.mean_ranks, ranks.arms, strict=True))
    return Table(["arm", "mean rank"], [(arm, f"{rank:.2f}") for rank, arm in rows])


def rounds_frame(looks: Sequence[InterimResult]) -> pd.DataFrame:
    return pd.DataFrame([asdict(look) for look in looks])


def rounds_table(looks: Sequence[InterimResult]) -> Table:
    return Table(
        ["round", "seeds", "arm", "pairs", "difference", "Holm p", "equivalence p", "verdict"],
        [
            (
                look.round,
                look.seeds,
                look.arm,
                look.n,
                _points(look.mean),
                p_text(look.p_adjusted),
                p_text(look.p_equivalence),
                str(look.verdict),
            )
            for look in looks
        ],
        left=3,
    )


def _verdict(c: Contrast) -> str:
    text = str(verdict(c))
    more = more_seeds(c)
    return f"{text}, +{more} seed{'s' * (more != 1)}" if text == "undecided" and more else text


def _points(value: float, decimals: int = 1) -> str:
    return points_text(value, decimals) if np.isfinite(value) else "–"


def _number(value: float, form: str) -> str:
    return f"{value:{form}}".replace("-", "−") if np.isfinite(value) else "–"
