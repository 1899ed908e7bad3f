"""Tables for a paper: the markdown tables of a report as LaTeX with booktabs, one source for both."""

from __future__ import annotations

import re

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "–": "--",
}


def latex(*tables: str) -> str:
    """Markdown tables as `tabular` environments that need \\usepackage{booktabs}, one after the other."""
    return "\n".join(map(_tabular, tables))


def _tabular(table: str) -> str:
    header, marks, *rows = (_cells(line) for line in table.splitlines())
    columns = "".join("r" if mark.endswith(":") else "l" for mark in marks)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _row(header), r"\midrule", *map(_row, rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _cells(line: str) -> list[str]:
    """The cells of a line of a markdown table, with what `tables.escape` escaped put back."""
    inside = line.strip().removeprefix("|").removesuffix("|")
    cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inside)]
    return [cell.replace("&lt;", "<").replace("&amp;", "&").replace("\u00a0", " ") for cell in cells]


def _row(cells: list[str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    escaped = "".join(_SPECIAL.get(character, character) for character in text)
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", escaped)
