"""Reports of small made-up studies, compared with those that were read and committed: golden/make_report.py."""

import re
from pathlib import Path

import pandas as pd
import pytest

from ablations.reporting.check import differences
from tests.golden.make_report import STUDIES

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("study", STUDIES)
def test_the_report_is_the_golden_one(study):
    found = differences(STUDIES[study](), GOLDEN / "report")
    assert [line for line in found if not re.fullmatch(r"figures/\w+\.(png|svg): missing", line)] == []


@pytest.mark.parametrize("study", STUDIES)
def test_every_number_of_the_golden_findings_is_in_a_csv(study):
    folder = GOLDEN / "report" / study
    text = (folder / "README.md").read_text(encoding="utf-8")
    findings = text.split("## Answer")[1].split("## Accuracy")[0]
    findings = re.sub(r"^\[?!.*\n|^\*[^*].*$", "", findings, flags=re.M)  # without the figure
    assert findings.count("\n- ") >= 4
    table = pd.read_csv(folder / "tables" / "claims.csv")
    known = pd.to_numeric(table.drop(columns=["sentence", "runs"]).stack(), errors="coerce").abs().dropna()
    names = {"2", "4"}  # patch 2, patch 4
    for number in re.findall(r"\d[\d,]*\.?\d*", re.sub(r"95 % interval|< 0\.001", "", findings)):
        digits = len(number.partition(".")[2])
        assert number in names or number in {f"{value:.{digits}f}" for value in known}, number
