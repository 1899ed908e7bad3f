"""Check of a report against its runs: the report is computed again and compared with the files."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
import shlex
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.errors import UsageError
from ablations.reporting.html import page
from ablations.reporting.paper import FILES as PAPER
from ablations.reporting.paper import paper
from ablations.reporting.report import compose, pngs, report_folder

if TYPE_CHECKING:
    from ablations.evaluation import Evaluations
    from ablations.reporting.measured import Measured
    from ablations.reporting.tuning.analysis import TuningSources
    from ablations.storage import Results

ROUNDING = 2e-5
"""Tolerated relative difference of two numbers in a CSV; other hardware may change their last digit."""


def differences(
    results: Results,
    out: Path,
    evaluations: Evaluations | None = None,
    about: Measured | None = None,
    tuning: TuningSources | None = None,
    *,
    options: str = "",
) -> list[str]:
    """Return a line for every difference between the `report_folder` and the report computed from the runs.

    `evaluations`, `about` and `tuning` as in `compose`. `options` are added to the command that a message names.

    README.md and LaTeX are compared line by line; a CSV cell by cell, numbers up to `ROUNDING`. Figures are only
    checked to exist, because their bytes depend on the font renderer. report.html, if it exists, must contain the same
    text, tables and figures. paper.md and paper.tex are compared line by line if one of them exists. Raises UsageError
    if there is no report.
    """
    folder = report_folder(results, out, about)
    if not folder.is_dir():
        metric = f" --metric {shlex.quote(about.measure.name)}" if about else ""
        raise UsageError(f"no report in {folder}; write it with: vitab report {results.plan.study}{metric}{options}")
    report = compose(results, evaluations, about, tuning)
    found = list(_text_differences("README.md", _read(folder / "README.md"), report.text))
    for name, expected in report.tables.items():
        differ = _table_differences if name.endswith(".csv") else _text_differences
        found += differ(f"tables/{name}", _read(folder / "tables" / name), expected)
    expected_files = {f"tables/{name}" for name in report.tables}
    expected_figures = {f"figures/{figure.name}.{kind}" for figure in report.figures for kind in ("png", "svg")}
    found += [f"{name}: missing" for name in sorted(expected_figures) if not (folder / name).is_file()]
    if (folder / "report.html").exists():
        tables = {f"tables/{name}": content.encode() for name, content in report.tables.items()}
        expected_page = _short(page(report.text, pngs(folder) | tables))
        found += _text_differences("report.html", _short(_read(folder / "report.html")), expected_page)
    for name, expected in (
        paper(results, report.analysis, report.evaluated, report.tuned).files().items() if _any(folder, PAPER) else ()
    ):
        found += _text_differences(name, _read(folder / name), expected)
    there = {path.relative_to(folder).as_posix() for path in (*folder.glob("tables/*"), *folder.glob("figures/*"))}
    return found + [f"{name}: not part of this report" for name in sorted(there - expected_files - expected_figures)]


def _any(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).exists() for name in names)


def _short(html: str | None) -> str:
    """Return the page with every embedded file replaced by its checksum."""
    return re.sub(
        r"base64,([A-Za-z0-9+/=]+)",
        lambda found: f"sha256 {hashlib.sha256(found[1].encode()).hexdigest()[:8]}",
        html or "",
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return None


def _text_differences(name: str, text: str | None, expected: str) -> Iterator[str]:
    if text is None:
        yield f"{name}: missing"
        return
    old, new = text.splitlines(), expected.splitlines()
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for i in range(max(b - a, d - c)):
            here = repr(old[a + i]) if a + i < b else "nothing"
            there = repr(new[c + i]) if c + i < d else "nothing"
            yield f"{name}, line {min(a + i, b) + 1}: found {here}, expected {there}"
    if old == new and text != expected:
        yield f"{name}: different line ends"


def _table_differences(name: str, text: str | None, expected: str) -> Iterator[str]:
    if text is None:
        yield f"{name}: missing"
        return
    old, new = list(csv.reader(io.StringIO(text))), list(csv.reader(io.StringIO(expected)))
    header = new[0]
    if old[:1] != [header]:
        yield f"{name}: found the columns {','.join(old[0]) if old else 'nothing'}, expected {','.join(header)}"
        return
    if len(old) != len(new):
        yield f"{name}: found {len(old) - 1} rows, expected {len(new) - 1}"
    for row, (mine, theirs) in enumerate(zip(old[1:], new[1:], strict=False), start=1):
        claim = f" (claim: {theirs[header.index('sentence')]})" if "sentence" in header else ""
        if len(mine) != len(header):
            yield f"{name}, row {row}: found {len(mine)} cells, expected {len(header)}{claim}"
            continue
        for column, a, b in zip(header, mine, theirs, strict=True):
            if not _same(a, b):
                yield f"{name}, row {row}, {column}: found {a or 'nothing'}, expected {b or 'nothing'}{claim}"


def _same(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        return math.isclose(float(a), float(b), rel_tol=ROUNDING, abs_tol=1e-9)
    except ValueError:
        return False
